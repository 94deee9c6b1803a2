"""Shared by all tests: which tests may skip is written into the report, for tools/lanes.py to hold them to it."""

from __future__ import annotations

import contextlib
import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

with contextlib.suppress(ImportError):  # of the guest of tests/hardware, which draws nothing
    from hypothesis import HealthCheck, settings

    # No test asserts on time, and a fixture of a function may serve all its examples. In CI the examples are the same
    # in every run, so that nothing is refused by luck; new ones are drawn everywhere else, most by `make explore`.
    settings.register_profile(
        "ours",
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
        derandomize=bool(os.environ.get("CI")),
    )
    settings.load_profile("ours")


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A folder whose name leaves room for the 107 bytes a socket's path may have, wherever pytest keeps its own."""
    with tempfile.TemporaryDirectory(prefix="t", dir="/tmp") as folder:
        yield Path(folder)


def pytest_configure() -> None:
    """A shell that runs the tests in the background ignores Ctrl-C for them, and so would all that they start."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        for mark in ("hardware", "data", "packages"):
            if item.get_closest_marker(mark):
                item.user_properties.append(("may_skip", mark))
