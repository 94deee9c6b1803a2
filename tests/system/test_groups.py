"""Control groups of this host's own kernel, of whichever version: who is in one, who finds it, and its end.

Where the host lets us make none, the same tests hold that to be said: nothing here is skipped.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from thaloom.kernel.sandbox.finding import find_groups
from thaloom.kernel.sandbox.group import Group
from thaloom.kernel.sandbox.grouping import Groups, folder_name
from thaloom.kernel.sandbox.types import LimitName, Limits

PATIENCE_S = 90.0
Start = Callable[[Group, str], subprocess.Popen[bytes]]
FOREVER = "import time; time.sleep(1000)"


def eventually(what: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not what():
        assert time.monotonic() < deadline, f"still not so: {what}"
        time.sleep(0.02)


def start_in(places: Iterable[Path], program: str) -> subprocess.Popen[bytes]:
    """A Python that is a member there before its first line."""
    script = 'for procs; do echo $$ > $procs || exit 70; done; exec "$PYTHON" -I -S -c "$PROGRAM"'
    return subprocess.Popen(
        ["/bin/sh", "-c", script, "sh", *(str(place / "cgroup.procs") for place in places)],
        env={"PYTHON": sys.executable, "PROGRAM": program, "PATH": "/usr/bin:/bin"}, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
    )  # fmt: skip


def first_line(process: subprocess.Popen[bytes]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().decode().strip()


def end(group: Group) -> bool:
    return group.kill() and group.delete()


@pytest.fixture
def groups(tmp_path: Path) -> Iterator[Groups]:
    found = find_groups(folder_name(tmp_path))
    try:
        yield found
    finally:
        for group in found.list():
            eventually(lambda group=group: end(group))  # type: ignore[misc]
        found.close()
        assert found.list() == []


@pytest.fixture
def start(groups: Groups) -> Iterator[Start]:
    """Starts programs in groups, and ends what a test leaves of them."""
    started: list[subprocess.Popen[bytes]] = []

    def begin(group: Group, program: str) -> subprocess.Popen[bytes]:
        started.append(start_in(group.places.values(), program))
        return started[-1]

    yield begin
    for group in groups.list():
        group.kill()
    for process in started:
        process.kill()
        process.communicate(timeout=PATIENCE_S)


def asked(groups: Groups, **limits: int) -> Limits:
    """Those of them that this host enforces."""
    named: dict[str, LimitName] = {"memory_bytes": "memory", "num_pids": "pids"}
    return Limits(**{key: value for key, value in limits.items() if groups.abilities()[named[key]].enforced})  # type: ignore[arg-type]


def test_a_member_is_counted(groups: Groups, start: Start) -> None:
    group = groups.create("w-1", asked(groups, memory_bytes=256 << 20, num_pids=20))
    process = start(group, "x = b'x' * (16 << 20)\nwhile sum(range(1000)): print('on', flush=True)")
    assert first_line(process) == "on"
    if group.places:
        assert group.members() == {process.pid}
    usage, limits = group.usage(), asked(groups, memory_bytes=256 << 20, num_pids=20).asked()
    if "memory" in limits:
        assert usage.memory_bytes is not None
        assert usage.memory_bytes > 16 << 20
        assert group.memory_limit() == 256 << 20
    if "pids" in limits:
        assert usage.num_pids == 1
    if usage.cpu_s is not None:
        eventually(lambda: (group.usage().cpu_s or 0) > 0.01)


def test_all_that_forks_without_end_is_ended_together(groups: Groups, start: Start) -> None:
    group = groups.create("w-1", asked(groups, num_pids=60))
    if not group.places or groups.abilities()["pids"].why_not:
        return  # without a limit such a program would have this host
    program = "import os, time\nprint('on', flush=True)\nwhile True:\n    try: os.fork()\n    except OSError: pass"
    process = start(group, program)
    assert first_line(process) == "on"
    eventually(lambda: (group.strikes().forks_refused or 0) > 0)
    assert len(group.members()) > 1
    assert group.kill()
    process.wait(PATIENCE_S)
    eventually(group.delete)
    assert not group.exists()
    assert groups.list() == []


def test_a_group_with_a_member_stays_until_it_is_ended(groups: Groups, start: Start) -> None:
    group = groups.create("w-1", asked(groups, num_pids=20))
    if not group.places:
        return
    process = start(group, "print('on', flush=True)\n" + FOREVER)
    assert first_line(process) == "on"
    assert not group.delete()
    assert process.poll() is None  # to ask for that hurts nobody
    assert group.kill()
    process.wait(PATIENCE_S)
    eventually(group.delete)


def test_groups_that_a_program_makes_inside_its_own_hide_nobody(groups: Groups, start: Start) -> None:
    """One that sees the tree and may write there, because the wall `view` does not hold."""
    group = groups.create("w-1", asked(groups, num_pids=20))
    if not group.places:
        return
    inside = [str(place / "mine" / "deeper") for place in group.places.values() if "cpuset" not in place.parts]
    program = (
        f"import os\nfor place in {inside!r}:\n    os.makedirs(place)\n"
        "    open(place + '/cgroup.procs', 'w').write(str(os.getpid()))\nprint('on', flush=True)\n" + FOREVER
    )
    process = start(group, program)
    assert first_line(process) == "on"
    assert group.members() == {process.pid}
    assert group.kill()
    process.wait(PATIENCE_S)
    eventually(group.delete)
    assert not group.exists()


def test_another_process_finds_them_and_ends_them(groups: Groups, start: Start, tmp_path: Path) -> None:
    """As the daemon that comes after one that was killed."""
    group = groups.create("w-1", asked(groups, memory_bytes=256 << 20, num_pids=20))
    if not group.places:
        return
    process = start(group, "print('on', flush=True)\n" + FOREVER)
    assert first_line(process) == "on"
    program = f"""if True:
        import time
        from pathlib import Path
        from thaloom.kernel.sandbox.finding import find_groups
        from thaloom.kernel.sandbox.grouping import folder_name
        groups = find_groups(folder_name(Path({str(tmp_path)!r})))
        (group,) = groups.list()
        print(group.name, *group.members(), group.memory_limit(), flush=True)
        while not (group.kill() and group.delete()):
            time.sleep(0.02)
        groups.close()
        print(len(groups.list()))
    """
    memory = None if groups.abilities()["memory"].why_not else 256 << 20
    other = subprocess.Popen([sys.executable, "-c", program], env={**os.environ}, stdout=subprocess.PIPE)
    process.wait(PATIENCE_S)  # by the other, and waited for by us
    said, _ = other.communicate(timeout=PATIENCE_S)
    assert said.decode().split() == ["w-1", str(process.pid), str(memory), "0"]
    assert not group.exists()
    assert not any(place.parent.exists() for place in group.places.values())
