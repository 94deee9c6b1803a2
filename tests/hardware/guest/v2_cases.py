"""What only a kernel with version 2 of control groups can show. Runs in the guest, whose tree nobody else uses."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

import thaloom
from tests.hardware.guest.disk import device_number, swapping
from tests.hardware.guest.machine import DISK
from tests.system.test_groups import FOREVER, PATIENCE_S, end, eventually, first_line, start_in
from thaloom.base.errors import NotEnforceable
from thaloom.kernel.sandbox.ends import Ending, met_wall
from thaloom.kernel.sandbox.finding import find_groups
from thaloom.kernel.sandbox.group import Group
from thaloom.kernel.sandbox.inside import landlock
from thaloom.kernel.sandbox.types import Confinement, IoLimit, LimitName, Limits
from thaloom.kernel.sandbox.v2 import NODE, V2Groups

TREE = Path("/sys/fs/cgroup")
MIB = 1 << 20
SOURCE = str(Path(thaloom.__file__).parents[1])
CONTROLLERS = "cpuset cpu io memory hugetlb pids"
USER = 1000
SLOW_S = 240.0
"""Of a program that imports much: emulated processors, and others on the real ones."""
CLONE_NEWCGROUP = 0x02000000
Start = Callable[[Path, str], subprocess.Popen[bytes]]


@pytest.fixture
def given() -> Iterator[Path]:
    """A group as a service manager gives one to a service; this process is its only member."""
    hand_on(TREE, CONTROLLERS)
    folder = TREE / "service"
    folder.mkdir()
    join(folder)
    yield folder
    join(TREE)
    clear(folder)


@pytest.fixture
def start(given: Path) -> Iterator[Start]:
    started: list[subprocess.Popen[bytes]] = []

    def begin(place: Path, program: str) -> subprocess.Popen[bytes]:
        started.append(start_in([place], program))
        return started[-1]

    yield begin
    if (given / "thaloom-x").exists():  # who was forked there holds on to what we read from
        (given / "thaloom-x" / "cgroup.kill").write_text("1")
    for process in started:
        process.kill()
        process.communicate(timeout=PATIENCE_S)


def hand_on(folder: Path, controllers: str) -> None:
    (folder / "cgroup.subtree_control").write_text(" ".join(f"+{name}" for name in controllers.split()))


def join(folder: Path) -> None:
    (folder / "cgroup.procs").write_text(str(os.getpid()))


def clear(folder: Path) -> None:
    """As a service manager does it once a service has ended."""
    (folder / "cgroup.kill").write_text("1")
    eventually(Group("service", {"v2": folder}).delete)


def our_groups() -> V2Groups:
    groups = find_groups("thaloom-x")
    assert isinstance(groups, V2Groups)
    groups.settle()
    return groups


def place(group: Group) -> Path:
    return group.places["v2"]


def entries(file: Path) -> Mapping[str, str]:
    return dict(line.split(maxsplit=1) for line in file.read_text().splitlines())


def held(start: Start, group: Group, program: str) -> tuple[int, str]:
    """How a program in the group ended, and what it said."""
    process = start(place(group), program)
    said, _ = process.communicate(timeout=PATIENCE_S)
    return process.returncode, said.decode()


def test_every_limit_is_there_and_every_one_is_taken_as_it_was_asked_for(given: Path) -> None:
    groups = our_groups()
    abilities = groups.abilities()
    assert {name for name, ability in abilities.items() if not ability.enforced} == {"memory_bandwidth"}
    limits = Limits(
        cpu_permille=1500, cpu_weight=50, cpus=(0, 1), memory_bytes=512 * MIB, swap_bytes=0, num_pids=64,
        io=(IoLimit(device=device_number(DISK), read_bytes_s=4096, write_bytes_s=8192),),
        huge_page_bytes=((2 * MIB, 4 * MIB),),
    )  # fmt: skip
    group = groups.create("w-1", limits)
    taken = {
        "cpu.max": "150000 100000", "cpu.weight": "50", "cpuset.cpus": "0-1", "memory.max": str(512 * MIB),
        "memory.swap.max": "0", "memory.oom.group": "1", "pids.max": "64", "hugetlb.2MB.max": str(4 * MIB),
        "io.max": f"{device_number(DISK)} rbps=4096 wbps=8192 riops=max wiops=max",
    }  # fmt: skip
    assert {name: (place(group) / name).read_text().strip() for name in taken} == taken
    assert end(group)
    groups.close()
    assert sorted(path.name for path in given.iterdir() if path.is_dir()) == [NODE]


@pytest.mark.parametrize(
    ("limits", "limit"),
    [
        (Limits(cpus=(99,)), "cpus"),
        (Limits(cpus=(0, 3)), "cpus"),  # the kernel knows of it, and it is not there: it would be taken in silence
        (Limits(io=(IoLimit(device="250:99", read_bytes_s=1),)), "io"),
        (Limits(huge_page_bytes=((4 * MIB, 0),)), "huge_pages"),
        (Limits(cpu_permille=1 << 50), "cpu"),
        (Limits(num_pids=1 << 40), "pids"),
    ],
)
def test_what_the_kernel_does_not_hold_is_refused_and_leaves_nothing(
    given: Path, limits: Limits, limit: LimitName
) -> None:
    groups = our_groups()
    with pytest.raises(NotEnforceable) as caught:
        groups.create("w-1", limits)
    assert caught.value.details == {"limit": limit}
    assert not (given / "thaloom-x").exists()


def test_a_processor_that_was_not_given_to_the_node_is_refused(given: Path) -> None:
    (given / "cpuset.cpus").write_text("0")
    groups = our_groups()
    with pytest.raises(NotEnforceable, match="processors 1 are not there, or not this node's"):
        groups.create("w-1", Limits(cpus=(1,)))
    group = groups.create("w-1", Limits(cpus=(0,)))
    assert (place(group) / "cpuset.cpus.effective").read_text() == "0\n"
    assert end(group)


def test_members_run_only_on_their_processors(given: Path, start: Start) -> None:
    group = our_groups().create("w-1", Limits(cpus=(1,)))
    assert held(start, group, "import os\nprint(os.sched_getaffinity(0))") == (0, "{1}\n")


def test_memory_past_the_limit_ends_all_of_a_program_and_is_named(given: Path, start: Start) -> None:
    """A child meets it: what is left of such a program would only wait for it."""
    limits = Limits(memory_bytes=48 * MIB, swap_bytes=0)
    group = our_groups().create("w-1", limits)
    program = "import os, time\nif os.fork() == 0:\n    x = b'x' * (64 << 20)\ntime.sleep(1000)"
    status, _ = held(start, group, program)
    assert status == -signal.SIGKILL
    eventually(lambda: not group.members())
    strikes = group.strikes()
    assert (strikes.oom_kills or 0) >= 2  # the one who met it is counted twice
    met = met_wall(Ending(status=status, strikes=strikes, words=""), Confinement(limits=limits), lambda path: False)
    assert met is not None
    assert (met.reason, "48" in met.message) == ("MemoryLimit", True)
    peak = group.usage().memory_peak_bytes
    assert peak is not None
    assert 16 * MIB < peak <= 48 * MIB


def test_swap_is_a_limit_of_its_own(given: Path, start: Start) -> None:
    program = "x = [b'x' * (1 << 20) for _ in range(48)]\nprint(len(x), flush=True)\n" + FOREVER
    groups = our_groups()
    with swapping(DISK, 128 * MIB):
        none = groups.create("w-none", Limits(memory_bytes=32 * MIB, swap_bytes=0))
        assert held(start, none, program) == (-signal.SIGKILL, "")
        some = groups.create("w-some", Limits(memory_bytes=32 * MIB, swap_bytes=64 * MIB))
        assert first_line(start(place(some), program)) == "48"
        assert int((place(some) / "memory.swap.current").read_text()) > 8 * MIB
        assert some.strikes().oom_kills == 0
        assert some.kill()
        eventually(some.delete)


def test_huge_pages_past_the_limit_are_not_had(given: Path, start: Start) -> None:
    pool = Path("/proc/sys/vm/nr_hugepages")
    pool.write_text("4")
    assert pool.read_text() == "4\n"
    program = "import mmap\nm = mmap.mmap(-1, 4 << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x40000)\n"
    program += "for at in (0, 2 << 20):\n    m[at] = 1\n    print(at, flush=True)"
    groups = our_groups()
    one = groups.create("w-one", Limits(huge_page_bytes=((2 * MIB, 2 * MIB),)))
    two = groups.create("w-two", Limits(huge_page_bytes=((2 * MIB, 4 * MIB),)))
    assert held(start, one, program) == (-signal.SIGBUS, "0\n")
    assert entries(place(one) / "hugetlb.2MB.events")["max"] != "0"
    assert held(start, two, program) == (0, "0\n2097152\n")
    pool.write_text("0")


def test_a_small_share_of_a_processor_is_held(given: Path, start: Start) -> None:
    group = our_groups().create("w-1", Limits(cpu_permille=5))
    assert (place(group) / "cpu.max").read_text() == "5000 1000000\n"
    start(place(group), "while True: pass")
    eventually(lambda: int(entries(place(group) / "cpu.stat")["nr_throttled"]) >= 2)


def test_reading_from_a_disk_is_held_back(given: Path, start: Start) -> None:
    """At two bytes a second it would take days, and one without the limit passes it meanwhile."""
    program = (
        f"import os, mmap\nbuffer = mmap.mmap(-1, 4096)\nfile = os.open({DISK!r}, os.O_RDONLY | os.O_DIRECT)\n"
        "print('begun', flush=True)\nfor _ in range(256): os.readv(file, [buffer])\nprint('done', flush=True)"
    )
    groups = our_groups()
    slow = groups.create("w-slow", Limits(io=(IoLimit(device=device_number(DISK), read_bytes_s=2),)))
    fast = groups.create("w-fast", Limits())
    waiting = start(place(slow), program)
    assert first_line(waiting) == "begun"
    assert held(start, fast, program) == (0, "begun\ndone\n")
    assert waiting.poll() is None
    assert f"{device_number(DISK)} rbytes={256 * 4096} " in (place(fast) / "io.stat").read_text()
    (place(slow) / "io.max").write_text(f"{device_number(DISK)} rbps=max")  # what waits in the kernel hears no signal
    assert waiting.wait(PATIENCE_S) == 0


def test_a_fork_that_is_refused_is_counted_and_named(given: Path, start: Start) -> None:
    group = our_groups().create("w-1", Limits(num_pids=4))
    program = (
        "import os, time\ntry:\n    while True:\n        if os.fork() == 0: time.sleep(1000)\n"
        "except OSError as error: print(error.errno, flush=True)\ntime.sleep(1000)"
    )
    assert first_line(start(place(group), program)) == str(errno.EAGAIN)
    assert len(group.members()) == 4
    assert group.strikes().forks_refused == 1
    met = met_wall(
        Ending(status=1, strikes=group.strikes(), words=""), Confinement(limits=Limits(num_pids=4)), lambda path: False
    )
    assert met is not None
    assert met.reason == "ProcessLimit"


def test_pressure_is_the_groups_own(given: Path, start: Start) -> None:
    """Two that want the same processor wait for each other; whoever wants nothing waits for nobody."""
    groups = our_groups()
    busy, idle = groups.create("w-busy", Limits(cpus=(0,))), groups.create("w-idle", Limits())
    start(place(idle), FOREVER)
    start(place(busy), "import os\nos.fork()\nwhile True: pass")
    eventually(lambda: (busy.pressure().cpu or 0) > 5)
    waited, other = busy.pressure(), idle.pressure()
    assert (waited.scope, other.scope) == ("group", "group")
    assert (waited.memory, waited.io) == (0.0, 0.0)
    assert other.memory == 0.0


def test_a_frozen_group_is_frozen_says_the_kernel_and_can_be_killed(given: Path, start: Start) -> None:
    group = our_groups().create("w-1", Limits(num_pids=8))
    process = start(place(group), "print('on', flush=True)\nwhile True: pass")
    assert first_line(process) == "on"
    assert group.freeze(frozen=True)
    eventually(lambda: entries(place(group) / "cgroup.events")["frozen"] == "1")
    assert group.freeze(frozen=False)
    eventually(lambda: entries(place(group) / "cgroup.events")["frozen"] == "0")
    group.freeze(frozen=True)
    assert group.kill()
    assert process.wait(PATIENCE_S) == -signal.SIGKILL
    eventually(group.delete)


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
