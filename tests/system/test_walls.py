"""Real programs that misbehave, behind the walls this host builds: each is stopped at its wall, and the wall is named.

Where this host lacks a limit or a wall, the same test proves that asking for it is refused: nothing here is skipped.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from thaloom.base.errors import NotEnforceable
from thaloom.kernel.sandbox.finding import find_groups
from thaloom.kernel.sandbox.grouping import folder_name
from thaloom.kernel.sandbox.host import Walls, find_walls, python_paths, real_paths
from thaloom.kernel.sandbox.inside import landlock
from thaloom.kernel.sandbox.latency import WEIGHTS
from thaloom.kernel.sandbox.plan import command_of, steps_of, write_plan
from thaloom.kernel.sandbox.types import Confinement, Latency, LimitName, Limits, WallName
from thaloom.kernel.sandbox.walls import Confined, Sandbox

MIB = 1 << 20
PATIENCE_S = 60.0


@pytest.fixture(scope="module", params=["as we are", "as an ordinary user"])
def walls(request: pytest.FixtureRequest) -> Walls:
    return find_walls(as_user=True if request.param == "as an ordinary user" else None)


@dataclass
class Ended:
    status: int
    words: str
    reason: str | None


class Box:
    """Runs programs behind walls, and ends what they leave."""

    def __init__(self, folder: Path, walls: Walls) -> None:
        self.folder = folder
        self.sandbox = Sandbox(walls=walls, groups=find_groups(folder_name(folder)))
        self.started: list[tuple[Confined, subprocess.Popen[bytes]]] = []

    def start(self, program: str, **wish: object) -> tuple[Confined, subprocess.Popen[bytes]]:
        name = f"w-{len(self.started)}"
        plan, log = self.folder / f"{name}.walls", self.folder / f"{name}.log"
        self.wish = Confinement(read=(*python_paths(), *wish.pop("read", ())), **wish)  # type: ignore[arg-type, misc]
        command = [sys.executable, "-I", "-S", "-u", "-c", program]
        command = self.sandbox.confine(name, self.wish, command, plan=plan, failure=self.folder / f"{name}.failure")
        with log.open("wb") as output:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        self.started.append((Confined(name, plan), process))
        return self.started[-1]

    def run(self, program: str, **wish: object) -> Ended:
        confined, process = self.start(program, **wish)
        status = process.wait(PATIENCE_S)
        log = self.folder / f"{confined.group.name}.log"
        words = log.read_text(errors="replace")
        met = confined.met(self.wish, status=status, words=words, log=log)
        return Ended(status=status, words=words, reason=None if met is None else met.reason)

    def words(self, confined: Confined) -> str:
        return (self.folder / f"{confined.group.name}.log").read_text(errors="replace")

    def close(self) -> None:
        for confined, process in self.started:
            if process.poll() is None:
                process.kill()
            confined.group.kill()
            process.wait(PATIENCE_S)
            eventually(confined.end)
        self.sandbox.groups.close()
        assert self.sandbox.groups.list() == []


def eventually(what: object, timeout_s: float = PATIENCE_S) -> None:
    assert callable(what)
    deadline = time.monotonic() + timeout_s
    while not what():
        assert time.monotonic() < deadline, f"still not so: {what}"
        time.sleep(0.02)


@pytest.fixture
def box(tmp_path: Path, walls: Walls) -> Iterator[Box]:
    made = Box(tmp_path, walls)
    try:
        yield made
    finally:
        made.close()


@contextlib.contextmanager
def refused_unless(box: Box, *, limit: LimitName | None = None, wall: WallName | None = None) -> Iterator[bool]:
    """Whether this host has it; where it has not, that asking for it is refused is what is tested."""
    if limit is not None and not box.sandbox.groups.abilities()[limit].enforced:
        with pytest.raises(NotEnforceable):
            yield False
    elif wall is not None and wall not in box.sandbox.walls.enforced:
        required = Sandbox(walls=box.sandbox.walls, groups=box.sandbox.groups, mode="required")
        with pytest.raises(NotEnforceable):
            required.confine("x", Confinement(), ["/bin/true"], plan=box.folder / "x")
        yield False
    else:
        yield True


def test_memory_past_the_limit(box: Box) -> None:
    with refused_unless(box, limit="memory"):
        limits = Limits(
            memory_bytes=64 * MIB, swap_bytes=0 if box.sandbox.groups.abilities()["swap"].enforced else None
        )
        ended = box.run("kept = []\nwhile True: kept.append(b'x' * 1048576)", limits=limits)
        assert (ended.status, ended.reason) == (-signal.SIGKILL, "MemoryLimit")


def test_forks_without_end(box: Box) -> None:
    program = "import os\nwhile True:\n    if os.fork() == 0:\n        while True: os.fork()"
    with refused_unless(box, limit="pids"):
        ended = box.run(program, limits=Limits(num_pids=20))
        assert ended.reason == "ProcessLimit"
        assert "Resource temporarily unavailable" in ended.words
        confined = box.started[-1][0]
        assert len(confined.group.members()) <= 20
        eventually(confined.end)  # its children with it
        assert not confined.group.exists()


def test_forks_that_are_caught_are_told_while_it_lives(box: Box) -> None:
    program = (
        "import os, time\nfor i in range(100):\n    try:\n        if os.fork() == 0: time.sleep(1000)\n"
        "    except OSError: pass\nprint('done', flush=True)\ntime.sleep(1000)"
    )
    with refused_unless(box, limit="pids"):
        confined, _ = box.start(program, limits=Limits(num_pids=20))
        eventually(lambda: "done" in box.words(confined))
        met = confined.meeting(20)
        assert met is not None
        assert met.reason == "ProcessLimit"


def test_a_full_disk_of_its_own(box: Box) -> None:
    with refused_unless(box, wall="view") as there:
        if there:
            before = os.statvfs(box.folder).f_bavail
            program = "f = open('/tmp/x', 'wb')\nwhile True: f.write(b'x' * 65536)"
            ended = box.run(program, scratch_bytes=8 * MIB)
            assert (ended.status, ended.reason) == (1, "ScratchFull")
            assert before - os.statvfs(box.folder).f_bavail < 64 * MIB * 256  # the host's disk has other users


@pytest.mark.parametrize(("latency", "policy", "nice"), [("interactive", 0, 0), ("batch", 3, 10)])
def test_a_latency_class_is_what_the_kernel_says_of_the_program(
    box: Box, latency: Latency, policy: int, nice: int
) -> None:
    program = "import os; print(os.sched_getscheduler(0), os.nice(0)); print(open('/proc/self/cgroup').read())"
    ability = box.sandbox.latency(latency)
    if not ability.enforced:  # asking for it by name is refused: tests/unit/init/test_confining.py
        assert ability.why_not
        return
    ended = box.run(program, latency=latency, limits=Limits(cpu_weight=WEIGHTS[latency]))
    assert ended.words.startswith(f"{policy} {nice}\n")
    group = box.started[-1][0].group
    if "cpu" in group.places:
        assert f"cpu:/{group.places['cpu'].relative_to('/sys/fs/cgroup/cpu')}" in ended.words
        assert (group.places["cpu"] / "cpu.shares").read_text().strip() == str(WEIGHTS[latency] * 1024 // 100)
    else:
        assert (group.places["v2"] / "cpu.weight").read_text().strip() == str(WEIGHTS[latency])


def test_no_file_outside_its_scratch(box: Box) -> None:
    with refused_unless(box, wall="view") as there:
        if there:
            for path in ("/usr/x", "/x", "/etc/x", "/proc/sys/vm/overcommit_memory", "/dev/x"):
                ended = box.run(f"open({path!r}, 'w')")
                assert ended.status == 1, path
            assert not Path("/x").exists()


def test_a_log_without_end(box: Box) -> None:
    ended = box.run("while True: print('x' * 1000)", file_bytes=MIB)
    assert ended.reason == "FileLimit"
    assert len(ended.words) <= MIB


@pytest.mark.parametrize("family", ["AF_INET", "AF_INET6"])
def test_the_network(box: Box, family: str) -> None:
    with refused_unless(box, wall="syscalls") as there:
        if there:
            program = f"import socket\nsocket.socket(socket.{family}).connect(('127.0.0.1', 9))"
            ended = box.run(program)
            assert (ended.status, ended.reason) == (1, "NetworkForbidden")


def test_a_loopback_of_its_own_reaches_nobody_else(box: Box) -> None:
    """A guest's server can be asked by its worker, and another program of this host cannot be asked by it."""
    with socket.socket() as listener, refused_unless(box, wall="network") as there:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        program = (
            "import socket\nhere = socket.create_server(('127.0.0.1', 0))\n"
            "socket.create_connection(here.getsockname(), 5).close()\nprint('own')\n"
            f"socket.create_connection(('127.0.0.1', {port}), 5)"
        )
        if there:
            ended = box.run(program, network="loopback")
            assert "own" in ended.words
            assert "Connection refused" in ended.words
            assert box.run(program, network="host").status == 0


