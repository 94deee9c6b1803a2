"""The shortened run of `make fuzz-formats`: mutated files are read soundly or refused by a named error."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.fuzz_formats import READERS, TENTHS, fuzz


@pytest.mark.parametrize("kind", READERS)
def test_mutants_are_read_or_refused(kind: str) -> None:
    outcomes, _ = fuzz(kind, 900, seed=7)
    assert sum(outcomes.values()) == 900
    assert outcomes["malformed_file"] > 300
    assert outcomes["read"] > 5


def test_the_whole_lane_runs_within_its_memory() -> None:
    command = [sys.executable, "-m", "tests.fuzz_formats", "--cases", "450", "--seed", "3"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    assert all(f"{kind}: {45 * TENTHS[kind]} mutants" in done.stdout for kind in READERS)


def test_equal_seeds_give_equal_cases() -> None:
    assert fuzz("gguf", 200, seed=5)[0] == fuzz("gguf", 200, seed=5)[0]
