"""What a node is told at its start, and what must be true before it may be one."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import ipaddress
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from thaloom.base import config
from thaloom.base.access import Role
from thaloom.base.errors import (
    AlreadyRunning,
    BadParameter,
    DiskFull,
    DriverUnavailable,
    Forbidden,
    PortTaken,
    StateUnusable,
    ThaloomError,
)
from thaloom.base.events import Level
from thaloom.base.files import FolderLock
from thaloom.init.access.gate import uid_of
from thaloom.init.jobs.config import JobsConfig
from thaloom.init.walls.confining import SandboxConfig
from thaloom.kernel.sched.idling import IdleConfig
from thaloom.kernel.state.kept import KeepLimits
from thaloom.kernel.trust.tls import DoorConfig

DEFAULT_PORT = 7411


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class NodeConfig:
    """`config.toml` of a node. Order of precedence: flags, environment, this file, these defaults."""

    host: str = "127.0.0.1"
    """Address the door listens on. Beyond loopback it speaks TLS, and nobody comes in without a key. Also
    THALOOM_HOST."""
    port: int = DEFAULT_PORT
    """TCP port of the door. Also THALOOM_PORT."""
    tls: Literal["beyond-loopback", "always"] = "beyond-loopback"
    """Where the door speaks TLS: beyond loopback, where there is no way without it, or on loopback too. Default: what
    is on this machine already sees every byte."""
    log_level: Level = "info"
    """Least level of events written to the daemon's log."""
    stop_grace_s: float = 10.0
    """How long a process that is told to stop may go on with what it does; then it is killed. Longer than most
    answers take, shorter than people and init systems wait."""
    heartbeat_s: float = 2.0
    """Seconds between two looks at a worker that is ready. The figures of `thaloom ps` are at most this old."""
    tick_s: float = 5.0
    """Seconds between two rounds of the reconciler when nothing happens: the net under the events that wake it."""
    require_keys: bool = True
    """Whether the door turns away who shows no key, once the node has any (`thaloom token create`). Off: such requests
    have no limits, as on a node without keys."""
    air_gap: bool = False
    """Make no outgoing call at all; what would have gone out is listed by `thaloom outgoing`. Also THALOOM_AIRGAP."""
    hub_read_through: bool = False
    """Whether a model that somebody asks our own hub for, and that is not here, is pulled from the hub above. Off: who
    may ask for models would otherwise fill the disk."""
    encrypt_models: bool = False
    """Whether models that come here are kept in cipher where nobody says otherwise (`thaloom pull --encrypt`). Without
    a master key they are refused then. Off: it costs the packed weights that make a second start quick."""
    master_key_file: str = ""
    """Absolute path of the master key: 32 random bytes, readable by its owner alone. Empty: where the vault looks."""
    memory_headroom_bytes: int = 256 * 1024 * 1024
    """Host memory that is never promised to workers: for the daemon, the door and page tables."""
    standby: bool = True
    """Whether a worker waits, everything imported, for the next that is to be started: half a second less until a
    service that was idle or was killed answers, for some 50 MB, which are given back when memory is short."""
    engine_hosts: tuple[str, ...] = ()
    """Names of hosts beyond loopback whose servers engine `openai` may ask, with TLS. Default: none, because what is
    asked goes there."""
    socket_users: dict[str, Role] = dataclasses.field(default_factory=dict)
    """Who may ask through the node's own socket beside its own user and root, which are admins: users of this machine
    by name or number, each with a role. Default: nobody. With any, others may pass through the node's folder, and
    still read nothing in it."""
    keep: KeepLimits = dataclasses.field(default_factory=KeepLimits)
    """How much the door keeps for its clients: responses, files, batches. The door reads this table itself."""

    door: DoorConfig = dataclasses.field(default_factory=DoorConfig)
    """Its certificate, and by which names it may be asked for. The door reads this table itself."""

    idle: IdleConfig = dataclasses.field(default_factory=IdleConfig)
    """For how long what nobody asks anything stays loaded. The door reads this table itself."""

    sandbox: SandboxConfig = dataclasses.field(default_factory=SandboxConfig)
    """Walls around workers and jobs."""
    jobs: JobsConfig = dataclasses.field(default_factory=JobsConfig)
    """Programs that are run to their end."""

    def __post_init__(self) -> None:
        if not 1 <= self.port <= 65535:
            raise BadParameter(f"port must be between 1 and 65535, not {self.port}", param="port")
        for name in ("stop_grace_s", "heartbeat_s", "tick_s"):
            if not 0 < getattr(self, name) <= 3600:
                raise BadParameter(f"{name} must be above 0 and at most 3600", param=name)
        if self.master_key_file and not Path(self.master_key_file).is_absolute():
            raise BadParameter("master_key_file must be an absolute path", param="master_key_file")
        for user in self.socket_users:
            uid_of(user)
        if self.memory_headroom_bytes < 0:
            raise BadParameter("memory_headroom_bytes cannot be negative", param="memory_headroom_bytes")

    @property
    def beyond_loopback(self) -> bool:
        return not _is_loopback(self.host)

    @property
    def speaks_tls(self) -> bool:
        """Whether the door speaks TLS. There is no setting by which it would not beyond loopback."""
        return self.beyond_loopback or self.tls == "always"

    @property
    def address(self) -> str:
        """`host:port` of the door, with `https://` before it where it speaks TLS; an IPv6 host in brackets. A door with
        another address is another door."""
        place = f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"
        return f"https://{place}" if self.speaks_tls else place

    @property
    def url(self) -> str:
        """As programs of this machine reach it."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)
        place = f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"
        return f"{'https' if self.speaks_tls else 'http'}://{place}"


def read_config(
    path: Path, environment: Mapping[str, str], *, host: str | None = None, port: int | None = None
) -> NodeConfig:
    """Flags over environment over file over defaults.

    Raises BadParameter that names the file and key (or the variable), Forbidden for a host beyond loopback where keys
    are not required.
    """
    settings = config.read_toml(NodeConfig, path)
    if (text := environment.get("THALOOM_HOST")) and host is None:
        host = text
    if (text := environment.get("THALOOM_PORT")) and port is None:
        if not text.isascii() or not text.isdigit():
            raise BadParameter(f"THALOOM_PORT must be a number, not {text!r}", param="THALOOM_PORT")
        port = int(text)
    return dataclasses.replace(
        settings,
        air_gap=_switch(environment, "THALOOM_AIRGAP", settings.air_gap),
        host=listening(settings.host if host is None else host, require_keys=settings.require_keys),
        port=settings.port if port is None else port,
    )


def _switch(environment: Mapping[str, str], name: str, default: bool) -> bool:
    """A switch that is misread would be worse than none: only these words are understood."""
    text = environment.get(name, "").strip().lower()
    if text and text not in ("0", "1", "false", "true", "no", "yes", "off", "on"):
        raise BadParameter(f"{name} must be 0 or 1, not {text!r}", param=name)
    return text in ("1", "true", "yes", "on") if text else default


def boot_error(error: BaseException) -> ThaloomError | None:
    """What is told of a start that failed: the typed error, or the file that is not what it should be. None: a mistake
    of ours, which keeps its traceback."""
    if isinstance(error, BaseExceptionGroup):
        causes = [boot_error(cause) for cause in error.exceptions]
        return None if None in causes else causes[0]
    if isinstance(error, ThaloomError):
        return error
    if isinstance(error, OSError) and error.filename is not None:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        return (DiskFull if full else StateUnusable)(f"{error.strerror}: {str(error.filename)!r}")
    return None


def listening(host: str, *, require_keys: bool) -> str:
    """`host` as an address to listen on. Raises BadParameter for what is none (names are not looked up: they may mean
    another machine tomorrow), Forbidden for one beyond loopback where keys are not required."""
    if host == "localhost":
        return "127.0.0.1"
    try:
        address = ipaddress.ip_address(host.replace("%", " "))  # one of a single link is no place to be found at
    except ValueError:
        raise BadParameter(f"host {host!r} is no address (as 127.0.0.1, ::1 or 192.0.2.7)", param="host") from None
    if not address.is_loopback and not require_keys:
        raise Forbidden(
            f"host {host!r} is beyond loopback, where nobody comes in without a key, and require_keys is off: "
            "take it out of config.toml, or listen on 127.0.0.1",
            param="require_keys",
        )
    return host


def _is_loopback(host: str) -> bool:
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def take_home(home: Path) -> FolderLock:
    """The right to be the node of this folder. Raises AlreadyRunning with the holder's pid, Forbidden if the folder
    cannot be made or written."""
    try:
        lock = FolderLock.take(home)
    except OSError as error:
        raise Forbidden(
            f"{str(home)!r} cannot be the folder of a node: {error.strerror}", param="THALOOM_HOME"
        ) from error
    if lock is None:
        text = (home / "lock").read_text().strip()
        pid = int(text) if text.isdigit() else None
        raise AlreadyRunning(f"a node is running in {str(home)!r} already (pid {pid or 'unknown'})", pid=pid)
    return lock


def require_host_memory(total_bytes: int | None) -> int:
    """Raises DriverUnavailable where the host does not tell how much memory it has: all promises hang on it."""
    if total_bytes is None:
        raise DriverUnavailable("this host does not tell how much memory it has (MemTotal in /proc/meminfo)")
    return total_bytes


def require_free_port(host: str, port: int) -> None:
    """Raise PortTaken if somebody listens there, BadParameter if it is no address of this machine. The door binds it a
    moment later."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                raise BadParameter(f"{host} is no address of this machine", param="host") from error
            if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                raise
            why = "is not allowed to this user" if error.errno == errno.EACCES else "is taken by another program"
            raise PortTaken(f"port {port} on {host} {why} (choose one: THALOOM_PORT)", host=host, port=port) from error