def test_anothers_model(box: Box, tmp_path: Path) -> None:
    mine, theirs = tmp_path / "mine", tmp_path / "theirs"
    mine.write_text("weights")
    theirs.write_text("secret")
    with refused_unless(box, wall="view") as there:
        if there:
            program = f"print(open({str(mine)!r}).read())\nprint(open({str(theirs)!r}).read())"
            ended = box.run(program, read=(str(mine),))
            assert "weights" in ended.words
            assert "secret" not in ended.words
            assert ended.reason == "OutsideItsView"
            assert str(theirs) in ended.words


def test_what_others_have_mapped_is_written_and_not_shortened(box: Box) -> None:
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:  # below /tmp it would be its own scratch
        Path(folder).chmod(0o755)
        _write_and_shorten(box, Path(folder) / "board")


def _write_and_shorten(box: Box, board: Path) -> None:
    board.write_bytes(bytes(100))
    board.chmod(0o666)
    program = (
        f"import os\npath = {str(board)!r}\nfile = open(path, 'r+b', buffering=0)\nfile.write(b'here')\n"
        "for shorten in (lambda: os.truncate(path, 0), lambda: file.truncate(0), lambda: open(path, 'wb')):\n"
        "    try: shorten()\n    except OSError as error: print('kept', error.errno)\n"
    )
    with refused_unless(box, wall="landlock") as there:
        if there and landlock.abi() >= 3:
            ended = box.run(program, words=(str(board),))
            assert ended.words.splitlines() == [f"kept {errno.EACCES}"] * 3
            assert board.read_bytes() == b"here" + bytes(96)


