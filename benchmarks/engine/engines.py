"""What an engine must offer to be measured, and how its process is kept from disturbing the others.

An engine is installed and fed (`prepare`, slow, once), then opened: a `Session` answers one question, the rate of a
cell. Sessions that hold a process keep it stopped (SIGSTOP) between their runs, so that no spinning thread, no timer
and no collector of an engine that is not being measured takes a cycle from the one that is.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from benchmarks.engine.cells import NUM_DECODED, Cell, WeightClass

CHILDREN = Path(__file__).resolve().parent / "children"
START_S = 400.0
"""What an engine may take to load and compile."""
ANSWER_S = 180.0
NUM_TRIES = 10


class Unavailable(Exception):
    """This engine cannot be measured here, and why. The table says so; the others go on."""


class Session(Protocol):
    """A loaded engine."""

    @property
    def version(self) -> str: ...

    def rate(self, cell: Cell) -> float:
        """Tokens per second of one run. Raises Unavailable if it failed."""
        ...


class Engine(Protocol):
    """One engine with one kind of weights."""

    @property
    def name(self) -> str: ...
    @property
    def weight_class(self) -> WeightClass: ...

    def prepare(self, model: Path) -> None:
        """Install it and bring the model into its format; at once if that was done before. Raises Unavailable."""
        ...

    def open(self, model: Path) -> AbstractContextManager[Session]:
        """Raises Unavailable."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Child:
    """How to start a process of `children/`: answers one line of JSON for each line of JSON it is sent."""

    python: Path
    script: str
    settings: Mapping[str, Any]
    environment: Mapping[str, str]
    log: Path


class ChildSession:
    """An engine inside a process of its own, generating on request."""

    def __init__(self, process: subprocess.Popen[str], log: Path) -> None:
        self._process = process
        self._log = log
        self.process_id = process.pid
        self.version = str(self._answer(START_S)["version"])
        self._pause()

    def rate(self, cell: Cell) -> float:
        self._signal(signal.SIGCONT)
        try:
            return cell.prompt / self._seconds(cell, 1) if cell.kind == "prefill" else self._decoded(cell)
        finally:
            self._pause()

    def _decoded(self, cell: Cell) -> float:
        """What it tells of decoding alone, or the difference of two times; that again if something else took the
        processors away for longer than the tokens took."""
        for _ in range(NUM_TRIES):
            answer = self.ask(batch=cell.batch, prompt=cell.prompt, new=1 + NUM_DECODED)
            if answer["decoding_s"]:
                return float(answer["decoded"] / answer["decoding_s"])
            if cell.is_long:
                raise Unavailable("it does not tell the time of decoding alone")
            one = self._seconds(cell, 1)
            if answer["seconds"] > one:
                return cell.decoded(one, answer["seconds"])
        raise Unavailable(f"{1 + NUM_DECODED} tokens never took longer than one")

    def _seconds(self, cell: Cell, new_tokens: int) -> float:
        return float(self.ask(batch=cell.batch, prompt=cell.prompt, new=new_tokens)["seconds"])

    def ask(self, **question: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()
        except OSError as error:
            raise self._unavailable("it ended") from error
        return self._answer(ANSWER_S)

    def _answer(self, timeout_s: float) -> dict[str, Any]:
        assert self._process.stdout is not None
        if not select.select([self._process.stdout], [], [], timeout_s)[0]:
            raise self._unavailable(f"no answer in {timeout_s:.0f} s")
        line = self._process.stdout.readline()
        if not line:
            raise self._unavailable("it ended")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise self._unavailable(answer["error"])
        return answer

    def _unavailable(self, why: str) -> Unavailable:
        tail = self._log.read_text(errors="replace")[-1500:] if self._log.exists() else ""
        return Unavailable(f"{why}\n{tail}".strip())

    def _pause(self) -> None:
        self._signal(signal.SIGSTOP)

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)


@contextmanager
def open_child(child: Child) -> Iterator[ChildSession]:
    """The process of its own group, loaded and stopped; killed with all its children at the end."""
    child.log.parent.mkdir(parents=True, exist_ok=True)
    with child.log.open("w") as log:
        process = subprocess.Popen(
            [str(child.python), str(CHILDREN / child.script), json.dumps(dict(child.settings))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env={**os.environ, **child.environment},
            start_new_session=True,
        )
    try:
        yield ChildSession(process, child.log)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def end_in_order() -> None:
    """Let SIGTERM end this process as an exception does: what was started is stopped, files are put away."""
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))


def run_to_end(
    command: Sequence[str | Path], *, timeout_s: float, folder: Path, environment: Mapping[str, str] | None = None
) -> str:
    """What a program that measures and ends says, on either stream. It runs in `folder`, where it may leave logs.

    Raises Unavailable with its last words.
    """
    try:
        done = subprocess.run(
            [str(word) for word in command],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            check=False,
            timeout=timeout_s,
            cwd=folder,
            env={**os.environ, **(environment or {})},
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(str(error)) from error
    if done.returncode:
        raise Unavailable(f"{Path(command[0]).name} ended with {done.returncode}: {done.stdout[-1500:]}")
    return done.stdout
