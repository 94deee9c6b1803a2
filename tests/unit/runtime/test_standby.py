"""A worker that waits, as a process of its own: it becomes what it is told, or says why not and ends."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from thaloom import __version__
from thaloom.kernel.sandbox.plan import write_plan
from thaloom.work.runtime.worker.standby import MAX_BYTES, REPORTS, Orders, Refused, Report, Taken, Waits, changed_since

PATIENCE_S = 60.0
PROGRAM = """
import json, os, sys, threading
from pathlib import Path
from thaloom.work.runtime.worker.standby import stand_by
if "threads" in sys.argv:
    threading.Thread(target=threading.Event().wait, daemon=True).start()
if stand_by():
    umask = os.umask(0)
    said = os.read(int(os.environ["GIVEN"]), 100).decode() if "GIVEN" in os.environ else None
    stdin = str(Path("/proc/self/fd/0").readlink())
    open_files = sorted(int(path.name) for path in Path("/proc/self/fd").iterdir())
    print(json.dumps([dict(os.environ), said, stdin, umask, len(open_files)]), flush=True)
    sys.exit(7)
"""


class Waiting:
    def __init__(self, *arguments: str) -> None:
        self.channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.channel.settimeout(PATIENCE_S)
        self.started_at = time.time()
        with theirs:
            command = [sys.executable, "-P", "-c", PROGRAM, *arguments]
            environment = os.environ | {"OPENBLAS_NUM_THREADS": "1"}  # NumPy's threads would be threads
            self.process = subprocess.Popen(command, stdin=theirs.fileno(), env=environment)
        assert self.report() == Waits(version=__version__)

    def report(self) -> Report:
        return REPORTS.decode(self.channel.recv(MAX_BYTES))

    def order(self, orders: Orders, *descriptors: int) -> None:
        socket.send_fds(self.channel, [msgspec.json.encode(orders)], descriptors)

    def ended(self) -> int:
        return self.process.wait(PATIENCE_S)

    def close(self) -> None:
        self.channel.close()
        self.process.kill()
        self.process.wait(PATIENCE_S)


Start = Callable[..., Waiting]


@pytest.fixture
def start() -> Iterator[Start]:
    with contextlib.ExitStack() as started:

        def begin(*arguments: str) -> Waiting:
            waiting = Waiting(*arguments)
            started.callback(waiting.close)
            return waiting

        yield begin


@pytest.fixture
def output(tmp_path: Path) -> Iterator[int]:
    descriptor = os.open(tmp_path / "output", os.O_RDWR | os.O_CREAT | os.O_APPEND)
    yield descriptor
    os.close(descriptor)


def orders(waiting: Waiting, plan: Path | None = None, **more: object) -> Orders:
    environment = {"HOME": "/nowhere", "LANG": "C.UTF-8"}
    wanted = {"started_at": waiting.started_at, "environment": environment, "plan": None if plan is None else str(plan)}
    return msgspec.convert(wanted | more, Orders)


def test_it_becomes_what_it_is_told(start: Start, tmp_path: Path, output: int) -> None:
    (tmp_path / "given").write_text("from the daemon")
    plan = tmp_path / "plan"
    write_plan(plan, [("umask", "027"), ("environ", "HOME", "/tmp")])
    waiting = start()
    given = os.open(tmp_path / "given", os.O_RDONLY)
    waiting.order(orders(waiting, plan, descriptors=("GIVEN",)), output, given)
    os.close(given)
    assert waiting.report() == Taken()
    assert waiting.ended() == 7
    environment, said, stdin, umask, open_files = json.loads((tmp_path / "output").read_text())
    assert {name for name in environment if not name.startswith("LC_")} == {"HOME", "LANG", "GIVEN"}
    assert environment["HOME"] == "/tmp"
    assert said == "from the daemon"
    assert stdin == "/dev/null"
    assert umask == 0o027
    assert open_files == 5, "its standard ones, what it was given, and the folder that is being listed"


def test_orders_that_came_whole_are_carried_out_whoever_has_ended(start: Start, tmp_path: Path, output: int) -> None:
    waiting = start()
    waiting.order(orders(waiting), output)
    waiting.channel.close()
    assert waiting.ended() == 7
    assert (tmp_path / "output").read_text()


def test_it_ends_with_whoever_started_it(start: Start) -> None:
    waiting = start()
    waiting.channel.close()
    assert waiting.ended() == 0


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"started_at": 0.0}, "is not what it was"),
        ({"plan": "/nowhere/plan"}, "is no plan"),
        ({"descriptors": ("GIVEN",)}, "1 descriptors were announced, 0 came"),
    ],
)
def test_what_it_cannot_carry_out_it_refuses(start: Start, output: int, wrong: dict[str, object], reason: str) -> None:
    waiting = start()
    waiting.order(orders(waiting, **wrong), output)  # type: ignore[arg-type]
    report = waiting.report()
    assert isinstance(report, Refused)
    assert reason in report.reason
    assert waiting.ended() == 0


def test_a_wall_that_does_not_hold_is_named(start: Start, tmp_path: Path, output: int) -> None:
    plan = tmp_path / "plan"
    write_plan(plan, [("umask", "077"), ("join", "v2", str(tmp_path / "no-group"))])
    waiting = start()
    waiting.order(orders(waiting, plan), output)
    report = waiting.report()
    assert isinstance(report, Refused)
    assert "wall 'join' cannot be built" in report.reason
    assert waiting.ended() == 0
    assert (tmp_path / "output").read_text() == ""


def test_with_several_threads_it_goes_behind_no_wall(start: Start, tmp_path: Path, output: int) -> None:
    """Each thread would be behind walls of its own, or none."""
    plan = tmp_path / "plan"
    write_plan(plan, [("umask", "077")])
    waiting = start("threads")
    waiting.order(orders(waiting, plan), output)
    report = waiting.report()
    assert isinstance(report, Refused)
    assert "several threads" in report.reason


def test_a_file_that_was_imported_and_is_gone_or_new_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = tmp_path / "thaloom_changing_module.py"
    module.write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    __import__("thaloom_changing_module")
    imported = sys.modules["thaloom_changing_module"]
    monkeypatch.setattr(sys, "modules", {"thaloom_changing_module": imported})
    later = max(path.stat().st_ctime for path in (tmp_path, module)) + 1
    assert changed_since(later) is None
    assert changed_since(later - 2) in (str(module), str(tmp_path))
    module.unlink()
    assert changed_since(later) == str(module)
