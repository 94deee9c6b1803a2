"""Where a node may stand in a real tree of version 2, and who finds its groups there later. Runs in the guest."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import thaloom
from tests.hardware.guest.service import TREE, Start, given, hand_on, join, our_groups, place, start
from tests.system.test_groups import FOREVER, PATIENCE_S, end, eventually, first_line, start_in
from thaloom.base.errors import NotEnforceable
from thaloom.kernel.sandbox.finding import find_groups
from thaloom.kernel.sandbox.group import Group
from thaloom.kernel.sandbox.inside import landlock
from thaloom.kernel.sandbox.types import Limits
from thaloom.kernel.sandbox.v2 import NODE

__all__ = ["given", "start"]

MIB = 1 << 20
SOURCE = str(Path(thaloom.__file__).parents[1])
USER = 1000
SLOW_S = 240.0
"""Of a program that imports much: emulated processors, and others on the real ones."""
CLONE_NEWCGROUP = 0x02000000


def test_at_the_root_of_the_tree_nobody_has_to_move() -> None:
    groups = our_groups()
    group = groups.create("w-1", Limits(num_pids=5))
    assert place(group) == TREE / "thaloom-x" / "w-1"
    assert str(os.getpid()) in (TREE / "cgroup.procs").read_text().split()
    assert end(group)
    groups.close()
    assert not (TREE / "thaloom-x").exists()


def test_one_who_asks_about_the_node_is_told_what_holds_for_it(given: Path, start: Start) -> None:
    """`thaloom doctor host` beside a node that has moved and started its door."""
    our_groups()
    door = start(given / NODE, "print('on', flush=True)\n" + FOREVER)
    assert first_line(door) == "on"
    of_the_node = find_groups("thaloom-doctor", pid=os.getpid())
    assert of_the_node.abilities()["memory"].by == "cgroup v2 memory"
    group = our_groups().create("w-1", Limits(num_pids=5))
    assert place(group).parent.parent == given
    assert end(group)


def test_a_node_that_shares_its_group_is_told_so(given: Path, start: Start) -> None:
    other = start(given, "print('on', flush=True)\n" + FOREVER)
    assert first_line(other) == "on"
    groups = our_groups()
    assert "shares its group with 1 other processes" in (groups.abilities()["memory"].why_not or "")
    with pytest.raises(NotEnforceable):
        groups.create("w-1", Limits(num_pids=5))
    assert [path for path in given.iterdir() if path.is_dir()] == []
    group = groups.create("w-1", Limits())  # nothing is limited in it, and it is ended as one
    member = start(place(group), "import os\nos.fork()\nprint('on', flush=True)\n" + FOREVER)
    assert (first_line(member), first_line(member)) == ("on", "on")
    assert len(group.members()) == 2
    assert group.kill()
    assert member.wait(PATIENCE_S) == -signal.SIGKILL
    eventually(group.delete)
    groups.close()


def test_a_controller_that_was_not_handed_on_is_refused_by_name(given: Path) -> None:
    inner = given / "inner"
    inner.mkdir()
    (given / "outside").mkdir()
    join(given / "outside")  # so that the group above may hand on
    hand_on(given, "pids")
    join(inner)
    groups = our_groups()
    with pytest.raises(NotEnforceable, match=r"controller memory \(v2\) is not handed on") as caught:
        groups.create("w-1", Limits(memory_bytes=MIB))
    assert caught.value.details == {"limit": "memory"}
    group = groups.create("w-1", Limits(num_pids=5))
    assert place(group) == inner / "thaloom-x" / "w-1"
    assert end(group)


DAEMON = """if True:
    import subprocess, sys, time
    sys.path.insert(0, SOURCE)
    from thaloom.kernel.sandbox.finding import find_groups
    from thaloom.kernel.sandbox.types import Limits
    groups = find_groups("thaloom-x")
    groups.settle()
    print(*[f"{group.name} {len(group.members())} {group.usage().num_pids}" for group in groups.list()], flush=True)
    if MAKE:
        group = groups.create("w-1", Limits(num_pids=5, memory_bytes=64 << 20))
        worker = subprocess.Popen(["/bin/sh", "-c", f"echo $$ > {group.places['v2']}/cgroup.procs; exec sleep 1000"])
        while not group.members(): time.sleep(0.01)
        print("made", flush=True)
    else:
        for group in groups.list():
            while not (group.kill() and group.delete()): time.sleep(0.01)
        groups.close()
        print(groups.list(), flush=True)
    time.sleep(1000)
