"""The driver contract: what a chip must offer to join.

A driver is one small object with no state of its own worth keeping. Life of it:

1. *Probe.* `probe()` lists devices from what the kernel already tells (sysfs, /proc): no vendor import, no child
   process, no exception, under 50 ms, the same ids every time. Hardware that is not there gives an empty list.
2. *Read.* `read(device)` gives one Reading. What the device cannot report is None.
3. *Open.* In the worker's process, and only there, `open(device)` imports whatever is heavy and returns a
   `Backend`: the right to run programs on that device, with a stated number of threads.
4. *Compile.* `Backend.compile(program, weights, limits)` packs weights, picks kernels, and states how much scratch
   and how many bytes for each block of 16 tokens it needs. It allocates nothing else behind the ledger's back.
5. *Bind.* The engine allocates the block pool with `Backend.allocate` (so the ledger knows) and hands it over with
   `Executable.bind_pool`. The layout inside a block is the driver's own secret; block i is always bytes
   [i * block_bytes, (i + 1) * block_bytes) of the pool, for all layers together.
6. *Run.* `Executable.run(step)` is one call for the whole forward pass. Blocking; it releases the interpreter lock.
   One call at a time per Executable.

A driver states for each operator at which level it runs it (`Support`). Optional powers are Protocols of their own
and not methods that raise.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from thaloom.base.ids import DeviceId
from thaloom.hal.draws import Draw, Drawn
from thaloom.hal.ops import Program, Step
from thaloom.hal.tensors import QuantTensor, Tensor
from thaloom.hal.types import Device, DType, Link, Reading, Support, WeightFormat

ABI = 1
ALIGNMENT = 256
"""Memory of a device begins at a multiple of so many bytes, and so does every piece of it (hal.arena): what vector
units, caches and the copy engines of accelerators ask for at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The largest step that will ever be run, so that scratch is allocated once."""

    max_rows: int
    max_sequences: int
    max_context: int
    """Tokens of the longest sequence; block tables have ceil(max_context / 16) columns."""
    kv_dtype: DType = "f32"
    weight_format: WeightFormat = "stored"
    """What becomes of matrices that come in floats, as hal.quantise.formats says. A QuantTensor stays what it is,
    whatever this says."""
    max_outputs: int | None = None
    """Results in one step that memory is set aside for; a step may ask for more, up to `max_rows`, and the device's
    budget pays for it then. None: one for each sequence."""

    def __post_init__(self) -> None:
        if min(self.max_rows, self.max_sequences, self.max_context) < 1:
            raise ValueError(f"limits must be positive: {self}")


class WeightSource(Protocol):
    """Where a program's weights come from. Reading may verify digests and raises CorruptObject if they differ."""

    def names(self) -> Iterable[str]: ...

    def read(self, name: str) -> Tensor | QuantTensor:
        """One tensor, whole. Raises MalformedFile if the model has no such tensor."""
        ...


@runtime_checkable
class KeepsPacked(Protocol):
    """Optional power of a WeightSource: has a place on disk for what a driver makes of the weights, so that it is made
    once. The place may vanish at any time; whatever lies there is to be checked, and made again if it is no use."""

    def packed_path(self, layout: str) -> Path:
        """A file in a folder that exists. `layout` names all that decides its bytes besides the weights themselves.
        Raises OSError."""
        ...

    def packed_lost(self, reason: str) -> None:
        """To be told: what lay there was of no use, or nothing could be put there. Loading goes on without it."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """A memory file (base.memory_files) for packed weights, by descriptors that belong to the source."""

    reader: int
    """Opened for reading. What it holds is whole once it is sealed."""
    blank: int | None = None
    """The same file, empty and opened for writing, where this process is to fill and seal it."""


@runtime_checkable
class SharesPacked(KeepsPacked, Protocol):
    """Optional power of a source that keeps what was packed: has memory for it that other processes use as well, and
    that is there when this one has ended."""

    def shared(self) -> Shared | None:
        """None where nothing is to be shared. Where another process is filling it, blocks until it has done so or has
        given up. Raises what ends the loading."""
        ...

    def not_shared(self, reason: str) -> None:
        """To be told: the memory was there and could not be used. Loading goes on in memory of its own."""
        ...


class Buffer(Protocol):
    """Memory of the device. Its owner frees it; using it afterwards is an error of ours."""

    @property
    def num_bytes(self) -> int: ...
    def free(self) -> None: ...


@runtime_checkable
class ElasticBuffer(Buffer, Protocol):
    """A Buffer whose end comes and goes: of the `capacity_bytes` it has addresses for, the first `num_bytes` have
    memory. Its owner alone resizes it, and not while something is computed in it."""

    @property
    def capacity_bytes(self) -> int: ...

    @property
    def page_bytes(self) -> int:
        """In units of which memory comes and goes."""
        ...

    def resize(self, num_bytes: int) -> None:
        """Have memory for the first `num_bytes`, rounded up to whole pages. What lies beyond goes back to the system at
        once, and is zero if it ever comes again. Raises OutOfMemory, and then nothing has changed."""
        ...


class Executable(Protocol):
    """A program made ready for one device."""

    @property
    def block_bytes(self) -> int:
        """Bytes the keys and values of 16 tokens take over all layers."""
        ...

    @property
    def weight_bytes(self) -> int:
        """Bytes the packed weights hold."""
        ...

    @property
    def scratch_bytes(self) -> int:
        """Bytes of scratch, allocated once by compile."""
        ...

    def bind_pool(self, pool: Buffer, num_blocks: int) -> None:
        """Use `pool` for keys and values from now on. The caller keeps owning it and frees it after `close`."""
        ...

    def run(self, step: Step) -> NDArray[np.float32]:
        """Result of the last instruction, (num_outputs, width): valid until the next run. Of a step that is `greedy`
        and an executable that SamplesNatively it may be (num_outputs, 0).

        Raises ValueError for a step that breaks the contract (too many rows, a block outside the pool, a token
        outside the vocabulary ...) before anything is written; DeviceLost if the device went away.
        """
        ...

    def copy_block(self, source: int, target: int) -> None:
        """Make block `target` hold what block `source` holds."""
        ...

    def close(self) -> None:
        """Give everything back except the pool."""
        ...


@runtime_checkable
class HoldsShared(Protocol):
    """Optional power of an Executable: some of its weights lie in memory that other processes use as well."""

    @property
    def shared_weight_bytes(self) -> int:
        """So many of `weight_bytes`."""
        ...


@runtime_checkable
class MovesBlocks(Protocol):
    """Optional power of an Executable: what a block of its pool holds can leave the device and come back, to the same
    block or another, as `block_bytes` bytes whose meaning is the driver's own secret. Not while a step runs."""

    def read_block(self, block: int, into: memoryview) -> None:
        """Copy a block out. Raises ValueError for a block outside the pool, or a target of another size."""
        ...

    def write_block(self, block: int, data: memoryview) -> None:
        """Make the block hold, bit for bit, what one held when it was read. Raises ValueError as `read_block`."""
        ...


