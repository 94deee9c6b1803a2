"""Starting the program costs little: what may not be imported on the way."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

HEAVY = [
    "asyncio",
    "concurrent.futures",
    "difflib",
    "fastapi",
    "httpx2",
    "importlib.metadata",
    "jinja2",
    "msgspec",
    "numpy",
    "pydantic",
    "readline",
    "rich",
    "socket",
    "starlette",
    "subprocess",
    "tokenizers",
    "tomllib",
    "urllib",
]
PROGRAM = """
import io, json, sys
from contextlib import redirect_stdout
with redirect_stdout(io.StringIO()):
    from thaloom.user.cli import main
    code = main(sys.argv[1:])
print(json.dumps([code, sorted(sys.modules)]))
"""


def imported(*words: str) -> tuple[int, list[str]]:
    # -S: no .pth file of the machine may import anything; -E: no PYTHON* variable either.
    path = [entry for entry in sys.path if entry]
    program = f"import sys; sys.path[:] = {path!r}\n" + PROGRAM
    command = [sys.executable, "-S", "-E", "-c", program, *words]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    code, modules = json.loads(done.stdout)
    return code, modules


@pytest.mark.parametrize("words", [["version"], ["--version"], [], ["version", "--json"]], ids=" ".join)
def test_the_shortest_way_imports_nothing_heavy(words: list[str]) -> None:
    code, modules = imported(*words)
    assert code == 0
    assert [name for name in HEAVY if name in modules] == []
    verbs = {name.rpartition(".")[2] for name in modules if name.startswith("thaloom.user.cli.")}
    assert verbs & {"run", "serve", "ps", "up", "answers", "node"} == set()


def test_help_of_a_verb_asks_nobody() -> None:
    _, modules = imported("run", "--help")
    assert [name for name in ("pydantic", "httpx2", "numpy", "fastapi") if name in modules] == []


def test_a_verb_loads_only_itself() -> None:
    _, modules = imported("ls", "--help")
    assert "thaloom.user.cli.ls" in modules
    assert "thaloom.user.cli.run" not in modules
