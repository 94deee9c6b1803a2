from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from thaloom.base.errors import NotEnforceable
from thaloom.kernel.sandbox import host
from thaloom.kernel.sandbox.grouping import NoGroups
from thaloom.kernel.sandbox.host import NO_WALLS, find_walls, python_paths, real_paths, system_paths
from thaloom.kernel.sandbox.report import report
from thaloom.kernel.sandbox.types import WALLS, Confinement, Limits
from thaloom.kernel.sandbox.walls import Confined, Sandbox


def test_the_systems_folders_are_given_and_its_links_kept(tmp_path: Path) -> None:
    for folder in ("usr/bin", "usr/lib", "sys", "etc/ssl/certs", "etc/ssl/private", "run"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "bin").symlink_to("usr/bin")
    (tmp_path / "lib").symlink_to(tmp_path / "usr/lib")
    (tmp_path / "run/resolv").touch()
    (tmp_path / "etc/resolv.conf").symlink_to(tmp_path / "run/resolv")
    (tmp_path / "etc/shadow").touch()
    system, links = system_paths(tmp_path)
    assert dict(links) == {"/bin": "usr/bin", "/lib": "usr/lib"}
    seen = {where: source for source, where in system}
    assert seen["/etc/resolv.conf"] == str(tmp_path / "run/resolv")
    assert {"/usr", "/sys", "/etc/ssl/certs"} <= seen.keys()
    assert not {"/etc/shadow", "/etc/ssl", "/etc/ssl/private", "/etc"} & seen.keys()


def test_the_interpreter_finds_all_it_needs_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = python_paths(["", "/", "relative", str(tmp_path), "/nowhere", str(Path(host.__file__).parent)])
    assert {sys.prefix, sys.base_prefix, str(Path(host.__file__).parent)} <= set(found)
    assert not {"", "/", "relative", "/nowhere", str(tmp_path)} & set(found)  # where we happened to be is not given
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert str(tmp_path) in python_paths([str(tmp_path)])


def test_links_are_told_by_where_they_lead(tmp_path: Path) -> None:
    (tmp_path / "real").touch()
    (tmp_path / "link").symlink_to("real")
    wish = Confinement(read=(str(tmp_path / "link"), str(tmp_path / "real")))
    assert real_paths(wish) == {str(tmp_path / "link"): os.path.realpath(tmp_path / "real")}


def test_every_wall_is_either_built_or_explained() -> None:
    walls = find_walls()
    assert set(walls.abilities) == set(WALLS)
    for name, ability in walls.abilities.items():
        assert ability.name == name
        assert (ability.by is None) != (ability.why_not is None)
    assert "privileges" in walls.enforced  # nothing keeps anybody from giving up rights


def test_a_wall_that_cannot_be_built_is_told_with_the_launchers_own_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "_SYSTEM", ())  # a view without programs: nothing can be started behind it
    monkeypatch.setattr(host, "python_paths", lambda: ())
    ability = find_walls().abilities["view"]
    assert ability.why_not is not None
    assert sys.executable in ability.why_not


def test_required_walls_refuse_what_auto_does_without(tmp_path: Path) -> None:
    plan = tmp_path / "plan"
    groups = NoGroups("none here")
    auto = Sandbox(walls=NO_WALLS, groups=groups)
    assert auto.confine("w", Confinement(), ["/bin/true"], plan=plan)[-1] == "/bin/true"
    assert len(auto.missing()) == len(WALLS)
    required = Sandbox(walls=NO_WALLS, groups=groups, mode="required")
    with pytest.raises(NotEnforceable) as caught:
        required.confine("w", Confinement(), ["/bin/true"], plan=plan)
    assert caught.value.details == {"wall": "view"}


@pytest.mark.parametrize("mode", ["auto", "required", "off"])
def test_a_limit_that_cannot_hold_is_refused_in_every_mode(tmp_path: Path, mode: str) -> None:
    sandbox = Sandbox(walls=find_walls(), groups=NoGroups("none here"), mode=mode)  # type: ignore[arg-type]
    with pytest.raises(NotEnforceable, match="pids"):
        sandbox.confine("w", Confinement(limits=Limits(num_pids=5)), ["/bin/true"], plan=tmp_path / "plan")
    assert not (tmp_path / "plan").exists()


def test_off_changes_nothing(tmp_path: Path) -> None:
    sandbox = Sandbox(walls=NO_WALLS, groups=NoGroups(""), mode="off")
    assert sandbox.confine("w", Confinement(), ["/bin/true"], plan=tmp_path / "plan") == ["/bin/true"]
    confined = Confined("w", tmp_path / "plan")
    assert not confined.walled
    assert confined.met(Confinement(), status=-31, words="") is None
    assert confined.end()


def test_the_report_explains_everything_that_does_not_hold() -> None:
    found = report(None)
    kinds = {entry["kind"] for entry in found["entries"]}
    assert kinds == {"wall", "limit", "latency", "host"}
    for entry in found["entries"]:
        assert entry["by"] if entry["enforced"] else entry["why_not"], entry
    assert found["uid"] == os.getuid()
