"""Optimizer states, weights and activations of a training job that are larger than the memory it was given.

They lie in tiers (kernel.memory.tiers) and come into the slice for the use that needs them. While the caller computes
in one use, a thread writes back what the use before changed and brings up what the next one needs, which is known from
the schedule. Uses take turns at the two ends of the slice, so that what comes never waits for a gap of the right size.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from thaloom.base.errors import CorruptObject, DeadlineExceeded, OutOfMemory
from thaloom.hal.arena import Arena
from thaloom.hal.driver import Buffer
from thaloom.kernel.memory.states.planning import Array, Use, plan
from thaloom.kernel.memory.tiers.store import TieredStore
from thaloom.kernel.memory.tiers.types import UNIT_BYTES

WAIT_S = 60.0
"""For a disk to take what is in the way of what is written back; a healthy one needs a thousandth of it."""


class Slice(Buffer, Protocol):
    """Memory of a device that this process sees as bytes."""

    @property
    def data(self) -> NDArray[np.uint8]: ...


@dataclass(slots=True, eq=False)
class _Window:
    """The arrays of one use in the slice."""

    use: Use
    at_end: bool
    arrays: dict[str, NDArray[Any]]
    late: tuple[str, ...]
    """To be loaded once the use before is over, which changes them."""
    loads: list[Future[None]] = field(default_factory=list)


class States:
    """For one thread. The slice and the store belong to the caller, who frees them after `close`; the store is nobody
    else's."""

    def __init__(
        self, arrays: Mapping[str, Array], schedule: Sequence[Use], *, memory: Slice, store: TieredStore
    ) -> None:
        """The schedule is one round of uses, which comes again and again. Raises OutOfMemory where one of them does not
        fit into the slice, or all arrays into the store: by how much."""
        self._arrays = dict(arrays)
        self._schedule = {use.name: use for use in schedule}
        bounds = store.bounds
        self._plan = plan(
            arrays,
            schedule,
            slice_bytes=memory.num_bytes,
            host_bytes=bounds["host"],
            disk_bytes=bounds["disk"],
        )
        self._after = dict(zip(self._schedule, [*schedule[1:], schedule[0]], strict=True))
        self._memory, self._store = memory, store
        self._kept: set[str] = set()
        self._zeros = set(arrays)
        """Never written."""
        self._current: _Window | None = None
        self._next: _Window | None = None
        self._failure: BaseException | None = None
        self._mover = ThreadPoolExecutor(1, thread_name_prefix="states")

    @contextlib.contextmanager
    def using(self, name: str) -> Iterator[dict[str, NDArray[Any]]]:
        """The arrays of that use, by name: valid until the block ends, and what is to be kept is kept if it ends well.
        Any order is right; that of the schedule is quick.

        Raises CorruptObject if a disk spoiled an array, OutOfMemory if there was no room for what a use before this one
        changed: the job cannot go on from here. ValueError for an array that was taken and not written since.
        """
        window = self._enter(self._schedule[name])
        after = self._after[name]
        if after is not window.use and self._plan.fit_together(window.use, after, self._memory.num_bytes):
            self._next = self._open(after, at_end=not window.at_end, before=window.use)
        self._current = window
        try:
            yield window.arrays
        except BaseException:
            self._leave({}, ())
            raise
        self._leave({name: window.arrays[name] for name in window.use.kept}, window.use.takes)

    def put(self, name: str, values: NDArray[Any]) -> None:
        """What an array holds from now on; not while it is used. Raises as `using` does, and ValueError for another
        shape or type."""
        array = self._arrays[name]
        if values.shape != array.shape or values.dtype != np.dtype(array.dtype):
            raise ValueError(f"{name!r} is {array.dtype} of {array.shape}, not {values.dtype} of {values.shape}")
        self._forget_next()
        self._mover.submit(self._keep, name, np.ascontiguousarray(values)).result()

    def get(self, name: str) -> NDArray[Any]:
        """A copy; not while it is used. Raises as `using` does."""
        array = self._arrays[name]
        values = np.empty(array.shape, array.dtype)
        self._mover.submit(self._load, name, values).result()
        return values

    def close(self) -> None:
        """Harmless when repeated."""
        self._mover.shutdown(cancel_futures=True)
        for name in self._kept:
            self._store.drop(name.encode())
        self._kept.clear()

    def _enter(self, use: Use) -> _Window:
        if self._current is not None:
            raise ValueError(f"{self._current.use.name!r} is still in use")
        if self._next is not None and self._next.use is not use:
            self._forget_next()
        window = self._next or self._open(use, at_end=False, before=None)
        self._next = None
        for load in window.loads:
            load.result()
        return window

    def _leave(self, kept: Mapping[str, NDArray[Any]], taken: Sequence[str]) -> None:
        self._current = None
        self._mover.submit(self._close_use, kept, taken)
        if self._next is not None:
            self._load_all(self._next, self._next.late)

    def _open(self, use: Use, *, at_end: bool, before: Use | None) -> _Window:
        """Begin to load what `before`, which is going on, does not change."""
        need = self._plan.need_bytes[use.name]
        offset = (self._memory.num_bytes - need) // UNIT_BYTES * UNIT_BYTES if at_end else 0
        arena = Arena(need, offset=offset)
        arrays = {name: self._place(arena, self._arrays[name]) for name in use.names}
        changed = () if before is None else before.kept + before.takes
        window = _Window(use, at_end, arrays, tuple(name for name in use.loaded if name in changed))
        window.loads.append(self._mover.submit(self._go_on))  # whatever lay there has been written back by then
        self._load_all(window, [name for name in use.loaded if name not in changed])
        return window

    def _place(self, arena: Arena, array: Array) -> NDArray[Any]:
        begin = arena.take(array.taken_bytes)
        return self._memory.data[begin : begin + array.num_bytes].view(array.dtype).reshape(array.shape)

    def _load_all(self, window: _Window, names: Sequence[str]) -> None:
        for name in names:
            window.loads.append(self._mover.submit(self._load, name, window.arrays[name]))

    def _forget_next(self) -> None:
        """What was loaded ahead is not wanted, or not true any more."""
        if self._next is not None:
            for load in self._next.loads:
                load.exception()
            self._next = None

    # From here on: in the order they were asked for, by the thread that moves.

    def _load(self, name: str, into: NDArray[Any]) -> None:
        self._go_on()
        if name in self._zeros:
            into.fill(0)
        elif name not in self._kept:
            raise ValueError(f"{name!r} was taken, and nobody wrote it since")
        elif not self._store.read(name.encode(), into.reshape(-1).view(np.uint8).data):
            if self._store.where(name.encode()) is not None:
                raise DeadlineExceeded(f"{name!r} lies on a disk that does not answer")
            raise CorruptObject(f"{name!r} is lost: the disk did not give back what was written")

    def _close_use(self, kept: Mapping[str, NDArray[Any]], taken: Sequence[str]) -> None:
        try:
            for name, array in kept.items():
                self._keep(name, array)
        except BaseException as error:
            self._failure = error  # told to whoever comes next: nobody waits for this
            raise
        for name in taken:
            self._store.drop(name.encode())
            self._kept.discard(name)

    def _keep(self, name: str, values: NDArray[Any]) -> None:
        self._go_on()
        data = values.reshape(-1).view(np.uint8).data
        if not self._store.put(name.encode(), data, worth=self._plan.worth[name], keep=True, wait_s=WAIT_S):
            raise OutOfMemory(f"the tiers took no more, and {name!r} is lost", needed_bytes=len(data))
        self._zeros.discard(name)
        self._kept.add(name)

    def _go_on(self) -> None:
        if self._failure is not None:
            raise self._failure