def test_a_program_that_sees_the_host_sees_no_secrets_and_no_disks(box: Box, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "key").write_text("secret")
    program = (
        "import os\nprint(open('/etc/passwd').read()[:4])\nprint(sorted(os.listdir('/dev')))\n"
        "print(os.listdir('/run'))\n"
        "try: open('/etc/x', 'w')\nexcept OSError as error: print(error)\n\n"
        f"print(open({str(secret / 'key')!r}).read())"
    )
    with refused_unless(box, wall="view") as there:
        if there:
            ended = box.run(program, whole_host=True, hidden=(str(secret),))
            lines = ended.words.splitlines()
            assert lines[0] == Path("/etc/passwd").read_text()[:4]
            assert lines[1] == str(
                sorted(["fd", "full", "null", "random", "shm", "stderr", "stdin", "stdout", "urandom", "zero"])
            )
            assert lines[2] == "[]"
            assert "Read-only file system" in lines[3] or "Permission denied" in lines[3]
            assert ended.reason == "OutsideItsView"


def test_no_way_round_by_a_link_or_by_proc(box: Box, tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    theirs.write_text("secret")
    with refused_unless(box, wall="view") as there:
        if there:
            for path in (f"/proc/{os.getpid()}/root{theirs}", f"/proc/1/root{theirs}", f"/proc/{os.getpid()}/environ"):
                ended = box.run(f"print(open({path!r}).read())")
                assert ended.status == 1, path
            program = f"import os\nos.symlink({str(theirs)!r}, '/tmp/l')\nprint(open('/tmp/l').read())"
            assert "secret" not in box.run(program).words


def test_a_forbidden_call(box: Box) -> None:
    with refused_unless(box, wall="syscalls") as there:
        if there:
            ended = box.run("import ctypes\nctypes.CDLL(None).mount(b'a', b'/tmp', b'tmpfs', 0, None)")
            assert (ended.status, ended.reason) == (-signal.SIGSYS, "ForbiddenCall")


def test_other_processes_are_out_of_reach(box: Box) -> None:
    with refused_unless(box, wall="processes") as there:
        if there:
            ended = box.run(f"import os\nos.kill({os.getpid()}, 0)")
            assert ended.status == 1
            assert "PermissionError" in ended.words


def test_no_capability_is_left_and_none_comes_back(box: Box) -> None:
    program = (
        "import os, subprocess\nfor line in open('/proc/self/status'):\n"
        "    if line.startswith(('Cap', 'NoNewPrivs')): print(line.strip())\n"
        "subprocess.run(['/bin/cat', '/proc/self/status'])"
    )
    with refused_unless(box, wall="privileges"):
        words = box.run(program).words
    assert "NoNewPrivs:\t1" in words
    effective = [line for line in words.splitlines() if line.startswith(("CapEff", "CapPrm", "CapBnd"))]
    assert len(effective) == 6
    held = {line.split()[1] for line in effective if not line.startswith("CapBnd") or os.getuid() == 0}
    assert held == {"0" * 16}


def test_a_program_that_ignores_sigterm_ends_with_its_group(box: Box) -> None:
    program = (
        "import os, signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nos.fork()\nprint('deaf', flush=True)\n"
        "time.sleep(1000)"
    )
    confined, process = box.start(program)
    eventually(lambda: box.words(confined).count("deaf") == 2)
    process.terminate()
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.2)
    confined.group.kill()
    assert process.wait(PATIENCE_S) == -signal.SIGKILL
    eventually(confined.end)


