"""From a worker's spec to a model ready to run: weights checked and packed, the pool sized and bound, all booked."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from thaloom.base.errors import BadParameter, DeviceNotFound, MalformedFile, NotServable, OutOfMemory, ThaloomError
from thaloom.base.events import Emit, ignore
from thaloom.base.plugins import Registry
from thaloom.base.units import format_bytes
from thaloom.hal.driver import Backend, Driver, Executable, HoldsShared, Limits, Shared, WeightSource
from thaloom.hal.ops import Program
from thaloom.hal.tensors import QuantTensor, Tensor
from thaloom.hal.types import Device, DType, WeightFormat
from thaloom.kernel.memory.ledger import Ledger
from thaloom.kernel.memory.tiers.store import TieredStore
from thaloom.kernel.models.events import PackedWeightsLost, WeightsNotShared
from thaloom.kernel.models.store import ModelStore
from thaloom.kernel.models.types import Manifest, ModelName
from thaloom.kernel.sched.drafts import DRAFT_ROWS
from thaloom.kernel.sched.steps import StepLimits
from thaloom.work.runtime.architectures import Architecture, select
from thaloom.work.runtime.core.admission import EngineConfig
from thaloom.work.runtime.core.grammars import Grammars
from thaloom.work.runtime.kv.pool import KvPool, make_pool
from thaloom.work.runtime.kv.tiers import open_store
from thaloom.work.runtime.spec import WorkerSpec
from thaloom.work.runtime.text.tokenizer import read_vocabulary
from thaloom.work.runtime.turns.turns import NoTurns, Turns, join_turns
from thaloom.work.runtime.worker.shared_weights import InheritedMemory

DEFAULT_CONTEXT = 8192


class LoadingStopped(Exception):
    """Somebody asked the worker to end before its model was ready."""


def going_on(stop: threading.Event) -> None:
    """Raises LoadingStopped once it is set."""
    if stop.is_set():
        raise LoadingStopped


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel:
    """A model ready to run and what there is to say of it. `close` gives everything back."""

    executable: Executable
    pool: KvPool
    config: EngineConfig
    ledger: Ledger
    backend: Backend
    driver: str
    num_threads: int
    manifest: Manifest
    operator_levels: dict[str, str]
    grammars: Grammars
    store: TieredStore | None = None
    """Of what leaves the pool."""
    turns: Turns = field(default_factory=NoTurns)
    """At the device."""

    def close(self) -> None:
        self.executable.close()
        self.pool.close()
        if self.store is not None:
            self.store.close()
        self.turns.close()


def load(
    spec: WorkerSpec,
    store: ModelStore,
    drivers: Registry[Driver],
    architectures: Registry[Architecture],
    stop: threading.Event,
    emit: Emit = ignore,
    memory: InheritedMemory | None = None,
) -> LoadedModel:
    """Raises any ThaloomError that says why the model cannot be served here, or LoadingStopped once `stop` is set."""
    manifest = store.get(ModelName.parse(spec.model))
    model = store.open(manifest)
    config = model.config()
    architecture = select(architectures, config)
    shape = architecture.read(config)
    program = architecture.build(config)
    context = choose_context(spec.context_length, shape.context_length)
    driver = drivers.create(spec.driver)
    device = choose_device(spec, driver)
    num_threads = spec.num_threads or max(1, device.num_cores)
    backend = driver.open(device.id, num_threads=num_threads)
    kv_dtype = choose_kv_dtype(spec.kv_dtype, manifest.card.dtypes, spec.weights, backend)
    check_weight_format(spec.weights, backend)
    limits = StepLimits(
        max_sequences=spec.max_sequences,
        chunk_tokens=spec.chunk_tokens,
        draft_rows=DRAFT_ROWS if spec.speculation == "auto" else 0,
    )
    memory = memory or InheritedMemory({})
    ledger = Ledger({device.id: _free_bytes(driver, device) + memory.there_bytes()})
    stored_bytes = manifest.card.weight_bytes if spec.weights == "stored" else 0  # else less, by how much is not known
    with unless_never(device):
        ledger.reserve(spec.worker, device.id, stored_bytes, purpose="weights")
    weights = model.weights()
    shared_bytes = 0
    try:
        executable = backend.compile(
            program,
            checked_weights(weights, program, manifest, stop, store, emit, memory),
            Limits(
                max_rows=limits.max_rows,
                max_sequences=limits.max_sequences,
                max_context=context,
                kv_dtype=kv_dtype,
                weight_format=spec.weights,
                max_outputs=limits.max_outputs,
            ),
        )
        shared_bytes = shared_weight_bytes(executable)
    finally:
        weights.close()
        memory.loaded(used=shared_bytes > 0)
    vocab_size = shape.vocab_size
    ledger.correct(spec.worker, device.id, executable.weight_bytes, purpose="weights")
    try:
        with unless_never(device):
            pool = make_pool(spec, context, executable, backend, ledger, emit, lambda: going_on(stop))
    except (ThaloomError, LoadingStopped):
        executable.close()
        raise
    try:
        with unless_never(device):
            cold = open_store(spec, executable, device, ledger, emit)
    except ThaloomError:
        executable.close()
        pool.close()
        raise
    return LoadedModel(
        executable=executable,
        pool=pool,
        store=cold,
        config=EngineConfig(
            vocab_size=vocab_size,
            context_length=context,
            num_blocks=pool.num_blocks,
            limits=limits,
            max_queue=spec.max_queue,
            prefix_reuse=spec.prefix_reuse,
            pin_share=spec.pin_share,
            targets=spec.targets,
            salt=f"{manifest.digest} {program.digest()} {kv_dtype} {spec.weights}".encode(),
        ),
        ledger=ledger,
        backend=backend,
        driver=spec.driver,
        num_threads=num_threads,
        manifest=manifest,
        operator_levels=_levels(program, backend),
        grammars=Grammars(lambda: read_vocabulary(model.read_file("tokenizer.json"), vocab_size), vocab_size),
        turns=join_turns(spec, num_threads, device.num_cores, emit),
    )


@contextlib.contextmanager
def unless_never(device: Device) -> Iterator[None]:
    """A refusal by the ledger that stands even if nobody else has anything of the device is final: NotServable, where
    OutOfMemory may be tried again."""
    try:
        yield
    except OutOfMemory as error:
        needed = error.details.get("needed_bytes", 0) + error.details.get("held_bytes", 0)
        if not 0 < device.memory_bytes < needed:
            raise
        all_there_is = f"{device.id} has {format_bytes(device.memory_bytes)} in all"
        raise NotServable(f"{error.message}; {all_there_is}", needed_bytes=needed) from error


def shared_weight_bytes(executable: Executable) -> int:
    """Of its weights: in memory that outlives this process, and that others may use."""
    return executable.shared_weight_bytes if isinstance(executable, HoldsShared) else 0


def choose_context(wanted: int | None, of_model: int) -> int:
    """Raises BadParameter if more is wanted than the model was made for."""
    if wanted is None:
        return min(of_model, DEFAULT_CONTEXT)
    if wanted > of_model:
        raise BadParameter(
            f"a context of {wanted} tokens is asked for; the model was made for {of_model}", param="context_length"
        )
    return wanted


def choose_device(spec: WorkerSpec, driver: Driver) -> Device:
    """The device of the spec, or the driver's first. Raises DeviceNotFound."""
    found = driver.probe()
    for device in found:
        if spec.device in (None, device.id):
            return device
    wanted = "no device" if spec.device is None else f"no device {spec.device!r}"
    raise DeviceNotFound(f"driver {spec.driver!r} finds {wanted} here", device=spec.device)


