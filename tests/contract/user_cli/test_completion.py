"""Completion in the shells themselves: their scripts are read by them, and a person presses Tab."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import select
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.edge_control.plane import serving, standing
from thaloom.base.ids import ServiceName
from thaloom.kernel.state.types import ServiceSpec


def needs(shell: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(shutil.which(shell) is None, reason=f"{shell} is not here; please run: make deps-system")


@pytest.fixture
def environment(short_path: Path) -> Iterator[dict[str, str]]:
    """A node with a model and a service, and `thaloom` on the path."""
    program = short_path / "bin" / "thaloom"
    program.parent.mkdir()
    code = "import sys; from thaloom.user.cli import main; sys.exit(main())"
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -P -c {shlex.quote(code)} "$@"\n')
    program.chmod(0o755)
    (short_path / "home").mkdir()
    with serving(short_path / "home") as (plane, _, _):
        plane.services_now["chat"] = standing(ServiceSpec(name=ServiceName("chat"), model="tiny:v1"), "ready")
        yield {
            "PATH": f"{program.parent}:{os.environ['PATH']}",
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            "THALOOM_HOME": str(short_path / "home"),
            "HOME": str(short_path),
            "TERM": "dumb",
            "LC_ALL": "C.UTF-8",
        }


def run(environment: dict[str, str], *command: str) -> str:
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr == ""
    return done.stdout


LINES = [
    ("thaloom st", ["stop", "status"]),
    ("thaloom run t", ["tiny", "tiny:v1"]),
    ("thaloom run tiny:", ["tiny:v1"]),
    ("thaloom logs ", ["chat", "daemon", "door"]),
    ("thaloom stop ", ["chat"]),
    ("thaloom serve tiny --device ", ["cpu"]),
    ("thaloom serve --kv-b", ["--kv-bytes"]),
    ("thaloom device s", ["show"]),
    ("thaloom completion z", ["zsh"]),
    ("thaloom no-such-verb ", []),
]


@pytest.mark.packages
@needs("fish")
def test_fish(environment: dict[str, str]) -> None:
    for line, offered in LINES:
        script = f"thaloom completion fish | source; complete -C {shlex.quote(line)}"
        shown = run(environment, "fish", "--no-config", "--command", script).splitlines()
        assert sorted(word.partition("\t")[0] for word in shown) == sorted(offered), line


def test_bash(environment: dict[str, str]) -> None:
    for line, offered in LINES:
        script = (
            f'eval "$(thaloom completion bash)"; COMP_LINE={shlex.quote(line)}; COMP_POINT=${{#COMP_LINE}}; '
            '_thaloom_completion thaloom; printf "%s\\n" "${COMPREPLY[@]}"'
        )
        kept = line.rpartition(" ")[2]
        kept = kept[: kept.rfind(":") + 1]  # stays on the line
        shown = run(environment, "bash", "--norc", "-c", script).split()
        assert [kept + word for word in shown] == offered, line


def test_a_node_that_does_not_answer_keeps_nobody_waiting(environment: dict[str, str], short_path: Path) -> None:
    home = short_path / "stuck"
    (home / "run").mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(home / "run" / "control.sock"))
        listener.listen()
        told = environment | {"THALOOM_HOME": str(home), "_THALOOM_COMPLETE": "bash_complete"}
        shown = run(told | {"COMP_WORDS": "thaloom run t", "COMP_CWORD": "2"}, "thaloom")
    assert shown.split() == ["plain,tiny"]


@contextlib.contextmanager
def terminal(environment: dict[str, str], *command: str) -> Iterator[int]:
    """Both ends of the keyboard and the screen: ours is given."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        command, env=environment, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
    )
    os.close(theirs)
    try:
        yield ours
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def until(place: int, expected: str, *, timeout_s: float = 60.0) -> str:
    """What the terminal shows until it shows that."""
    shown, deadline = "", time.monotonic() + timeout_s
    while expected not in shown:
        ready, _, _ = select.select([place], [], [], max(0.0, deadline - time.monotonic()))
        assert ready, f"{expected!r} is not shown, but {shown!r}"
        shown += re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", os.read(place, 4096).decode(errors="replace"))
    return shown


@pytest.mark.packages
@pytest.mark.parametrize(
    ("command", "prepare"),
    [
        pytest.param(("bash", "--norc", "--noprofile", "-i"), "", id="bash"),
        pytest.param(("zsh", "-f", "-i"), "autoload -U compinit; compinit -u; ", id="zsh", marks=needs("zsh")),
    ],
)
def test_a_person_presses_tab(environment: dict[str, str], command: tuple[str, ...], prepare: str) -> None:
    with terminal(environment, *command) as place:
        script = f'{prepare}eval "$(thaloom completion {command[0]})"; PS1="> "; echo rea""dy\n'
        os.write(place, script.encode())
        until(place, "ready")
        for typed, becomes in ((b"thaloom verif\t", "verify "), (b"tiny:\t", "tiny:v1 ")):
            os.write(place, typed)
            until(place, becomes)
