"""`python -m thaloom.kernel.sandbox [PID]`: the report on this host as one JSON document; PID is the node's."""

from __future__ import annotations

import json
import sys

from thaloom.kernel.sandbox.report import report


def main(arguments: list[str]) -> int:
    json.dump(report(int(arguments[0]) if arguments else None), sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
