"""Run the whole test suite in lanes, each with its own time budget, and end with what failed and one line of counts.

A test may skip only if it is marked `hardware` (a device this machine lacks) or `data` (the shared data sets are not
there), or, not in CI, `packages` (a program that `make deps-system` installs is not there); a lane only for that too.
Any other skip fails the run: a check that did not happen must not look like one that passed.

REPORT in the environment is what `make test` wrote there: its tests are counted from it, and not run a second time.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
CLEANUP_S = 20.0
"""What a command out of time gets for putting its things away."""
ALREADY_RUN = os.environ.get("REPORT")
FAILURES: list[str] = []
"""What failed so far, told again at the end: of a long run, the last page is what people see."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lane:
    name: str
    budget_s: int
    commands: tuple[tuple[str, ...], ...]
    tests: tuple[str, ...] = ()
    """What pytest runs after the commands, with counts taken from its report."""
    needs: tuple[str, ...] = ()
    """Programs that `make deps-system` installs. Without them the lane is skipped, and counted so; never in CI."""


LANES = (
    Lane(
        name="style, types, floors",
        budget_s=240,
        commands=(
            (f"{BIN}/ruff", "format", "--check", "src", "tests", "tools", "benchmarks", "models", "hatch_build.py"),
            (f"{BIN}/ruff", "check", "src", "tests", "tools", "benchmarks", "models", "hatch_build.py"),
            (f"{BIN}/mypy",),
            (f"{BIN}/lint-imports",),
        ),
    ),
    Lane(name="core", budget_s=900, commands=(), tests=("tests/unit", "tests/property")),
    Lane(name="back ends", budget_s=900, commands=(), tests=("tests/contract", "tests/hardware")),
    Lane(name="faults", budget_s=1200, commands=(), tests=("tests/system",)),
    Lane(
        name="chaos, shortened",
        budget_s=480,
        commands=((sys.executable, "-m", "tests.chaos", "--minutes", "1", "--seed", "1", "--gap", "4"),),
    ),
    Lane(name="package", budget_s=900, commands=(), tests=("tests/packaged",), needs=("dpkg-deb",)),
    Lane(name="sanitizers", budget_s=900, commands=(("make", "-C", "native", "sanitize", f"PYTHON={sys.executable}"),)),
    Lane(
        name="fuzz, shortened",
        budget_s=480,
        commands=(
            ("make", "-C", "native", "fuzz", "CASES=2000", f"PYTHON={sys.executable}"),
            (sys.executable, "-m", "tests.fuzz_formats", "--cases", "20000"),
            (sys.executable, "-m", "tests.fuzz_door", "--cases", "2000"),
            (sys.executable, "-m", "tests.fuzz_pages", "--minutes", "0.4"),
            (sys.executable, "-m", "tests.fuzz_turns", "--minutes", "0.15"),
        ),
    ),
    Lane(
        name="aarch64, emulated",
        budget_s=780,
        commands=((sys.executable, "tools/aarch64.py", "--short"),),
        needs=("qemu-aarch64", "aarch64-linux-gnu-g++"),
    ),
    Lane(name="wheel", budget_s=240, commands=(("sh", "tools/wheel_install.sh", sys.executable),)),
    Lane(name="without a compiler", budget_s=900, commands=(("sh", "tools/without_compiler.sh"),)),
)


def main() -> int:
    counts: Counter[str] = Counter()
    if ALREADY_RUN:
        counts += read_report(Path(ALREADY_RUN))
        print(f"== make test, already run: {dict(counts)}", flush=True)
    for lane in LANES:
        begin = time.monotonic()
        print(f"== lane {lane.name!r}, budget {lane.budget_s} s", flush=True)
        outcome = run_lane(lane)
        counts += outcome
        print(f"== lane {lane.name!r}: {dict(outcome)} in {time.monotonic() - begin:.0f} s", flush=True)
    for failure in FAILURES:
        print(f"FAILED: {failure}")
    reasons = ("hardware", "data", "packages")
    skipped = sum(counts[reason] for reason in reasons)
    print("skipped for want of", ", ".join(f"{reason}: {counts[reason]}" for reason in reasons))
    print(f"{counts['passed']} passed, {counts['failed']} failed, {skipped} skipped")
    return 1 if counts["failed"] else 0


def run_lane(lane: Lane) -> Counter[str]:
    """Counts of passed, failed, and permitted skips by their mark. A command or a lane out of time is one failure."""
    absent = [program for program in lane.needs if shutil.which(program) is None]
    if absent and not os.environ.get("CI"):
        print(f"SKIPPED: {' and '.join(absent)} not here; please run: make deps-system", flush=True)
        return Counter(packages=1)
    deadline = time.monotonic() + lane.budget_s
    counts: Counter[str] = Counter()
    for command in lane.commands:
        if run(command, deadline):
            counts["passed"] += 1
        else:
            counts["failed"] += 1
            FAILURES.append(f"lane {lane.name!r}: {' '.join(command)}")
    if lane.tests:
        counts += run_tests(lane.tests, deadline, ("-n", "2", "--dist", "worksteal"))
    return counts


def run_tests(tests: tuple[str, ...], deadline: float, options: tuple[str, ...] = ()) -> Counter[str]:
    """What pytest's report says; if pytest itself ended badly, at least one failure, whatever the report says."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        rest = ("-m", "slow") if ALREADY_RUN else ()
        ended_well = run((f"{BIN}/pytest", "-q", f"--junit-xml={report}", *rest, *options, *tests), deadline)
        counts = read_report(report)
    if not ended_well and not counts["failed"]:
        counts["failed"] = 1
        FAILURES.append(f"pytest itself, on {' '.join(tests)}")
    return counts


def run(command: tuple[str, ...], deadline: float) -> bool:
    """Whether it ended well and in time. Out of time, it and its children are told to clean up, and then killed."""
    print("+", " ".join(command), flush=True)
    # A lane must not see a node the person at this machine runs.
    environment = {key: value for key, value in os.environ.items() if not key.startswith("THALOOM_")}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True)
    try:
        return process.wait(max(1.0, deadline - time.monotonic())) == 0
    except subprocess.TimeoutExpired:
        print(f"FAILED: out of time: {' '.join(command)}", flush=True)
        return False
    finally:
        end_group(process)


def end_group(process: subprocess.Popen[bytes]) -> None:
    """Ctrl-C for the command and its children if it still runs (fixtures and traps clean up), then the end of all."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(CLEANUP_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def read_report(report: Path) -> Counter[str]:
    counts: Counter[str] = Counter()
    if not report.exists():
        return Counter(failed=1)
    for case in ElementTree.parse(report).iter("testcase"):
        name = f"{case.get('classname')}.{case.get('name')}"
        skipped = case.find("skipped")
        broken = next((found for kind in ("failure", "error") if (found := case.find(kind)) is not None), None)
        if broken is not None:
            counts["failed"] += 1
            FAILURES.append(f"{name}: {broken.get('message', '')[:300]}")
        elif skipped is None:
            counts["passed"] += 1
        else:
            mark = next((p.get("value") for p in case.iter("property") if p.get("name") == "may_skip"), None)
            if mark in ("hardware", "data"):
                counts[mark] += 1
            elif mark == "packages" and not os.environ.get("CI"):
                counts["packages"] += 1
            else:
                counts["failed"] += 1
                FAILURES.append(f"may not skip: {name}: {skipped.get('message')}")
    return counts


if __name__ == "__main__":
    sys.exit(main())
