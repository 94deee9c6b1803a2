"""A plugin of pytest in the guest: each case that ends is a line of JSON on the second serial port."""

from __future__ import annotations

import json
import os

import pytest

from tests.hardware.guest.init import TELLING

_MOST_WORDS = 6000


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
