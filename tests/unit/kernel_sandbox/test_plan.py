from __future__ import annotations

from pathlib import Path

import pytest

from thaloom.kernel.sandbox.inside.steps import STEPS
from thaloom.kernel.sandbox.plan import Step, Ways, disk_of, groups_of, read_plan, shown_in, steps_of, write_plan
from thaloom.kernel.sandbox.types import WALLS, Confinement, WallName

ROOT = Ways(
    user_namespace=False, root=True, own_processes=True, system=(("/usr", "/usr"), ("/real/x", "/etc/x")),
    links=(("/bin", "usr/bin"),),
)  # fmt: skip
USER = Ways(user_namespace=True, root=False, own_processes=False, system=ROOT.system, links=ROOT.links)
ALL = frozenset(WALLS)


def shown(steps: list[Step]) -> list[Step]:
    return [step[1:] for step in steps if step[0] == "view"]


def test_every_step_is_one_the_launcher_knows() -> None:
    wish = Confinement(
        latency="batch", network="host", read=("/a",), write=("/w",), moved=(("/m", "/n"),), sockets="/s",
        words=("/b/board",), files=("/s/f",), devices=("/dev/x",), file_bytes=5, disk=("/i", "/d"),
    )  # fmt: skip
    for ways in (ROOT, USER):
        steps = steps_of(wish, ALL, ways, failure="/f", groups={"v2": Path("/g")}, real={"/a": "/b"})
        assert {step[0] for step in steps} <= STEPS.keys()


def test_filters_come_last_and_groups_first() -> None:
    names = [step[0] for step in steps_of(Confinement(), ALL, ROOT, failure="/f", groups={"v2": Path("/g")})]
    assert names[:2] == ["failure", "join"]
    assert names.index("separate") < names.index("view") < names.index("privileges") < names.index("no_new_privileges")
    assert names[-2:] == ["landlock", "syscalls"]


@pytest.mark.parametrize(
    ("ways", "spaces"), [(ROOT, ("mount", "network", "ipc")), (USER, ("mount", "network", "ipc", "user"))]
)
def test_only_who_is_not_root_needs_a_user_namespace(ways: Ways, spaces: tuple[str, ...]) -> None:
    assert ("separate", *spaces) in steps_of(Confinement(), ALL, ways)


def test_the_hosts_network_is_left_only_where_it_is_not_asked_for() -> None:
    assert ("separate", "mount", "ipc") in steps_of(Confinement(network="host"), ALL, ROOT)
    assert ("separate", "mount", "network", "ipc") in steps_of(Confinement(network="loopback"), ALL, ROOT)


def test_what_an_outer_folder_shows_already_is_not_shown_twice() -> None:
    wish = Confinement(read=("/usr/local/lib", "/opt/a", "/opt/a/b", "/opt/c"))
    seen = [step[-1] for step in shown(steps_of(wish, ALL, ROOT)) if step[0] == "read"]
    assert "/usr/local/lib" not in seen
    assert "/opt/a/b" not in seen
    assert seen.count("/opt/a") == seen.count("/opt/c") == 1


def test_what_lies_below_scratch_is_shown_on_top_of_it() -> None:
    wish = Confinement(read=("/tmp/home/model",), sockets="/tmp/home/run")
    parts = [step[:1] + step[-1:] for step in shown(steps_of(wish, ALL, ROOT))]
    assert parts.index(("read", "/tmp/home/model")) > [part[0] for part in parts].index("scratch")
    assert ("write", "/tmp/home/run") in parts


def test_a_link_is_followed_before_the_walls_are_up() -> None:
    steps = steps_of(Confinement(read=("/opt/link",)), ALL, ROOT, real={"/opt/link": "/srv/real"})
    assert ("view", "read", "/srv/real", "/opt/link") in steps
    assert ("view", "read", "/real/x", "/etc/x") in steps


def test_a_whole_host_is_shown_without_its_devices_its_sockets_and_what_is_hidden() -> None:
    steps = steps_of(Confinement(whole_host=True, hidden=("/home/me/.ssh",)), ALL, ROOT)
    covered = [step[1] for step in shown(steps) if step[0] == "cover"]
    assert covered == ["/dev", "/run", "/home/me/.ssh"]
    for path, there in (
        ("/etc/passwd", True), ("/dev/null", True), ("/dev/sda", False), ("/run/docker.sock", False),
        ("/home/me/.ssh/id", False), ("/home/me/x", True),
    ):  # fmt: skip
        assert shown_in(steps, path) is there, path


def test_where_something_of_the_host_would_be_met() -> None:
    wish = Confinement(read=("/store/mine",), moved=(("/store/packed/mine", "/store/packed"),), sockets="/run/w-1")
    steps = steps_of(wish, ALL, ROOT)
    for path in ("/usr/bin/env", "/store/mine", "/store/packed/x", "/run/w-1/sock", "/proc/stat"):
        assert shown_in(steps, path), path
    for path in ("/store/other", "/store", "/run/w-2/sock", "/etc/shadow", "/usrx", "/tmp/x", "/dev/shm/x"):
        assert not shown_in(steps, path), path
    assert shown_in([], "/etc/shadow")  # no walls


def test_without_a_view_landlock_names_every_path() -> None:
    walls = frozenset[WallName]({"landlock"})
    steps = steps_of(Confinement(read=("/a",), write=("/w",), moved=(("/m", "/n"),)), walls, USER)
    rules = [step[1:] for step in steps if step[0] == "allow"]
    assert ("read", "/") not in rules
    assert {("read", "/a"), ("read", "/usr"), ("write", "/w"), ("write", "/m")} <= set(rules)
    assert ("write", "/tmp") not in rules  # everybody's, there
    assert not shown(steps)


def test_a_wall_that_does_not_hold_here_is_not_tried() -> None:
    steps = steps_of(Confinement(), frozenset(), ROOT)
    assert {step[0] for step in steps} == {"oom", "limit", "umask", "no_new_privileges"}


def test_a_disk_is_held_before_the_view_and_may_be_written_in_it() -> None:
    steps = steps_of(Confinement(disk=("/jobs/a/disk.img", "/jobs/a/work")), ALL, ROOT)
    names = [step[0] for step in steps]
    assert names.index("disk") < names.index("separate")  # after that nothing of the host can be reached
    assert ("view", "disk", "/jobs/a/work") in steps
    assert ("allow", "write", "/jobs/a/work") in steps
    assert disk_of(steps) == Path("/jobs/a/disk.img")
    assert shown_in(steps, "/jobs/a/work/x")
    assert disk_of(steps_of(Confinement(), ALL, ROOT)) is None


def test_a_disk_without_a_view_would_be_no_wall() -> None:
    with pytest.raises(AssertionError):
        steps_of(Confinement(disk=("/i", "/d")), ALL - {"view"}, ROOT)


def test_a_plan_is_found_again_on_disk(tmp_path: Path) -> None:
    steps = steps_of(Confinement(), ALL, ROOT, groups={"memory": Path("/m/w"), "v2": Path("/u/w")})
    write_plan(tmp_path / "plan", steps)
    assert read_plan(tmp_path / "plan") == steps
    assert groups_of(steps) == {"memory": Path("/m/w"), "v2": Path("/u/w")}
    assert read_plan(tmp_path / "gone") == []
