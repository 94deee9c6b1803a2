"""Reaching the node, and starting one where none runs."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from thaloom.base import config
from thaloom.base.actions import TERMS
from thaloom.base.errors import ERRORS, DeadlineExceeded, InternalError, NodeNotRunning, ThaloomError

if TYPE_CHECKING:
    from thaloom.base.procs import ProcessIdentity
    from thaloom.edge.client.control import ControlClient
    from thaloom.edge.client.place import Place
    from thaloom.edge.wire.control import NodeStatus

START_TIMEOUT_S = 60.0
"""A node is up in a second or two; on a machine that is busy, in ten."""
_POLL_S = 0.05
_LAST_WORDS = re.compile(r"thaloomd: (?P<message>.*) \[(?P<code>\w+); .*\]")
"""How a daemon that refuses to start says why."""
# -P: a folder the person happens to stand in must not shadow our modules.
DAEMON = (sys.executable, "-P", "-m", "thaloom.daemon")


def connect(*, timeout_s: float | None = None) -> ControlClient:
    """A client of the node THALOOM_URL names, else of this home's. Costs little: nothing is sent before the first
    question. Raises BadParameter for a wrong THALOOM_URL and its like."""
    from thaloom.edge.client.control import TIMEOUT_S, ControlClient

    return ControlClient(place=far(), terms=TERMS.get(), timeout_s=timeout_s or TIMEOUT_S)


def far() -> Place | None:
    """The door that is asked instead of this home's node; None: none."""
    if not os.environ.get("THALOOM_URL"):
        return None
    from thaloom.edge.client.place import place_of

    return place_of(os.environ)


def door(node: ControlClient) -> Place:
    """Where to ask for answers, and whom to believe there. The certificate of a node of this machine is believed as the
    node tells it over its own socket."""
    from thaloom.edge.client.place import Place, token_of
    from thaloom.edge.client.trust import Trust

    place = far()
    if place is not None:
        return place
    url, token = node.status().url, token_of(os.environ)
    if not url.startswith("https:"):
        return Place(url=url, token=token)
    shown = node.certificate()
    pins = {pin for pin in (shown.fingerprint, shown.shown) if pin is not None}
    return Place(url=url, token=token, trust=Trust(fingerprints=tuple(sorted(pins))))


def running() -> NodeStatus | None:
    """What the node says of itself, or None where none runs."""
    try:
        with connect() as node:
            return node.status()
    except NodeNotRunning:
        return None


def logs_folder() -> Path:
    return config.home() / "logs"


def daemon_log() -> Path:
    return logs_folder() / "daemon.log"


def daemon_command(passphrase_fd: int | None = None) -> list[str]:
    """How the daemon is started. The descriptor is inherited; what is behind it is never among the words."""
    if passphrase_fd is None:
        return [*DAEMON]
    os.set_inheritable(passphrase_fd, True)
    return [*DAEMON, "--passphrase-fd", str(passphrase_fd)]


def start_detached(*, timeout_s: float = START_TIMEOUT_S, passphrase_fd: int | None = None) -> NodeStatus:
    """Start a node in a session of its own and return when its door answers.

    Raises what kept it from starting (AlreadyRunning, PortTaken ...), or DeadlineExceeded; then it is left running,
    for its log to be read and `thaloom down` to end it.
    """
    from thaloom.base.procs import spawn

    log = daemon_log()
    for folder in (config.home(), log.parent):  # for this user alone: `parents` would make the home for everybody
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    begin = log.stat().st_size if log.exists() else 0
    with _interrupts_held() as interrupted:
        pass_fds = () if passphrase_fd is None else (passphrase_fd,)
        daemon = spawn(daemon_command(passphrase_fd), log=log, pass_fds=pass_fds)
    try:
        if interrupted:
            raise KeyboardInterrupt
        status = wait_for_door(daemon, timeout_s=timeout_s)
    except KeyboardInterrupt:  # who gives up before it is there wants no node
        daemon.send(signal.SIGTERM)
        raise
    if status is None:
        raise why_ended(daemon, log, begin)
    return status


@contextlib.contextmanager
def _interrupts_held() -> Iterator[list[int]]:
    """Ctrl-C is noted in the list and not acted on: between fork and return nobody would know whom to end."""
    noted: list[int] = []
    before = signal.signal(signal.SIGINT, lambda signum, _: noted.append(signum))
    try:
        yield noted
    finally:
        signal.signal(signal.SIGINT, before)


def wait_for_door(daemon: ProcessIdentity, *, timeout_s: float) -> NodeStatus | None:
    """The status of that very node once its door is ready; None if it has ended before."""
    deadline = time.monotonic() + timeout_s
    while daemon.alive():
        status = running()
        if status is not None and status.pid == daemon.pid and status.door_ready:
            return status
        if time.monotonic() >= deadline:
            raise DeadlineExceeded(
                f"the node is not ready after {timeout_s:g} s{_why(status)} (see {str(daemon_log())!r})", pid=daemon.pid
            )
        time.sleep(_POLL_S)
    return None


def _why(status: NodeStatus | None) -> str:
    """What a node that answers says of its door."""
    messages = [condition.message for condition in status.conditions if condition.message] if status else []
    return f": {messages[0]}" if messages else ""


def wait_for_any_door(*, timeout_s: float = START_TIMEOUT_S) -> None:
    """Return when the door of this home's node answers, whoever started it."""
    deadline = time.monotonic() + timeout_s
    while (status := running()) is None or not status.door_ready:
        if time.monotonic() >= deadline:
            raise DeadlineExceeded(f"the node's door is not ready after {timeout_s:g} s{_why(status)}")
        time.sleep(_POLL_S)


def why_ended(daemon: ProcessIdentity, log: Path, begin: int) -> ThaloomError:
    """The error a daemon of ours ended with, as it wrote it into its log after byte `begin`."""
    code = _exit_code(daemon)
    with log.open("rb") as file:
        file.seek(begin)
        words = [line for line in file.read().decode(errors="replace").splitlines() if line.strip()]
    for line in reversed(words):
        if (said := _LAST_WORDS.fullmatch(line)) and said["code"] in ERRORS:
            return ERRORS[said["code"]](said["message"])
    last = words[-1] if words else "no word of why"
    return InternalError(f"the node ended with exit code {code} before it was ready: {last}", exit_code=code)


def _exit_code(daemon: ProcessIdentity) -> int | None:
    try:
        return os.waitstatus_to_exitcode(os.waitpid(daemon.pid, 0)[1])
    except ChildProcessError:
        return None


def wait_until_ended(processes: list[ProcessIdentity], *, timeout_s: float) -> list[ProcessIdentity]:
    """Return when all have ended, or those that have not after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    left = processes
    while left and time.monotonic() < deadline:
        time.sleep(_POLL_S)
        left = [process for process in left if process.alive()]
    return left
