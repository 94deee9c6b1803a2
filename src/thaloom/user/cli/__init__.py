"""The command line: one file a verb, English and Chinese.

Importing this costs almost nothing: `main` is resolved when it is called, and a verb's file is imported when the verb
is used. What may not be imported on the way to `thaloom version` is listed in a test.
"""

from __future__ import annotations

from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command (default: of sys.argv) and return its exit code, one of base.errors.EXIT_CODES."""
    from thaloom.user.cli.program import run_command

    return run_command(arguments)
