"""run: one answer, and a conversation."""

from __future__ import annotations

import io
import json
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.user_cli.conftest import Shell
from tests.unit.user_cli.fake_door import FakeDoor
from tests.unit.user_cli.fake_node import FakePlane
from thaloom.base.errors import AlreadyRunning, PromptTooLong, QueueFull, WorkerLost
from thaloom.user.cli import chat
from thaloom.user.cli import node as nodes
from thaloom.user.cli import run as run_verb


@pytest.fixture
def door(monkeypatch: pytest.MonkeyPatch, plane: FakePlane) -> FakeDoor:
    door = FakeDoor()
    monkeypatch.setattr(run_verb, "open_door", lambda url: door)
    return door


def piped(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))


class Keyboard(io.StringIO):
    def isatty(self) -> bool:
        return True


def typed(monkeypatch: pytest.MonkeyPatch, *lines: str | type[BaseException]) -> None:
    """A person at a terminal who types these lines, then Ctrl-D. Line editing is not part of it."""
    coming: Iterator[str | type[BaseException]] = iter([*lines, EOFError])

    def read(prompt: str = "") -> str:
        line = next(coming)
        if isinstance(line, str):
            return line
        raise line

    monkeypatch.setattr("sys.stdin", Keyboard())
    monkeypatch.setattr("builtins.input", read)


def test_an_answer_goes_to_standard_output_and_nothing_else(shell: Shell, door: FakeDoor) -> None:
    run = shell("run", "tiny", "The")
    assert (run.code, run.out) == (0, "The socket option\n")
    path, body = door.asked[0]
    assert path == "/v1/completions"
    assert (body["model"], body["prompt"], body["stream"]) == ("tiny", "The", True)
    assert door.closed


def test_the_speed_is_told_on_standard_error(shell: Shell, door: FakeDoor) -> None:
    run = shell("run", "-v", "tiny", "The")
    assert run.out == "The socket option\n"
    assert "3 tokens" in run.err
    assert "tokens/s" in run.err
    assert "length" in run.err


def test_a_model_with_a_template_is_asked_as_a_chat(shell: Shell, door: FakeDoor) -> None:
    shell("run", "chatty", "hello", "--system", "be brief")
    path, body = door.asked[0]
    assert path == "/v1/chat/completions"
    assert body["messages"] == [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "hello"},
    ]


def test_raw_continues_the_prompt_as_it_is(shell: Shell, door: FakeDoor) -> None:
    shell("run", "chatty", "hello", "--raw")
    assert door.asked[0][0] == "/v1/completions"


@pytest.mark.parametrize("words", [["tiny"], ["chatty", "--raw"]], ids=" ".join)
def test_a_system_text_without_a_template_is_refused(shell: Shell, door: FakeDoor, words: list[str]) -> None:
    run = shell("run", *words, "hello", "--system", "be brief")
    assert run.code == 2
    assert "--system" in run.err


def test_only_the_sampling_that_was_asked_for_is_sent(shell: Shell, door: FakeDoor) -> None:
    words = "--max-tokens 5 --temperature 0 --top-p 0.5 --top-k 7 --min-p 0.1 --seed 9 --stop a --stop b"
    shell("run", "tiny", "The", *words.split())
    shell("run", "tiny", "The")
    plain = {"model": "tiny", "prompt": "The", "stream": True, "stream_options": {"include_usage": True}}
    sampling = {"max_tokens": 5, "temperature": 0.0, "top_p": 0.5, "top_k": 7, "min_p": 0.1, "seed": 9}
    assert door.asked[0][1] == plain | sampling | {"stop": ["a", "b"]}
    assert door.asked[1][1] == plain


def test_json(shell: Shell, door: FakeDoor) -> None:
    document = shell("run", "tiny", "The", "--json").document
    assert document["text"] == "The socket option"
    assert document["finish_reason"] == "length"
    assert (document["prompt_tokens"], document["completion_tokens"]) == (3, 3)