"""


def daemon(*, make: bool) -> str:
    return DAEMON.replace("SOURCE", repr(SOURCE)).replace("MAKE", repr(make))


def test_the_next_daemon_is_started_beside_a_worker_that_lives(given: Path, start: Start) -> None:
    """What systemd does: it puts the process there before it is our program. Into the group itself it cannot, so the
    unit names the node's own (packaging/systemd: DelegateSubgroup)."""
    join(TREE)
    first = start(given, daemon(make=True))
    assert (first_line(first), first_line(first)) == ("", "made")
    first.kill()
    first.wait(PATIENCE_S)
    with pytest.raises(OSError, match="busy") as caught:
        join(given)
    assert caught.value.errno == errno.EBUSY
    following = start(given / NODE, daemon(make=False))
    assert (first_line(following), first_line(following)) == ("w-1 1 1", "[]")
    assert sorted(path.name for path in given.iterdir() if path.is_dir()) == [NODE]


def as_user(where: Path, program: Callable[[], str]) -> str:
    """What it returns, or which error it ended with, in a child that is an ordinary user in that group."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            join(where)
            os.setgroups([])
            os.setresgid(USER, USER, USER)
            os.setresuid(USER, USER, USER)
            os.write(write, program().encode())
        except (AssertionError, OSError, NotEnforceable) as error:
            os.write(write, repr(error).encode())
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read) as said:
        words = said.read()
    os.waitpid(child, 0)
    return words


def test_an_ordinary_user_has_what_was_delegated_to_him(given: Path) -> None:
    def use() -> str:
        groups = our_groups()
        group = groups.create("w-1", Limits(num_pids=5, memory_bytes=64 * MIB))
        member = start_in([place(group)], "print('on', flush=True)\n" + FOREVER)
        assert first_line(member) == "on"
        assert group.members() == {member.pid}
        assert group.kill()
        member.communicate(timeout=PATIENCE_S)
        eventually(group.delete)
        groups.close()
        return "done"

    theirs = given / "theirs"
    theirs.mkdir()
    for path in (theirs, theirs / "cgroup.procs", theirs / "cgroup.subtree_control", theirs / "cgroup.threads"):
        os.chown(path, USER, USER)
    (given / "outside").mkdir()
    join(given / "outside")
    hand_on(given, "pids memory")
    assert as_user(theirs, use) == "done"


def test_an_ordinary_user_to_whom_nothing_was_delegated_is_told_so(given: Path) -> None:
    def ask() -> str:
        groups = our_groups()
        assert groups.create("w-1", Limits()) == Group("w-1", {})  # and its programs start all the same
        return str(groups.abilities()["memory"].why_not)

    assert as_user(given, ask) == f"{given} cannot be written by this user"


def test_a_container_sees_its_part_of_the_tree_as_all_there_is(given: Path, start: Start) -> None:
    """A namespace of control groups: the root it sees is a group like others, in which a node may not stay."""
    program = f"""if True:
        import sys
        sys.path.insert(0, {SOURCE!r})
        from thaloom.kernel.sandbox.inside import kernel_calls as kernel
        kernel.unshare(kernel.CLONE_NEWNS | {CLONE_NEWCGROUP})
        kernel.mount("none", "/", flags=kernel.MS_SLAVE | kernel.MS_REC)
        kernel.umount("/sys/fs/cgroup")
        kernel.mount("cgroup2", "/sys/fs/cgroup", "cgroup2")
        from pathlib import Path
        from thaloom.kernel.sandbox.finding import find_groups
        from thaloom.kernel.sandbox.types import Limits
        groups = find_groups("thaloom-x")
        groups.settle()
        group = groups.create("w-1", Limits(num_pids=5))
        print(group.places["v2"], Path("/proc/self/cgroup").read_text().strip(), flush=True)
        assert group.delete()
        groups.close()
    """
    join(TREE)
    process = start(given, program)
    said, _ = process.communicate(timeout=PATIENCE_S)
    assert said.decode().split() == ["/sys/fs/cgroup/thaloom-x/w-1", f"0::/{NODE}"]
    assert process.returncode == 0


@pytest.mark.timeout(SLOW_S + 60)
def test_doctor_tells_what_this_kernel_does(given: Path) -> None:
    program = "import sys\nfrom thaloom.user.cli import main\nsys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-c", program, "doctor", "host", "--output", "json"], capture_output=True, text=True,
        timeout=SLOW_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["cgroups"] == "v2"
    told = {entry["name"]: entry for entry in report["entries"]}
    limits = {entry["name"] for entry in report["entries"] if entry["kind"] == "limit" and entry["enforced"]}
    assert limits == set()  # the one who asks shares its group with the one that asked
    assert "shares its group with" in told["memory"]["why_not"]
    assert told["pressure"]["enforced"] == Path("/proc/pressure/memory").exists()
    assert told["landlock"]["by"] == f"Landlock ABI {landlock.abi()}"
    assert told["processes"]["enforced"] == (landlock.abi() >= landlock.SIGNALS_ABI)
    assert told["view"]["enforced"]
    assert told["syscalls"]["enforced"]
    release = tuple(int(word) for word in report["kernel"].split("-")[0].split(".")[:2])
    assert told["turns"]["enforced"] == (release >= (6, 12))
    assert not told["isolated_cpus"]["enforced"]
    assert told["memory_encryption"]["enforced"] is False
