"""A worker that waits: all imported, nobody's yet, and behind no wall. When it is told what it is to be it puts up its
walls itself, and goes on as one that was started just then.

It reads its orders from its standard input, a socket that keeps messages whole: it has all of them, or it is still a
standby. Whoever started it ends it by closing the other end, or by ending.

    > Waits            everything is imported
    < Orders           with descriptors: first where its output goes, then those it would have inherited
    > Taken, Refused   the walls are up; or they are not, and it ends

Nothing of it forks: it has one thread until its walls are up, for namespaces, privileges and filters are each thread's
own; and an address space that no other process has a copy of.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec

from thaloom import __version__
from thaloom.base.errors import ThaloomError
from thaloom.base.heap import give_back
from thaloom.base.plugins import Registry
from thaloom.hal.driver import Driver, Prepares
from thaloom.kernel.sandbox.inside.steps import enter
from thaloom.kernel.sandbox.plan import read_plan
from thaloom.work.runtime.architectures import Architecture

MAX_BYTES = 1 << 20
"""Of one message; orders hold a whole environment."""
MAX_DESCRIPTORS = 16


class Waits(msgspec.Struct, frozen=True, tag=True):
    version: str
    """Of the code that it has imported."""


class Orders(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    started_at: float
    """A moment before anything was imported, in seconds since the epoch: what was changed since may be the old or the
    new here, and is the new in any other process."""
    plan: str | None
    """The plan of its walls (kernel.sandbox.plan); None: it has none."""
    environment: dict[str, str]
    """All of it."""
    descriptors: tuple[str, ...] = ()
    """The variables that name those which come after its output's, in their order."""


class Taken(msgspec.Struct, frozen=True, tag=True):
    pass


class Refused(msgspec.Struct, frozen=True, tag=True):
    reason: str


Report = Waits | Taken | Refused
REPORTS: msgspec.json.Decoder[Report] = msgspec.json.Decoder(Report)


def get_ready(drivers: Registry[Driver], architectures: Registry[Architecture], driver: str) -> None:
    """Do what any model needs that this driver serves. What cannot be done is told when it is asked for."""
    for name in architectures.names():
        _try(lambda name=name: architectures.create(name))  # type: ignore[misc]
    _try(lambda: _prepare(drivers.create(driver)))
    give_back()


def stand_by() -> bool:
    """Wait for orders, and become what they say; False where there are none any more, or they cannot be carried out,
    and the process is to end."""
    with socket.socket(fileno=0) as daemon:
        _tell(daemon, Waits(version=__version__))
        try:
            message, descriptors, _, _ = socket.recv_fds(daemon, MAX_BYTES, MAX_DESCRIPTORS)
        except OSError:
            return False
        if not message:
            return False
        nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        try:
            _become(msgspec.json.decode(message, type=Orders), descriptors)
        except (OSError, ValueError) as error:
            _tell(daemon, Refused(reason=str(error)))
            return False
        _tell(daemon, Taken())
        os.dup2(nothing, daemon.detach())
        os.close(nothing)
    return True


def _tell(daemon: socket.socket, report: Report) -> None:
    """A daemon that ended meanwhile is no reason: the next finds a worker, or nothing."""
    with contextlib.suppress(OSError):
        daemon.send(msgspec.json.encode(report))


def changed_since(moment: float) -> str | None:
    """A file that was imported, or a folder from which more may be, that is not the one of then; None: none. By the
    time of its last change, which nobody can set (inode(7), ctime)."""
    files: list[str | None] = [getattr(module, "__file__", None) for module in list(sys.modules.values())]
    for path in {*filter(None, files), *filter(None, sys.path)}:
        try:
            changed = Path(path).stat().st_ctime > moment
        except OSError:
            changed = path not in sys.path  # a place that never was
        if changed:
            return path
    return None


def _become(orders: Orders, descriptors: list[int]) -> None:
    """Raises OSError, ValueError; then only an end is left."""
    if changed := changed_since(orders.started_at):
        raise OSError(f"{changed} is not what it was when it was imported here")
    output, *inherited = descriptors
    if len(inherited) != len(orders.descriptors):
        raise ValueError(f"{len(orders.descriptors)} descriptors were announced, {len(inherited)} came")
    told = {name: str(descriptor) for name, descriptor in zip(orders.descriptors, inherited, strict=True)}
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(output)
    walls = {} if orders.plan is None else enter(_steps(orders.plan))
    wanted = orders.environment | told | walls
    for name in os.environ.keys() - wanted.keys():
        del os.environ[name]
    os.environ.update(wanted)


def _steps(plan: str) -> list[tuple[str, ...]]:
    """Raises OSError: no plan would be no wall."""
    if steps := read_plan(Path(plan)):
        return steps
    raise OSError(f"{plan} is no plan")


def _prepare(driver: Driver) -> None:
    if isinstance(driver, Prepares):
        driver.prepare()


def _try(step: Callable[[], object]) -> None:
    with contextlib.suppress(ThaloomError):
        step()
