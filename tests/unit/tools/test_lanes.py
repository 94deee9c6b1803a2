"""The lanes count what happened: no skip, crash or leftover process passes for a success."""

from __future__ import annotations

import importlib.util
import shutil
import sys
import time
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def lanes() -> ModuleType:
    spec = importlib.util.spec_from_file_location("thaloom_lanes", ROOT / "tools" / "lanes.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def _quick_pytest(lanes: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "ALREADY_RUN", None)  # in CI these tests run with a REPORT themselves
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")


def planted(folder: Path, text: str) -> str:
    """A test file under the rules of this tree's own conftest."""
    shutil.copy(ROOT / "tests" / "conftest.py", folder)
    (folder / "pytest.ini").write_text("[pytest]\nmarkers =\n    hardware: x\n    data: x\n    packages: x\n")
    file = folder / "test_planted.py"
    file.write_text("import pytest\n" + text)
    return str(file)


def test_only_marked_tests_may_skip(lanes: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    file = planted(
        tmp_path,
        "def test_fine(): pass\n"
        "def test_wrong(): assert False\n"
        "def test_planted(): pytest.skip('no wish')\n"
        "@pytest.mark.hardware\ndef test_gpu(): pytest.skip('no GPU')\n"
        "@pytest.mark.data\ndef test_data(): pytest.skip('no data')\n"
        "@pytest.mark.packages\ndef test_tool(): pytest.skip('no tool')\n",
    )
    expected = Counter(passed=1, failed=2, hardware=1, data=1, packages=1)
    assert lanes.run_tests((file,), time.monotonic() + 60) == expected
    monkeypatch.setenv("CI", "1")
    expected = Counter(passed=1, failed=3, hardware=1, data=1)
    lanes.FAILURES.clear()
    assert lanes.run_tests((file,), time.monotonic() + 60) == expected, "CI has every package"
    assert [told.split(":")[0] for told in lanes.FAILURES] == [
        "test_planted.test_wrong", "may not skip", "may not skip"
    ], "told again at the end, by name"  # fmt: skip


def test_a_whole_file_that_skips_itself_fails(lanes: ModuleType, tmp_path: Path) -> None:
    file = planted(tmp_path, "pytest.skip('all of it', allow_module_level=True)\n")
    assert lanes.run_tests((file,), time.monotonic() + 60)["failed"] == 1


@pytest.mark.parametrize(
    "text", ["", "@pytest.fixture(scope='session', autouse=True)\ndef f():\n    yield\n    import os; os._exit(3)\n"
             "def test_fine(): pass\n"],
    ids=["no test at all", "a crash at the very end"],
)  # fmt: skip
def test_a_run_that_ends_badly_is_a_failure_whatever_its_report(lanes: ModuleType, tmp_path: Path, text: str) -> None:
    assert lanes.run_tests((planted(tmp_path, text),), time.monotonic() + 60)["failed"] == 1


def test_out_of_time_is_a_failure_and_leaves_no_child(
    lanes: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lanes, "CLEANUP_S", 0.2)
    note = tmp_path / "pid"
    command = ("sh", "-c", f"trap '' INT; sleep 600 & echo $! > {note}; wait")
    assert not lanes.run(command, time.monotonic() + 3)
    deadline = time.monotonic() + 30  # who was killed is gone a moment later
    while runs(int(note.read_text())):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_lane_without_its_programs_is_skipped_by_hand_and_fails_in_ci(
    lanes: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    failing = (sys.executable, "-c", "raise SystemExit(1)")
    lane = lanes.Lane(name="planted", budget_s=60, commands=(failing,), needs=("sh", "no-such-program"))
    monkeypatch.delenv("CI", raising=False)
    assert lanes.run_lane(lane) == Counter(packages=1)
    assert "SKIPPED: no-such-program not here; please run: make deps-system" in capsys.readouterr().out
    monkeypatch.setenv("CI", "true")
    assert lanes.run_lane(lane) == Counter(failed=1)


def runs(pid: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_what_make_test_ran_is_not_run_again(
    lanes: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = planted(tmp_path, "def test_quick(): assert False\n@pytest.mark.slow\ndef test_slow(): pass\n")
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n    slow: x\n")
    monkeypatch.setattr(lanes, "ALREADY_RUN", "report.xml")
    assert lanes.run_tests((file,), time.monotonic() + 60) == Counter(passed=1)


def test_the_counts_of_make_test_are_counted_and_its_failures_fail(
    lanes: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = tmp_path / "report.xml"
    monkeypatch.setattr(lanes, "LANES", ())
    monkeypatch.setattr(lanes, "ALREADY_RUN", str(report))
    cases = '<testcase classname="a" name="one"/><testcase classname="a" name="two"/>'
    report.write_text(f"<testsuites><testsuite>{cases}</testsuite></testsuites>")
    assert lanes.main() == 0
    failed = '<testcase classname="a" name="three"><failure message="no"/></testcase>'
    report.write_text(f"<testsuites><testsuite>{cases}{failed}</testsuite></testsuites>")
    assert lanes.main() == 1
    report.unlink()
    assert lanes.main() == 1, "no report is no success"
