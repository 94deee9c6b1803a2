"""A plugin of pytest in the guest: what runs there, and each case that ends as a line of JSON on a serial port."""

from __future__ import annotations

import json
import os

import pytest

from tests.hardware.guest.init import TELLING

_MOST_WORDS = 6000
_LEFT_OUT = {"test_walls.py": ("ordinary user", "no_file", "no_way", "network", "loopback", "capability")}
"""File -> what is in the names of its cases that are left out: walls that are no control groups are the same with
either version, and emulated processors are slow."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    out = [item for item in items if any(words in item.name for words in _LEFT_OUT.get(item.path.name, ()))]
    items[:] = [item for item in items if item not in out]
    config.hook.pytest_deselected(items=out)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "call" or report.outcome != "passed":
        _tell(report.nodeid, report.outcome, report.longreprtext if report.failed else str(report.longrepr or ""))


def pytest_collectreport(report: pytest.CollectReport) -> None:
    if report.failed:
        _tell(report.nodeid, "not collected", report.longreprtext)


def _tell(case: str, outcome: str, words: str) -> None:
    line = json.dumps({"case": case, "outcome": outcome, "words": words[-_MOST_WORDS:]}) + "\n"
    descriptor = os.open(TELLING, os.O_WRONLY | os.O_NOCTTY)
    try:
        left = line.encode()
        while left:
            left = left[os.write(descriptor, left) :]
    finally:
        os.close(descriptor)
