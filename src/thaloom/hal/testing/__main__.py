"""`python -m thaloom.hal.testing DRIVER DEVICE [--json] [--only PREFIX]`

Exit 0 if all is well, 1 if a check failed, 2 if there is no such driver or device.
"""

from __future__ import annotations

import argparse
import json
import sys

from thaloom.base.errors import ThaloomError
from thaloom.base.ids import DeviceId
from thaloom.base.plugins import Registry
from thaloom.hal.driver import Driver
from thaloom.hal.testing import run_conformance


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m thaloom.hal.testing", description="Check a driver on a device.")
    parser.add_argument("driver", help="name of an installed driver")
    parser.add_argument("device", help="id of one of its devices")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.add_argument("--only", action="append", default=[], metavar="PREFIX", help="only checks that begin so")
    chosen = parser.parse_args(arguments)
    registry: Registry[Driver] = Registry("driver")
    registry.discover()
    try:
        driver = registry.create(chosen.driver)
    except ThaloomError as error:
        print(error.message, file=sys.stderr)
        return 2
    known = [device.id for device in driver.probe()]
    if chosen.device not in known:
        print(f"driver {chosen.driver!r} finds no device {chosen.device!r} (it finds: {known})", file=sys.stderr)
        return 2
    report = run_conformance(
        driver, DeviceId(chosen.device), manifest=registry.manifest(chosen.driver), only=chosen.only
    )
    print(json.dumps(report.to_dict(), indent=2) if chosen.json else report)
    return 0 if report.passed else 1


if __name__ == "__main__":
    sys.exit(main())
