"""`thaloom version`: of this program, without asking anybody."""

from __future__ import annotations

import sys

from thaloom import __version__
from thaloom.user.cli.command import verb
from thaloom.user.cli.output import Output


@verb("version")
def command(output: Output) -> None:
    # Not platform.python_version(): that module costs as much to import as everything else here.
    python = ".".join(str(part) for part in sys.version_info[:3])
    output.document({"version": __version__, "python": python})
    output.line(f"thaloom {__version__}")
