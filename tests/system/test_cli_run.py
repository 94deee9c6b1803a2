"""run on the real node: from nothing to an answer, and a conversation on a terminal."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import time
from pathlib import Path

from tests.models import make_model
from tests.system.cli import PROGRAM, environment, thaloom
from tests.system.node import PATIENCE_S, Node, eventually, node

__all__ = ["node"]


def test_from_nothing_to_an_answer(node: Node) -> None:
    first = thaloom(node, "run", "--verbose", "--max-tokens", "12", "--seed", "7", "tiny", "The socket option")
    assert first.code == 0, first.err
    assert len(first.out.strip()) > 10
    assert "tokens/s" in first.err
    assert "Imported tiny" in first.err

    again = thaloom(node, "run", "--max-tokens", "12", "--seed", "7", "tiny", typed="The socket option\n")
    assert again.out == first.out, "the same request has the same answer"
    assert again.err == "", "nothing had to be started, and nobody looks at standard error"

    as_json = thaloom(node, "run", "--max-tokens", "12", "--seed", "7", "tiny", "The socket option", "--json")
    assert as_json.document["text"] + "\n" == first.out
    assert as_json.document["completion_tokens"] == 12
    assert as_json.document["finish_reason"] == "length"

    (service,) = thaloom(node, "ps", "--json").document["services"]
    assert (service["name"], service["phase"]) == ("tiny", "ready")
    assert thaloom(node, "down").code == 0
    assert node.processes_of_home() == []


def test_what_the_door_refuses_is_told_with_its_own_exit_code(node: Node) -> None:
    long = thaloom(node, "run", "tiny", typed="word " * 5000)
    assert long.code == 2
    assert "help: docs/errors.md#prompt-too-long" in long.err
    assert long.out == ""
    assert thaloom(node, "run", "tiny", "x", "--stop", "").code == 2


def test_two_runs_at_once_share_one_node(node: Node) -> None:
    words = ["run", "--max-tokens", "4", "--json", "tiny", "The"]
    both = [
        subprocess.Popen(
            [*PROGRAM, *words],
            env=environment(node),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for _ in range(2)
    ]
    ended = [process.communicate(timeout=2 * PATIENCE_S) for process in both]
    assert [process.returncode for process in both] == [0, 0], ended
    roles = [process["role"] for process in thaloom(node, "ps", "--json").document["processes"]]
    assert sorted({*roles} - {"standby"}) == ["daemon", "door", "worker"]
    assert len(roles) == len({*roles})


def test_ctrl_c_ends_the_request_in_the_worker_too(node: Node) -> None:
    assert thaloom(node, "run", "--max-tokens", "1", "tiny", "x").code == 0
    process = subprocess.Popen(
        [*PROGRAM, "run", "--raw", "--max-tokens", "1000", "tiny", "The"],
        env=environment(node),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    process.stdout.read(1)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=PATIENCE_S)
    assert process.returncode in (0, 130), "130, unless the answer was over before the signal came"

    def idle() -> bool:
        (service,) = thaloom(node, "ps", "--json").document["services"]
        return bool(service["running"] == service["waiting"] == 0)

    eventually(idle)


class Terminal:
    """A person at a terminal of their own."""

    def __init__(self, node: Node, *words: str) -> None:
        self.shown = ""
        self._pid, self._descriptor = pty.fork()
        if self._pid == 0:
            os.execve(PROGRAM[0], [*PROGRAM, *words], environment(node) | {"TERM": "xterm", "NO_COLOR": "1"})

    def wait_for(self, words: str) -> None:
        deadline = time.monotonic() + 2 * PATIENCE_S
        while words not in self.shown:
            assert time.monotonic() < deadline, self.shown
            assert self._read(wait_s=0.1) or words in self.shown, self.shown

    def type(self, words: str) -> None:
        self.shown = ""
        os.write(self._descriptor, words.encode())

    def interrupt_until(self, words: str) -> None:
        """Ctrl-C, again each second while nothing is shown.

        Python's `input` shows its prompt a moment before it listens for signals, and sees one that comes in between
        only at the next key. A person presses Ctrl-C again.
        """
        deadline = time.monotonic() + 2 * PATIENCE_S
        self.shown = ""
        while not self.shown:
            assert time.monotonic() < deadline
            os.write(self._descriptor, b"\x03")
            self._read(wait_s=1.0)
        self.wait_for(words)

    def end(self) -> int:
        """The exit code, once it has ended by itself."""
        try:
            return eventually(self._exit_code, timeout_s=2 * PATIENCE_S)[0]
        finally:
            os.close(self._descriptor)

    def _read(self, *, wait_s: float = 0.0) -> bool:
        """Takes what is there; False once the other end has closed."""
        if select.select([self._descriptor], [], [], wait_s)[0]:
            try:
                self.shown += os.read(self._descriptor, 4096).decode(errors="replace")
            except OSError:
                return False
        return True

    def _exit_code(self) -> tuple[int] | None:
        self._read()
        pid, status = os.waitpid(self._pid, os.WNOHANG)
        return (os.waitstatus_to_exitcode(status),) if pid else None


def test_a_conversation_on_a_terminal(node: Node, tmp_path: Path) -> None:
    make_model(tmp_path / "chatty", "qwen3")
    assert thaloom(node, "up", "-d").code == 0
    assert thaloom(node, "pull", str(tmp_path / "chatty")).code == 0
    assert thaloom(node, "serve", "chatty").code == 0
    person = Terminal(node, "run", "chatty", "--max-tokens", "6", "--seed", "1")
    person.wait_for(">>> ")
    person.type("hello\n")
    person.wait_for("ended by")
    person.wait_for(">>> ")
    person.type("/nonsense\n")
    person.wait_for("No such command")
    person.wait_for(">>> ")
    person.interrupt_until("/bye")
    person.wait_for(">>> ")
    person.type("\x04")
    assert person.end() == 0
    history = (node.home / "history").read_text()
    assert "hello" in history


def test_a_completion_model_says_that_it_remembers_nothing(node: Node) -> None:
    assert thaloom(node, "run", "--max-tokens", "1", "tiny", "x").code == 0
    person = Terminal(node, "run", "tiny", "--max-tokens", "3")
    person.wait_for("no chat template")
    person.wait_for(">>> ")
    person.type("/bye\n")
    assert person.end() == 0
