"""What may be asked of the walls around a program, and what a host can enforce of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from thaloom.base.errors import BadParameter

LimitName = Literal["cpu", "cpu_weight", "cpus", "memory", "swap", "pids", "io", "huge_pages", "memory_bandwidth"]
"""Quantities. `memory_bandwidth` can be asked about, and is never enforced by this room: it needs resctrl."""
WallName = Literal["view", "network", "ipc", "processes", "landlock", "syscalls", "privileges"]
"""`view`: own mount namespace, only what was given is there, and only what was given for writing can be written.
`network`: own network namespace. `ipc`: own System V and POSIX queues. `processes`: no other process can be signalled
or looked into. `landlock`: the second wall behind `view`. `syscalls`: seccomp. `privileges`: no capability, and none to
be had."""
Network = Literal["none", "loopback", "host"]
"""`loopback`: its own, which nobody else shares. Unix sockets in the file system work with each."""
Latency = Literal["normal", "interactive", "batch"]
"""`batch` gives way to everybody else; `interactive` is let in sooner, and gets most where all want more than there
is (`latency.WEIGHTS`, which whoever makes the limits asks for)."""
SCHED_BATCH, BATCH_NICE = 3, 10
"""Of batch work. Source: sched(7)."""
TURN_NS = 1_000_000
"""Of interactive work, instead of the kernel's 3 ms: a shorter turn comes sooner."""

WALLS: tuple[WallName, ...] = ("view", "network", "ipc", "processes", "landlock", "syscalls", "privileges")


@dataclass(frozen=True, slots=True, kw_only=True)
class IoLimit:
    """Of one block device; None is no limit."""

    device: str
    """`major:minor`."""
    read_bytes_s: int | None = None
    write_bytes_s: int | None = None

    def __post_init__(self) -> None:
        major, _, minor = self.device.partition(":")
        if not (major.isascii() and major.isdigit() and minor.isascii() and minor.isdigit()):
            raise BadParameter(f"a device is 'major:minor', not {self.device!r}", param="io")
        for value in (self.read_bytes_s, self.write_bytes_s):
            if value is not None and value < 1:
                raise BadParameter("a limit on input or output must be at least 1 byte/s", param="io")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a program and all it starts may use together; None is no limit."""

    cpu_permille: int | None = None
    """Of one processor: 1500 is one and a half."""
    cpu_weight: int | None = None
    """Share under contention, 1 to 10,000; 100 is everybody's."""
    cpus: tuple[int, ...] | None = None
    """The only processors it runs on."""
    memory_bytes: int | None = None
    """Its own memory, page cache it brought in and its scratch space."""
    swap_bytes: int | None = None
    """Beyond `memory_bytes`."""
    num_pids: int | None = None
    """Processes and threads."""
    io: tuple[IoLimit, ...] = ()
    huge_page_bytes: tuple[tuple[int, int], ...] = ()
    """(page size, most bytes in such pages)."""

    def __post_init__(self) -> None:
        for name, least in (("cpu_permille", 1), ("memory_bytes", 1), ("swap_bytes", 0), ("num_pids", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise BadParameter(f"{name} must be at least {least}, not {value}", param=name)
        if self.cpu_weight is not None and not 1 <= self.cpu_weight <= 10_000:
            raise BadParameter(f"cpu_weight must be between 1 and 10000, not {self.cpu_weight}", param="cpu_weight")
        if self.cpus is not None and (not self.cpus or min(self.cpus) < 0):
            raise BadParameter("cpus must name at least one processor, from 0 on", param="cpus")
        if self.swap_bytes is not None and self.memory_bytes is None:
            raise BadParameter("swap_bytes needs memory_bytes: it is counted beyond it", param="swap_bytes")

    def asked(self) -> frozenset[LimitName]:
        """The quantities that are limited."""
        named: dict[LimitName, object] = {
            "cpu": self.cpu_permille,
            "cpu_weight": self.cpu_weight,
            "cpus": self.cpus,
            "memory": self.memory_bytes,
            "swap": self.swap_bytes,
            "pids": self.num_pids,
            "io": self.io or None,
            "huge_pages": self.huge_page_bytes or None,
        }
        return frozenset(name for name, value in named.items() if value is not None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ability:
    """Whether this host can enforce one limit or wall. Exactly one of `by` and `why_not` is set."""

    name: str
    by: str | None = None
    """What enforces it."""
    why_not: str | None = None

    def __post_init__(self) -> None:
        assert (self.by is None) != (self.why_not is None), f"{self.name} is enforced, or there is a reason"

    @property
    def enforced(self) -> bool:
        return self.by is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What a group uses; None where no controller counts it for this group."""

    memory_bytes: int | None = None
    memory_peak_bytes: int | None = None
    cpu_s: float | None = None
    num_pids: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Strikes:
    """How often a group met its walls since it was made; None where nothing counts it."""

    oom_kills: int | None = None
    forks_refused: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Pressure:
    """Share of time in which some of its tasks (or of the whole host's) waited for something, in percent, over the
    last ten seconds. Source: kernel documentation, accounting/psi."""

    scope: Literal["group", "host"]
    """`host`: this kernel has no figure for the group alone."""
    cpu: float | None = None
    memory: float | None = None
    io: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Confinement:
    """Everything wished around one program. Paths are absolute."""

    limits: Limits = field(default_factory=Limits)
    latency: Latency = "normal"
    network: Network = "none"
    read: tuple[str, ...] = ()
    """Files and folders it may read, besides the system's own programs and libraries."""
    write: tuple[str, ...] = ()
    """Folders it may write, and files that are there already; each is on the host's disk."""
    words: tuple[str, ...] = ()
    """Files that are there already and that it may write into, and neither shorten nor lengthen where the host can
    forbid that (Landlock of Linux 6.2): others have them mapped."""
    moved: tuple[tuple[str, str], ...] = ()
    """(folder of the host, where it is seen): writable."""
    sockets: str | None = None
    """A folder in which it may make unix sockets, and nothing else."""
    files: tuple[str, ...] = ()
    """Files there that it may write."""
    disk: tuple[str, str] | None = None
    """(image made by `disk.make_disk`, folder it is seen at): a file system of its own, which it may write, and whose
    end is its end. Needs what `disk.find_disk` looks for."""
    devices: tuple[str, ...] = ()
    """Device nodes beyond null, zero, full, random and urandom."""
    whole_host: bool = False
    """It sees every file of the host, for reading; `hidden` is covered."""
    hidden: tuple[str, ...] = ()
    scratch_bytes: int = 256 << 20
    """Of /tmp and of /dev/shm each: memory, counted as such, and gone with the program."""
    file_bytes: int | None = None
    """The longest any file may get, its log included."""
    oom_score: int = 200
    """How soon the kernel takes it when the host is out of memory, -1000 to 1000; an ordinary program has 0."""

    folder: str | None = None
    """Where it starts; None: in the root."""
    environment_fd: int | None = None
    """An open descriptor that all its variables are read from (kernel.sandbox.inside.words); None: it inherits them."""
    with_parent: bool = False
    """Whether it is killed when who started it ends."""

    def __post_init__(self) -> None:
        seen = [there for _, there in self.moved] + ([] if self.sockets is None else [self.sockets])
        seen += self.disk or ()
        told = (*self.read, *self.write, *self.words, *self.files, *self.devices, *self.hidden)
        for path in (*told, *seen, self.folder or "/"):
            if not path.startswith("/"):
                raise BadParameter(f"a path must be absolute, not {path!r}", param="read")
        if self.scratch_bytes < 4096:
            raise BadParameter("scratch_bytes must be at least 4096", param="scratch_bytes")
