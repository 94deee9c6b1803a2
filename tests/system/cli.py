"""The command line as a person's shell runs it: a process of its own, against the node of the test."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tests.system.node import PATIENCE_S, Node

PROGRAM = (sys.executable, "-c", "import sys; from thaloom.user.cli import main; sys.exit(main())")
LANGUAGE = ("THALOOM_LANG", "LC_ALL", "LC_MESSAGES", "LANG")


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        return json.loads(self.out)

    @property
    def error(self) -> Any:
        return json.loads(self.err)["error"]


def environment(node: Node) -> dict[str, str]:
    return {name: value for name, value in node.environment.items() if name not in LANGUAGE}


def thaloom(node: Node, *words: str, typed: str | None = None, more: Mapping[str, str] | None = None) -> Done:
    """Run one command to its end. `typed`: what comes through its standard input, which is a pipe."""
    done = subprocess.run(
        [*PROGRAM, *words],
        env=environment(node) | dict(more or {}),
        input=typed,
        stdin=subprocess.DEVNULL if typed is None else None,
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE_S,
        check=False,
    )
    return Done(code=done.returncode, out=done.stdout, err=done.stderr)
