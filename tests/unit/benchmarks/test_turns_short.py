"""`benchmarks/turns.py --short`: every case runs, in both arms."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.slow
def test_every_case_runs() -> None:
    done = subprocess.run(
        [sys.executable, "benchmarks/turns.py", "--short"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("tokens_s of worker 0") == 7
    assert "nobody else" in done.stdout
