"""hatch_build.py with made-up compilers: what it builds, and what it says when it cannot."""

from __future__ import annotations

import importlib.util
import json
import platform
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from thaloom.hal.drivers.cpu import native

REPOSITORY = Path(__file__).parents[3]
GOOD = """#!/bin/sh
if [ "$1" = --version ]; then echo "good 1.0"; exit 0; fi
echo run >> "$(dirname "$0")/calls"
while [ $# -gt 0 ]; do if [ "$1" = -o ]; then echo library > "$2"; fi; shift; done
"""
BAD = """#!/bin/sh
if [ "$1" = --version ]; then echo "bad 1.0"; exit 0; fi
echo "thaloom_cpu.cpp:1: error: no such thing" >&2
exit 1
"""
PARTLY = """#!/bin/sh
case "$*" in *_v4*|*_neon*|*generic*) echo "error: unknown flag" >&2; exit 1;; esac
while [ $# -gt 0 ]; do if [ "$1" = -o ]; then echo library > "$2"; fi; shift; done
"""


def _module() -> ModuleType:
    spec = importlib.util.spec_from_file_location("hatch_build", REPOSITORY / "hatch_build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


hatch_build = _module()
NAMES = list(hatch_build.VARIANTS.get(platform.machine(), hatch_build.GENERIC))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "native").mkdir()
    shutil.copytree(REPOSITORY / "native/cpu", tmp_path / "native/cpu")
    return tmp_path


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("THALOOM_NATIVE", raising=False)
    monkeypatch.delenv("CXX", raising=False)


def compiler(monkeypatch: pytest.MonkeyPatch, root: Path, script: str) -> Path:
    path = root / "compiler"
    path.write_text(script)
    path.chmod(0o755)
    monkeypatch.setenv("CXX", str(path))
    return path


def libraries(root: Path) -> list[str]:
    return sorted(path.name for path in (root / hatch_build.LIBRARIES).glob("*.so"))


def told(root: Path) -> dict[str, Any]:
    info: dict[str, Any] = json.loads((root / hatch_build.LIBRARIES / native.BUILD_INFO).read_text())
    return info


def num_calls(root: Path) -> int:
    return len((root / "calls").read_text().splitlines())


def test_every_variant_is_built(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    compiler(monkeypatch, root, GOOD)
    info = hatch_build.build(root)
    assert info == told(root)
    assert (info["built"], info["failed"], info["reason"]) == (NAMES, {}, None)
    assert libraries(root) == sorted(f"thaloom_cpu_{name}.so" for name in NAMES)
    assert not list((root / hatch_build.LIBRARIES).glob("*.partial"))


def test_variants_are_those_the_driver_knows() -> None:
    known = {name for name, _ in native.VARIANTS}
    assert {name for group in (*hatch_build.VARIANTS.values(), hatch_build.GENERIC) for name in group} == known


def test_what_is_new_is_not_built_again(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    compiler(monkeypatch, root, GOOD)
    hatch_build.build(root)
    hatch_build.build(root)
    assert num_calls(root) == len(NAMES)
    (root / "native/cpu/simd.h").write_text("changed")
    hatch_build.build(root)
    assert num_calls(root) == 2 * len(NAMES)


def test_a_compile_error_is_shown_and_remembered(
    monkeypatch: pytest.MonkeyPatch, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    compiler(monkeypatch, root, GOOD)
    hatch_build.build(root)
    compiler(monkeypatch, root, BAD)
    info = hatch_build.build(root)
    assert "error: no such thing" in capsys.readouterr().err
    assert info["built"] == []
    assert info["reason"] == f"compiling {NAMES[0]} failed: thaloom_cpu.cpp:1: error: no such thing"
    assert libraries(root) == []


def test_one_variant_may_fail(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    compiler(monkeypatch, root, PARTLY)
    info = hatch_build.build(root)
    failed = [name for name in NAMES if "_v4" in name or name in ("aarch64_neon", "generic")]
    assert list(info["failed"]) == failed
    assert info["built"] == [name for name in NAMES if name not in failed]


def test_without_a_compiler_it_says_so(monkeypatch: pytest.MonkeyPatch, root: Path, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    info = hatch_build.build(root)
    assert info["reason"] == "no C++ compiler was found when Thaloom was installed"
    assert native.why_not_built(root / hatch_build.LIBRARIES) == info["reason"]


def test_a_named_compiler_that_is_not_there_is_not_replaced(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    monkeypatch.setenv("CXX", str(root / "missing"))
    assert hatch_build.build(root)["built"] == []


def test_it_can_be_switched_off(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    compiler(monkeypatch, root, GOOD)
    hatch_build.build(root)
    monkeypatch.setenv("THALOOM_NATIVE", "0")
    info = hatch_build.build(root)
    assert "THALOOM_NATIVE=0" in info["reason"]
    assert libraries(root) == []


def test_good_libraries_stay_when_the_compiler_goes(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    compiler(monkeypatch, root, GOOD)
    built = hatch_build.build(root)
    monkeypatch.setenv("CXX", str(root / "missing"))
    assert hatch_build.build(root) == built
    (root / "native/cpu/simd.h").write_text("changed")  # now they are of other sources
    assert hatch_build.build(root)["built"] == []
    assert libraries(root) == []


def contributed(root: Path, version: str) -> tuple[dict[str, Any], str | None]:
    build_data: dict[str, Any] = {"force_include": {}, "pure_python": True}
    return build_data, hatch_build.contribute(root, version, build_data)


def test_a_wheel_holds_the_libraries(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    compiler(monkeypatch, root, GOOD)
    build_data, reason = contributed(root, "standard")
    assert reason is None
    assert build_data["pure_python"] is False
    assert build_data["tag"].startswith("py3-none-linux")
    packed = sorted(Path(target).name for target in build_data["force_include"].values())
    assert packed == sorted([native.BUILD_INFO, *libraries(root)])


def test_a_wheel_without_a_compiler_is_pure_and_says_why(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    monkeypatch.setenv("CXX", str(root / "missing"))
    build_data, reason = contributed(root, "standard")
    assert reason is not None
    assert "no C++ compiler" in reason
    assert build_data["pure_python"] is True
    assert "tag" not in build_data
    assert [Path(target).name for target in build_data["force_include"].values()] == [native.BUILD_INFO]


def test_an_editable_install_builds_in_place(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    compiler(monkeypatch, root, GOOD)
    build_data, _ = contributed(root, "editable")
    assert build_data["force_include"] == {}
    assert len(libraries(root)) == len(NAMES)
