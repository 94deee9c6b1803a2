"""Every limit of version 2 on a real kernel: taken as it was asked for, held, and its end named. Runs in the guest."""

from __future__ import annotations

import errno
import signal
from pathlib import Path

import pytest

from tests.hardware.guest.disk import device_number, swapping
from tests.hardware.guest.machine import DISK
from tests.hardware.guest.service import Start, entries, given, held, our_groups, place, start
from tests.system.test_groups import FOREVER, PATIENCE_S, end, eventually, first_line
from thaloom.base.errors import NotEnforceable
from thaloom.kernel.sandbox.ends import Ending, met_wall
from thaloom.kernel.sandbox.types import Confinement, IoLimit, LimitName, Limits
from thaloom.kernel.sandbox.v2 import NODE

__all__ = ["given", "start"]

MIB = 1 << 20


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