def choose_kv_dtype(
    wanted: DType | None, weight_dtypes: Iterable[DType], weight_format: WeightFormat, backend: Backend
) -> DType:
    """What fits the weights, unless asked otherwise: bf16 beside whole numbers, which is quicker; else as precise as
    they are, f32 beside f32 and f16 beside 16 bits. f32 where the device stores neither.

    Raises NotServable if the device cannot store what is asked for.
    """
    offered = backend.support.kv_dtypes
    if wanted is None:
        stored = set(weight_dtypes)
        natural: tuple[DType, ...] = ("f16", "bf16")
        if weight_format != "stored" or "i8" in stored:
            natural = ("bf16",)
        elif stored <= {"f32"}:
            natural = ()
        return next((dtype for dtype in natural if dtype in offered), "f32")
    if wanted not in offered:
        raise NotServable(
            f"device {backend.device.id!r} stores keys and values as {', '.join(sorted(offered))}, not {wanted}",
            param="kv_dtype",
        )
    return wanted


def check_weight_format(wanted: WeightFormat, backend: Backend) -> None:
    """Raises NotServable if the device cannot keep weights so."""
    offered = backend.support.weight_formats
    if wanted not in offered:
        raise NotServable(
            f"device {backend.device.id!r} keeps weights as {', '.join(sorted(offered))}, not {wanted}", param="weights"
        )


