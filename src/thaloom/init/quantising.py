"""Quantising a model: a process of its own does it, its memory is booked, and its end is ours.

The process ends with us: it gives up when nobody reads its progress any more. Whoever stops waiting ends it, and what
it had begun is swept away.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import json
import sys
from collections.abc import Callable
from typing import Any

from thaloom.base.errors import InternalError, OutOfMemory, ThaloomError
from thaloom.base.events import Emit
from thaloom.base.ids import ServiceName, WorkerId
from thaloom.base.units import format_bytes
from thaloom.init.layout import Layout
from thaloom.init.node_memory import NodeMemory
from thaloom.init.placement import Placement, Planner
from thaloom.init.supervisor import Supervisor
from thaloom.kernel.models.events import ModelQuantised
from thaloom.kernel.models.store import ModelStore
from thaloom.kernel.models.types import Manifest, QuantiseWish
from thaloom.kernel.state.types import ServiceSpec

OnProgress = Callable[[str, int, int | None], None]
_GRACE_S = 5.0
"""What the process may take to put its things away."""
_LINE_BYTES = 1024 * 1024


class Quantising:
    """One at a time: two would only take each other's processors."""

    def __init__(
        self,
        layout: Layout,
        *,
        models: ModelStore,
        planner: Planner,
        memory: NodeMemory,
        supervisor: Supervisor,
        emit: Emit,
    ) -> None:
        self._layout = layout
        self._models = models
        self._planner = planner
        self._memory = memory
        self._supervisor = supervisor
        self._emit = emit
        self._turn = asyncio.Lock()
        self._serial = itertools.count()

    async def quantise(self, wish: QuantiseWish, progress: OnProgress) -> Manifest:
        """Raises what the process says, and OutOfMemory. Cancelling ends it; nothing half-done stays behind."""
        async with self._turn:
            plan = await self._planner.make(ServiceSpec(name=ServiceName("quantise"), model=str(wish.model)))
            owner = WorkerId(f"quantise-{next(self._serial)}")
            self._book(owner, plan)
            try:
                await self._run(self._spec(wish), progress)
            finally:
                self._memory.release(owner)
        manifest = await asyncio.to_thread(self._models.get, wish.name)
        self._tell(manifest)
        return manifest

    def _spec(self, wish: QuantiseWish) -> dict[str, Any]:
        names = {"model": str(wish.model), "name": str(wish.name)}
        return dataclasses.asdict(wish) | names | {"store": str(self._layout.models)}

    def _book(self, owner: WorkerId, plan: Placement) -> None:
        """Its weights, for as long as it runs; what it computes with is small."""
        needed = dataclasses.replace(plan.estimate, kv_bytes=0)
        free = self._memory.free_bytes(self._supervisor)[plan.device]
        if needed.total_bytes > free:
            raise OutOfMemory(
                f"it needs {format_bytes(needed.total_bytes)}, {format_bytes(free)} of {plan.device!r} are free",
                device=plan.device,
                needed_bytes=needed.total_bytes,
                free_bytes=free,
            )
        self._memory.reserve(owner, plan.device, needed)

    async def _run(self, spec: dict[str, Any], progress: OnProgress) -> None:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-P", "-m", "thaloom.quantiser", "--spec", json.dumps(spec),
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, limit=_LINE_BYTES, start_new_session=True,
        )  # fmt: skip
        try:
            last = await _listen(process, progress)
            await process.wait()
        finally:
            if process.returncode is None:
                await _end(process)
                await asyncio.to_thread(self._models.sweep)
        if "error" in last:
            raise ThaloomError.from_dict(last["error"])
        if "model" not in last:
            await asyncio.to_thread(self._models.sweep)
            raise InternalError(f"the quantiser ended with code {process.returncode} and without a word")

    def _tell(self, manifest: Manifest) -> None:
        made = manifest.card.quantisation
        quality = None if made is None else made.quality
        self._emit(
            ModelQuantised(
                model=str(manifest.name),
                digest=manifest.digest,
                original="" if made is None else made.original,
                perplexity=None if quality is None else quality.perplexity,
                original_perplexity=None if quality is None else quality.original_perplexity,
            )
        )


async def _listen(process: asyncio.subprocess.Process, progress: OnProgress) -> dict[str, Any]:
    """The last thing it says that is no progress; empty if it ends without."""
    assert process.stdout is not None
    last: dict[str, Any] = {}
    async for line in process.stdout:
        said = json.loads(line)
        if "stage" in said:
            progress(said["stage"], said["done"], said["total"])
        else:
            last = said
    return last


async def _end(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        async with asyncio.timeout(_GRACE_S):
            await process.wait()
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