def test_the_process_is_the_one_that_was_started(box: Box) -> None:
    """Whoever keeps its pid and start time keeps watching the right one."""
    confined, process = box.start("import os\nprint(os.getpid(), flush=True)\nimport time\ntime.sleep(1000)")
    eventually(lambda: box.words(confined).strip())
    assert box.words(confined).strip() == str(process.pid)
    if confined.group.places:
        assert confined.group.members() == {process.pid}


def test_a_frozen_group_stands_still_and_goes_on(box: Box) -> None:
    confined, _ = box.start("import time\nwhile True:\n    print('x', flush=True)\n    time.sleep(0.001)")
    eventually(lambda: box.words(confined))
    if not confined.group.freeze(frozen=True):
        return  # this host cannot, and says so
    still = box.words(confined)
    time.sleep(0.1)
    assert len(box.words(confined)) - len(still) <= 8  # what was on its way when it was frozen
    still = box.words(confined)
    confined.group.freeze(frozen=False)
    eventually(lambda: len(box.words(confined)) > len(still) + 8)


def test_processor_time_is_held_to_its_share(box: Box) -> None:
    """Counted by the kernel, not by the clock: how much it got of what it was given."""
    with refused_unless(box, limit="cpu"):
        confined, _ = box.start("while True: pass", limits=Limits(cpu_permille=200))
        throttled = confined.group.places.get("cpu", confined.group.places.get("v2"))
        assert throttled is not None
        eventually(lambda: any(
            line.startswith("nr_throttled") and int(line.split()[1]) >= 5
            for line in (throttled / "cpu.stat").read_text().splitlines()
        ))  # fmt: skip


def test_a_wall_that_falls_at_the_start_is_told_and_nothing_runs(box: Box, tmp_path: Path) -> None:
    if "view" not in box.sandbox.walls.enforced:
        return
    gone = tmp_path / "gone"
    gone.touch()
    plan, failure = tmp_path / "p", tmp_path / "failure"
    wish = Confinement(read=(*python_paths(), str(gone)))
    command = box.sandbox.confine("w-x", wish, [sys.executable, "-c", "print('ran')"], plan=plan, failure=failure)
    gone.unlink()
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert done.returncode == 71
    assert "ran" not in done.stdout
    assert '"code":"not_enforceable"' in failure.read_text()
    eventually(Confined("w-x", plan).end)


SHOWN = """
import json, os, re, resource
from pathlib import Path

status = [line for line in Path("/proc/self/status").read_text().splitlines()
          if line.startswith(("Cap", "Seccomp", "NoNew", "Uid", "Gid", "Groups", "Umask"))]
mounts = sorted(re.sub(r"(shared|master):[0-9]+ ?", "", line.split(" ", 3)[3])
                for line in Path("/proc/self/mountinfo").read_text().splitlines())
spaces = sorted(name for name, link in HERE.items() if os.readlink(f"/proc/self/ns/{name}") != link)
ids = [Path(f"/proc/self/{name}").read_text() for name in ("uid_map", "gid_map", "setgroups")]
limits = [resource.getrlimit(number) for number in range(16)]
print(json.dumps([status, mounts, spaces, ids, limits, os.getcwd(), sorted(os.listdir("/"))]))
"""
ITSELF = """
from pathlib import Path
from thaloom.kernel.sandbox.inside.steps import enter
from thaloom.kernel.sandbox.plan import read_plan
enter(read_plan(Path(PLAN)))
"""


def test_who_puts_up_its_walls_itself_is_behind_the_very_ones_of_a_launcher(tmp_path: Path, walls: Walls) -> None:
    """As the kernel shows them: privileges, filters, namespaces, mounts, limits."""
    wish = Confinement(read=python_paths(), file_bytes=MIB)
    plan = tmp_path / "plan"
    write_plan(plan, steps_of(wish, walls.enforced, walls.ways, real=real_paths(wish)))
    here = {path.name: str(path.readlink()) for path in Path("/proc/self/ns").iterdir()}
    shown = f"HERE = {here!r}\n{SHOWN}"
    python = [sys.executable, "-P", "-c"]
    launched = subprocess.run(command_of(plan, [*python, shown]), capture_output=True, timeout=PATIENCE_S, check=True)
    program = f"PLAN = {str(plan)!r}\n{ITSELF}\n{shown}"
    itself = subprocess.run([*python, program], capture_output=True, timeout=PATIENCE_S, check=True)
    assert json.loads(itself.stdout) == json.loads(launched.stdout)
