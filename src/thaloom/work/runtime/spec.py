"""What a worker is started with: written by the daemon as a JSON file, read once by the worker."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from thaloom.base.errors import BadParameter
from thaloom.base.files import write_atomic
from thaloom.base.ids import DeviceId, ServiceName, WorkerId
from thaloom.hal.types import DType, WeightFormat
from thaloom.kernel.sched.chunks import DEFAULT_TARGETS, StepTargets
from thaloom.kernel.state.types import DEFAULT_PIN_SHARE, EngineName, check_tiers

MAX_SOCKET_PATH_BYTES = 100
"""Of the 108 bytes a unix socket's path may have (unix(7)), 8 are kept for the name it is bound under at first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSpec:
    """One worker: who it is, what it serves, where it listens, what it may use. None: chosen at start, told by
    GetStatus."""

    worker: WorkerId
    service: ServiceName
    model: str
    """`name[:tag]` in the store."""
    store: str
    """Root folder of the model store."""
    socket: str
    """Path of the unix socket; `<socket>.failure.json` says why the worker ended, if it did not end well."""
    engine: EngineName = "thaloom"
    """A foreign one takes `model` as kernel.state.types.ServiceSpec says."""
    url: str | None = None
    engine_hosts: tuple[str, ...] = ()
    """Hosts beyond loopback that a url may name."""
    driver: str = "cpu"
    device: DeviceId | None = None
    """None: the driver's first."""
    num_threads: int | None = None
    """None: one for each core the device has."""
    context_length: int | None = None
    """None: the model's own, at most 8,192."""
    kv_bytes: int | None = None
    """None: four full contexts, at most 1 GiB, at least one full context; where pages are lent one full context is
    promised, and one for each of `max_sequences` may be had."""
    kv_host_bytes: int = 0
    """Of the host's memory, for keys and values that leave the pool."""
    kv_disk_bytes: int = 0
    """Of the disk, for those that leave that memory; in `tier_folder`, which is this worker's own."""
    tier_folder: str | None = None
    pages: str | None = None
    """The board where workers of this device lend each other pages (kernel.memory.board). None: they do not."""
    page_priority: int = 0
    """Who goes first where several want what is left."""
    turns: str | None = None
    """The turnstile where workers of this device take turns (work.runtime.turns.turnstile). None: they do not."""
    turn_weight: int = 100
    """How much of the device this one gets where all have something to do."""
    max_sequences: int = 16
    max_queue: int = 128
    chunk_tokens: int = 256
    prefix_reuse: bool = True
    pin_share: float = DEFAULT_PIN_SHARE
    """Of the blocks that are promised, so much may be pinned, half of that by one who asks; 0: nothing."""
    kv_dtype: DType | None = None
    """None: what fits the weights, as loading.choose_kv_dtype says."""
    weights: WeightFormat = "stored"
    """What becomes of matrices that the model stores in floats."""
    speculation: Literal["auto", "off"] = "auto"
    """Whether guessed tokens are verified where that pays."""
    stretch: float = DEFAULT_TARGETS.stretch
    token_s: float = DEFAULT_TARGETS.token_s
    keep_throughput: float = DEFAULT_TARGETS.keep_throughput
    """What running requests bear while prompts come in: kernel.sched.chunks.StepTargets."""

    def __post_init__(self) -> None:
        counts = ("num_threads", "context_length", "kv_bytes", "max_sequences", "max_queue", "chunk_tokens")
        for name in (*counts, "turn_weight"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise BadParameter(f"{name} must be at least 1, not {value}", param=name)
        if not 0.0 <= self.pin_share <= 1.0:  # also refuses NaN
            raise BadParameter(f"pin_share must be between 0 and 1, not {self.pin_share}", param="pin_share")
        check_tiers(self.kv_host_bytes, self.kv_disk_bytes, prefix_reuse=self.prefix_reuse)
        if self.kv_disk_bytes and self.tier_folder is None:
            raise BadParameter("kv_disk_bytes without a tier_folder to keep them in", param="tier_folder")
        _ = self.targets  # checks them
        if len(self.socket.encode()) > MAX_SOCKET_PATH_BYTES:
            raise BadParameter(
                f"the path of the worker's socket is {len(self.socket.encode())} bytes long, "
                f"at most {MAX_SOCKET_PATH_BYTES} work: {self.socket!r}",
                param="socket",
            )

    @property
    def targets(self) -> StepTargets:
        """Raises BadParameter for what makes no sense."""
        try:
            return StepTargets(stretch=self.stretch, token_s=self.token_s, keep_throughput=self.keep_throughput)
        except ValueError as error:
            raise BadParameter(str(error), param=str(error).split()[0]) from error

    @property
    def failure_path(self) -> Path:
        return Path(self.socket + ".failure.json")


def write_spec(path: Path, spec: WorkerSpec) -> None:
    """Put it on disk, whole or not at all."""
    write_atomic(path, json.dumps(dataclasses.asdict(spec), indent=2) + "\n")


def read_spec(path: Path) -> WorkerSpec:
    """Raises BadParameter naming the file and the field for anything that is not one."""
    try:
        data = msgspec.json.decode(path.read_bytes(), type=dict[str, object])
        for key in sorted(data.keys() - {field.name for field in dataclasses.fields(WorkerSpec)}):
            raise BadParameter(f"{path}: unknown field {key!r}", param=key)
        return msgspec.convert(data, WorkerSpec)
    except OSError as error:
        raise BadParameter(f"{path}: {error.strerror}", param="spec") from error
    except (msgspec.MsgspecError, RecursionError) as error:
        raise BadParameter(f"{path}: {error}", param="spec") from error
