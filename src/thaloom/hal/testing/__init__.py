"""The conformance kit: about eighty checks that any driver, ours or not, must pass to call itself one.

`run_conformance(driver, device_id)` gives a Report; `python -m thaloom.hal.testing DRIVER DEVICE [--json]` prints
one. Every check has a stable id. A check is skipped only because the driver does not claim what it checks, and the
report says which claim is missing: there is no other way to skip.
"""

from thaloom.hal.testing.report import Report, Result, Status
from thaloom.hal.testing.suite import Check, all_checks, run_conformance

__all__ = ["Check", "Report", "Result", "Status", "all_checks", "run_conformance"]
