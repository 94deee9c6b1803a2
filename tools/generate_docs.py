"""Write the pages that are made from the code: `make docs`. With --check, only say which are out of date."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from thaloom.base.errors import ERRORS, EXIT_CODES, ThaloomError

DOCS = Path(__file__).resolve().parent.parent / "docs"

ADVICE = {
    "caller": "The request can be mended: the message says what is wrong.",
    "host": "This machine lacks something: free it, add it, or ask for less.",
    "nobody": "Nothing is wrong. Wait as long as `Retry-After` says and send it again.",
    "thaloom": "Thaloom failed. `thaloom logs` says more; if it comes again, it is a bug worth reporting.",
}


def errors_page() -> str:
    """docs/errors.md: every leaf of the tree, one heading each, so that help links have somewhere to go."""
    lines = ["# Errors", "", "Made from `src/thaloom/base/errors.py` by `make docs`.", "", "## Exit codes", ""]
    lines += ["| code | meaning |", "| --- | --- |"]
    lines += [f"| {code} | {meaning} |" for code, meaning in EXIT_CODES.items()]
    lines += ["", "## By code"]
    for code in sorted(ERRORS):
        lines += ["", *_leaf(ERRORS[code])]
    return "\n".join(lines) + "\n"


def _leaf(leaf: type[ThaloomError]) -> list[str]:
    again = "yes" if leaf.retryable else "no"
    meaning = " ".join((leaf.__doc__ or "").split()) if leaf.__doc__ != leaf.__mro__[1].__doc__ else ""
    facts = f"`{leaf.__name__}` · HTTP {leaf.http_status} · exit code {leaf.exit_code} · fault: {leaf.fault}"
    facts += f" · retry: {again}"
    return [
        f"### {leaf.code.replace('_', '-')}",
        "",
        facts,
        "",
        *([meaning, ""] if meaning else []),
        ADVICE[leaf.fault],
    ]


def cli_page() -> str:
    """docs/cli.md, from the command line itself."""
    command = [sys.executable, "-m", "thaloom.user.cli.reference"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


PAGES: dict[str, Callable[[], str]] = {"errors.md": errors_page, "cli.md": cli_page}


def main() -> int:
    stale = []
    for name, make in PAGES.items():
        page, path = make(), DOCS / name
        if not path.exists() or path.read_text(encoding="utf-8") != page:
            stale.append(name)
            if "--check" not in sys.argv:
                path.write_text(page, encoding="utf-8")
    print("out of date: " + ", ".join(stale) if stale else "all pages are up to date")
    return 1 if stale and "--check" in sys.argv else 0


if __name__ == "__main__":
    sys.exit(main())
