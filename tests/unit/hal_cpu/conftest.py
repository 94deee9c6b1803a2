"""Tests of the native library itself exist only where one was built; the driver's run everywhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.hal_cpu import builds

NATIVE = ("agree", "drawing", "likeliest", "native", "packed_file", "shared_weights", "weights")
collect_ignore = [] if builds.FILES else [f"test_cpu_{name}.py" for name in NATIVE]


@pytest.fixture(params=builds.NAMES)
def build(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each build this host can run in turn, chosen as a user would; `none` where there is none."""
    name = str(request.param)
    monkeypatch.setenv("THALOOM_CPU_VARIANT", name)
    return name


@pytest.fixture(params=builds.FILES)
def library_file(request: pytest.FixtureRequest) -> Path:
    return Path(str(request.param))