@pytest.mark.parametrize("words", [[], ["-"]], ids=str)
def test_the_prompt_may_come_from_a_pipe(
    shell: Shell, door: FakeDoor, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    piped(monkeypatch, b"two\nlines\n")
    shell("run", "tiny", *words)
    assert door.asked[0][1]["prompt"] == "two\nlines"


def test_an_empty_pipe_is_no_prompt(shell: Shell, door: FakeDoor, monkeypatch: pytest.MonkeyPatch) -> None:
    piped(monkeypatch, b"\n")
    run = shell("run", "tiny")
    assert run.code == 2
    assert "no prompt" in run.err


def test_a_pipe_that_holds_no_text_is_refused(shell: Shell, door: FakeDoor, monkeypatch: pytest.MonkeyPatch) -> None:
    piped(monkeypatch, b"abc\xff")
    run = shell("run", "tiny")
    assert run.code == 2
    assert "byte 3" in run.err


def test_a_model_that_is_not_served_is_served_first(shell: Shell, plane: FakePlane, door: FakeDoor) -> None:
    assert shell("run", "tiny", "The").code == 0
    assert plane.services_by_name["tiny"].phase == "ready"
    assert [method for method, _ in plane.asked].count("serve") == 1
    shell("run", "tiny:latest", "The")
    assert [method for method, _ in plane.asked].count("serve") == 1, "it is served already"


def test_a_service_of_that_name_is_used_whatever_its_model(shell: Shell, plane: FakePlane, door: FakeDoor) -> None:
    plane.add_service("other", "chatty")
    shell("run", "other", "hello")
    assert door.asked[0][0] == "/v1/chat/completions"
    assert door.asked[0][1]["model"] == "other"


def test_a_service_that_loads_is_waited_for(shell: Shell, plane: FakePlane, door: FakeDoor) -> None:
    plane.add_service("tiny", "tiny", phase="loading")
    assert shell("run", "tiny", "The").code == 0


def test_the_bundled_model_is_imported_first(shell: Shell, plane: FakePlane, door: FakeDoor) -> None:
    plane.bundled = {"tiny"}
    plane.models_by_name.clear()
    plane.services_by_name.clear()
    run = shell("run", "tiny", "The")
    assert run.out == "The socket option\n"
    assert "Imported tiny" in run.err


def test_a_node_is_started_where_none_runs(
    shell: Shell, plane: FakePlane, door: FakeDoor, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = []
    monkeypatch.setattr(nodes, "start_detached", lambda: started.append(True))
    assert shell("run", "tiny", "The").code == 0
    assert started == [], "one runs already"
    really_running, answers = nodes.running, iter([None])
    monkeypatch.setattr(nodes, "running", lambda: next(answers, None) or (really_running() if started else None))
    assert shell("run", "tiny", "The").code == 0
    assert started == [True]


def test_two_at_once_start_one_node(
    shell: Shell, plane: FakePlane, door: FakeDoor, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked = []
    really_running = nodes.running

    def running() -> object:
        looked.append(True)
        return None if len(looked) == 1 else really_running()

    def start_detached() -> None:
        raise AlreadyRunning("somebody was faster")

    monkeypatch.setattr(nodes, "running", running)
    monkeypatch.setattr(nodes, "start_detached", start_detached)
    assert shell("run", "tiny", "The").code == 0


@pytest.mark.parametrize(
    ("error", "after", "code"),
    [
        (PromptTooLong("600 tokens and 16 wanted, 512 fit", prompt_tokens=600), 0, 2),
        (QueueFull("128 wait", retry_after_s=1.5), 0, 5),
        (WorkerLost("the worker died"), 2, 1),
    ],
    ids=["refused", "full", "lost in mid-stream"],
)
def test_an_answer_that_does_not_come(shell: Shell, door: FakeDoor, error: Exception, after: int, code: int) -> None:
    door.error, door.fail_after = error, after
    run = shell("run", "tiny", "The")
    assert run.code == code
    assert str(error) in run.err
    assert run.out == "".join(door.pieces[:after])
    run = shell("run", "tiny", "The", "--json")
    assert run.out == ""
    assert run.error["message"] == str(error)


def test_an_answer_that_breaks_off_is_not_passed_for_a_whole_one(shell: Shell, door: FakeDoor) -> None:
    door.finish = False
    run = shell("run", "tiny", "The")
    assert run.code == 1
    assert "broke off" in run.err


def test_interrupt_closes_the_stream(shell: Shell, door: FakeDoor) -> None:
    door.error, door.fail_after = KeyboardInterrupt(), 1
    assert shell("run", "tiny", "The").code == 130
    assert (door.open, door.closed) == (0, True)


def test_a_conversation_remembers(shell: Shell, door: FakeDoor, monkeypatch: pytest.MonkeyPatch) -> None:
    typed(monkeypatch, "one", "", "two", "/clear", "three", "/bye", "never read")
    run = shell("run", "chatty")
    assert run.code == 0
    contents = [[message["content"] for message in body["messages"]] for _, body in door.asked]
    answer = "The socket option"
    assert contents == [["one"], ["one", answer, "two"], ["three"]]
    assert run.out == f"{answer}\n" * 3


def test_a_completion_model_remembers_nothing(shell: Shell, door: FakeDoor, monkeypatch: pytest.MonkeyPatch) -> None:
    typed(monkeypatch, "one", "two")
    run = shell("run", "tiny")
    assert [body["prompt"] for _, body in door.asked] == ["one", "two"]
    assert "no chat template" in run.err


def test_commands_of_a_conversation(shell: Shell, door: FakeDoor, monkeypatch: pytest.MonkeyPatch) -> None:
    typed(monkeypatch, "/help", "/nonsense", "/etc/hosts is a file")
    run = shell("run", "chatty")
    assert "/clear" in run.err
    assert "No such command: /nonsense" in run.err
    assert len(door.asked) == 1, "a path in a sentence is no command"


def test_a_text_of_several_lines(shell: Shell, door: FakeDoor, monkeypatch: pytest.MonkeyPatch) -> None:
    typed(monkeypatch, '"""first', "second", 'third"""', '"""', "x", '"""')
    shell("run", "chatty")
    assert [body["messages"][-1]["content"] for _, body in door.asked] == ["first\nsecond\nthird", "x"]


def test_ctrl_c_stops_the_answer_not_the_conversation(
    shell: Shell, door: FakeDoor, monkeypatch: pytest.MonkeyPatch
) -> None:
    door.error, door.fail_after = KeyboardInterrupt(), 1
    typed(monkeypatch, "one", KeyboardInterrupt, "two")
    run = shell("run", "chatty")
    assert run.code == 0
    assert run.out.count("[stopped]") == 2
    assert "/bye" in run.err, "at the prompt it tells how to leave"
    assert [message["content"] for message in door.asked[1][1]["messages"]] == ["one", "The ", "two"]
    assert door.open == 0


def test_a_refusal_ends_the_answer_not_the_conversation(
    shell: Shell, door: FakeDoor, monkeypatch: pytest.MonkeyPatch
) -> None:
    door.error = QueueFull("128 wait")
    typed(monkeypatch, "one", "two")
    run = shell("run", "chatty")
    assert run.code == 0
    assert run.err.count("128 wait") == 2
    assert len(door.asked[1][1]["messages"]) == 1, "what was refused is not part of the conversation"


def test_a_conversation_that_has_grown_too_long_can_be_forgotten(
    shell: Shell, door: FakeDoor, monkeypatch: pytest.MonkeyPatch
) -> None:
    door.error = PromptTooLong("600 tokens, 512 fit")
    typed(monkeypatch, "one")
    assert "/clear" in shell("run", "chatty").err


def test_what_is_typed_and_no_text_is_not_sent(shell: Shell, door: FakeDoor, monkeypatch: pytest.MonkeyPatch) -> None:
    real = [UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte")]

    def read(prompt: str = "") -> str:
        raise real.pop() if real else EOFError

    typed(monkeypatch)
    monkeypatch.setattr("builtins.input", read)
    run = shell("run", "chatty")
    assert (run.code, door.asked) == (0, [])
    assert "UTF-8" in run.err


def test_a_conversation_has_no_json(shell: Shell, door: FakeDoor, monkeypatch: pytest.MonkeyPatch) -> None:
    typed(monkeypatch, "one")
    run = shell("run", "chatty", "--json")
    assert run.code == 2
    assert json.loads(run.err)["error"]["param"] == "PROMPT"


def test_the_history_is_kept_for_its_owner_only(home: Path) -> None:
    home.mkdir()
    with chat._line_history():
        pass
    assert stat.S_IMODE((home / "history").stat().st_mode) == 0o600