def checked_weights(
    source: WeightSource,
    program: Program,
    manifest: Manifest,
    stop: threading.Event,
    store: ModelStore,
    emit: Emit = ignore,
    memory: InheritedMemory | None = None,
) -> CheckedWeights:
    """Of an encrypted model nothing is kept packed: that would be its weights in plain."""
    if manifest.encrypted:
        return CheckedWeights(source, program, manifest, stop)
    return KeptWeights(source, program, manifest, stop, store, emit, memory or InheritedMemory({}))


class CheckedWeights:
    """The weights a program needs, one at a time: each must be there, with the shape the program counts on.

    Looks for `stop` between tensors, so that a worker does not have to finish loading before it may end.
    """

    def __init__(self, source: WeightSource, program: Program, manifest: Manifest, stop: threading.Event) -> None:
        self._source = source
        self._shapes = {str(name): shape for name, shape in program.weights.items()}
        self._model = model = str(manifest.name)
        self._manifest = manifest
        self._stop = stop
        missing = sorted(self._shapes.keys() - set(source.names()))
        if missing:
            shown = ", ".join(repr(name) for name in missing[:3]) + (", ..." if len(missing) > 3 else "")
            raise MalformedFile(f"model {model!r} lacks {len(missing)} of its tensors: {shown}", missing=len(missing))

    def names(self) -> Iterable[str]:
        return [name for name in self._source.names() if name in self._shapes]

    def read(self, name: str) -> Tensor | QuantTensor:
        going_on(self._stop)
        tensor = self._source.read(name)
        if tensor.shape != self._shapes[name]:
            raise MalformedFile(
                f"tensor {name!r} of model {self._model!r} has shape {tensor.shape}; "
                f"its config.json asks for {self._shapes[name]}",
                tensor=name,
            )
        return tensor


class KeptWeights(CheckedWeights):
    """With places for what the driver makes of them (driver.SharesPacked): in the store, and in memory that the daemon
    may have given."""

    def __init__(
        self,
        source: WeightSource,
        program: Program,
        manifest: Manifest,
        stop: threading.Event,
        store: ModelStore,
        emit: Emit,
        memory: InheritedMemory,
    ) -> None:
        super().__init__(source, program, manifest, stop)
        self._store = store
        self._emit = emit
        self._memory = memory

    def packed_path(self, layout: str) -> Path:
        return self._store.packed.path(self._manifest.digest, layout)

    def packed_lost(self, reason: str) -> None:
        self._emit(PackedWeightsLost(model=self._model, reason=reason))

    def shared(self) -> Shared | None:
        shared = self._memory.shared(self._stop)
        if self._stop.is_set():
            raise LoadingStopped
        return shared

    def not_shared(self, reason: str) -> None:
        self._memory.given_up()
        self._emit(WeightsNotShared(model=self._model, reason=reason))


def _free_bytes(driver: Driver, device: Device) -> int:
    """What this worker may take: what the device says is free, else all it has."""
    free = driver.read(device.id).memory_free_bytes
    return device.memory_bytes if free is None else free


def _levels(program: Program, backend: Backend) -> dict[str, str]:
    used = {instruction.op for instruction in program.instructions}
    return {op: backend.support.levels[op] for op in sorted(used)}