@runtime_checkable
class Prepares(Protocol):
    """Optional power of a Driver: does beforehand what every `open` needs, whatever is opened."""

    def prepare(self) -> None:
        """Imports, and looks; starts no thread and takes nothing of the device. Raises DriverUnavailable."""
        ...


class Backend(Protocol):
    """The right to run programs on one device from this process."""

    @property
    def device(self) -> Device: ...
    @property
    def support(self) -> Support: ...

    @property
    def degraded(self) -> str | None:
        """Why this is not what the device could do (no compiler: the reference runs), or None."""
        ...

    def allocate(self, num_bytes: int) -> Buffer:
        """Zeroed memory of the device, which begins at a multiple of ALIGNMENT. Raises OutOfMemory."""
        ...

    def compile(self, program: Program, weights: WeightSource, limits: Limits) -> Executable:
        """Raises NotServable naming the operator or dtype this driver cannot run; OutOfMemory."""
        ...


class Driver(Protocol):
    """One family of hardware."""

    @property
    def name(self) -> str: ...
    @property
    def abi(self) -> int: ...
    def probe(self) -> Sequence[Device]: ...

    def read(self, device: DeviceId) -> Reading:
        """Raises DeviceNotFound if this driver never found such a device; a lost one has health `lost`."""
        ...

    def open(self, device: DeviceId, *, num_threads: int) -> Backend:
        """Raises DriverUnavailable with the reason, DeviceNotFound, or DeviceLost."""
        ...


@runtime_checkable
class ReservesMemory(Protocol):
    """Optional power of a Backend: buffers that grow and shrink while an Executable uses them as its pool."""

    def reserve(self, capacity_bytes: int) -> ElasticBuffer:
        """Addresses without memory; what it grows to is taken from the device's budget then. Raises OutOfMemory."""
        ...


@runtime_checkable
class SamplesNatively(Protocol):
    """Optional power of an Executable whose program ends in logits: chooses the tokens itself, where the logits are."""

    def draw(self, draws: Sequence[Draw]) -> Sequence[Drawn]:
        """One token for each row of the last run's result, in their order: to the last bit as `hal.draws.draw` says.

        Before the next run, as often as wished. Raises ValueError if there are not as many draws as rows, or if the
        step was greedy and a draw is not (`Draw.is_greedy`).
        """
        ...

    def redraw(self, rows: Sequence[int], draws: Sequence[Draw]) -> Sequence[Drawn]:
        """As `draw`, from some rows of that result, in any order, each at most once.

        Raises ValueError if there is no such row, or if there are not as many draws as rows.
        """
        ...


@runtime_checkable
class ReportsLinks(Protocol):
    """Optional power: knows the paths between its devices or NUMA nodes."""

    def links(self) -> Sequence[Link]: ...


FaultKind = Literal["lost", "degraded", "exhausted", "garbage", "slow", "hang", "unplugged"]
"""lost: gone in the middle of work; degraded: works, but not well; exhausted: no byte left to allocate; garbage:
readings that cannot be true; slow: steps take longer; hang: steps do not end until cleared; unplugged: not found by
probe, and lost to whoever has it open."""


@runtime_checkable
class InjectsFaults(Protocol):
    """Optional power: can be told to misbehave, so that everything above can be rehearsed."""

    def inject(self, device: DeviceId, fault: FaultKind) -> None:
        """From now on, beside whatever was injected before. Raises DeviceNotFound."""
        ...

    def clear(self, device: DeviceId) -> None:
        """Whole again: no fault is left; steps that hang end. Raises DeviceNotFound."""
        ...
