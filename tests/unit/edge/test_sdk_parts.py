"""The parts of the SDK that wait for nothing: settings, lines, decisions about trying again, what travels."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thaloom.base.errors import (
    BadParameter,
    DeadlineExceeded,
    InternalError,
    NodeNotRunning,
    QueueFull,
    ThaloomError,
    WorkerLost,
)
from thaloom.edge.client import lines as lines_of
from thaloom.edge.client.sdk import calls
from thaloom.edge.client.sdk.options import turns
from thaloom.edge.client.sdk.retries import Retries
from thaloom.edge.client.sdk.settings import Settings
from thaloom.edge.client.sdk.settings import settings as make_settings

ROOT = Path(__file__).resolve().parents[3]


def made(environment: dict[str, str] | None = None, **changes: Any) -> Settings:
    arguments: dict[str, Any] = {
        "url": None, "host": None, "port": None, "api_key": None, "home": None, "timeout_s": 5.0, "retries": None,
    }  # fmt: skip
    return make_settings(**arguments | changes, environment=environment or {})


@pytest.mark.parametrize(
    ("environment", "arguments", "url"),
    [
        ({}, {}, "http://127.0.0.1:7411"),
        ({"THALOOM_HOST": "localhost", "THALOOM_PORT": "80"}, {}, "http://localhost:80"),
        ({"THALOOM_HOST": "", "THALOOM_PORT": ""}, {}, "http://127.0.0.1:7411"),
        ({"THALOOM_HOST": "localhost", "THALOOM_PORT": "80"}, {"port": 81}, "http://localhost:81"),
        ({"THALOOM_HOST": "localhost"}, {"host": "::1"}, "http://[::1]:7411"),
        ({"THALOOM_HOST": "localhost"}, {"url": "https://node.example:1/"}, "https://node.example:1"),
    ],
)
def test_arguments_go_over_the_environment(environment: dict[str, str], arguments: dict[str, Any], url: str) -> None:
    assert made(environment, **arguments).url == url


@pytest.mark.parametrize(
    ("environment", "arguments", "param"),
    [
        ({"THALOOM_PORT": "a"}, {}, "port"),
        ({"THALOOM_PORT": "-1"}, {}, "port"),
        ({}, {"port": 0}, "port"),
        ({}, {"port": 65536}, "port"),
        ({}, {"url": "node:80"}, "url"),
        ({}, {"url": "ftp://node"}, "url"),
        ({}, {"url": "http://node:port"}, "url"),
        ({}, {"url": "http://[::1"}, "url"),
        ({}, {"url": "http://a b"}, "url"),
        ({}, {"url": "http://node?x"}, "url"),
        ({}, {"host": "a/b c"}, "url"),
        ({}, {"url": "http://node", "port": 80}, "url"),
        ({}, {"api_key": "a\nb"}, "api_key"),
        ({"THALOOM_API_KEY": "密钥"}, {}, "api_key"),
        ({}, {"timeout_s": 0.0}, "timeout_s"),
        ({}, {"timeout_s": float("nan")}, "timeout_s"),
    ],
)
def test_what_is_no_place_or_key_is_refused(environment: dict[str, str], arguments: Any, param: str) -> None:
    with pytest.raises(BadParameter) as wrong:
        made(environment, **arguments)
    assert wrong.value.param == param


def test_a_home_names_its_socket() -> None:
    assert made(home="/h").socket == Path("/h/run/control.sock")
    assert made().socket is None


FULL = QueueFull("full")


@pytest.mark.parametrize(
    ("error", "changes", "pause_s"),
    [
        (FULL, {}, 0.5),
        (FULL, {"num_done": 1}, 1.0),
        (FULL, {"random": 1.0}, 0.25),
        (FULL, {"num_done": 2}, None),
        (QueueFull("full", retry_after_s=3.0), {"num_done": 1}, 3.0),
        (QueueFull("full", retry_after_s=30.5), {}, None),
        (WorkerLost("lost"), {}, 0.5),
        (WorkerLost("lost"), {"repeatable": False}, None),
        (WorkerLost("lost"), {"repeatable": False, "was_sent": False}, 0.5),
        (NodeNotRunning("no"), {"repeatable": False}, None),
        (FULL, {"repeatable": False}, 0.5),
        (DeadlineExceeded("late"), {}, None),
        (InternalError("bug"), {}, None),
        (BadParameter("bad"), {}, None),
    ],
)
def test_when_a_call_is_sent_again(error: ThaloomError, changes: dict[str, Any], pause_s: float | None) -> None:
    facts: dict[str, Any] = {"num_done": 0, "repeatable": True, "was_sent": True, "random": 0.0}
    assert Retries().pause_s(error, **facts | changes) == pause_s


@settings(max_examples=200)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n")).filter(
    lambda line: not line.endswith("\r")), max_size=5), st.data())  # fmt: skip
def test_lines_end_at_line_feeds_wherever_the_stream_is_cut(lines: list[str], data: st.DataObject) -> None:
    content = "".join(line + "\n" for line in lines).encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(content)), max_size=4)))
    reader, found = lines_of.Lines(), []
    for begin, end in zip([0, *cuts], [*cuts, len(content)], strict=True):
        found += reader.feed(content[begin:end])
    assert [line.decode() for line in found + reader.rest()] == lines


def test_a_line_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines_of, "MAX_LINE_BYTES", 10)
    reader = lines_of.Lines()
    assert reader.feed(b"0123456789") == []
    with pytest.raises(InternalError, match="longer than 10 bytes"):
        reader.feed(b"a")


def test_events() -> None:
    assert lines_of.event_data(b"data: x") == lines_of.event_data(b"data:x") == b"x"
    assert lines_of.event_data(b": a comment") is lines_of.event_data(b"") is None


def test_names_are_one_part_of_a_path() -> None:
    assert calls.get("/a/{}/b", "x y/../ü").target == "/a/x%20y%2F..%2F%C3%BC/b"
    assert calls.get("/a/{}", "..").target == "/a/%2E%2E"
    assert calls.get("/a", limit=3, follow=True, none=None).target == "/a?limit=3&follow=true"


def test_what_travels() -> None:
    content = calls.post("/a", one=(1, 2), none=None, few={"x": {3}}).content
    assert content is not None
    assert json.loads(content) == {"one": [1, 2], "few": {"x": [3]}}
    assert calls.post("/a").content is None
    for wrong in (float("inf"), object(), b"bytes"):
        with pytest.raises(BadParameter):
            calls.post("/a", one=wrong)


def test_a_text_is_a_message() -> None:
    assert turns("hi") == [{"role": "user", "content": "hi"}]
    assert turns([]) == []


def test_importing_thaloom_costs_nothing() -> None:
    program = (
        "import sys, thaloom; heavy = {'httpx2', 'pydantic', 'asyncio', 'thaloom.base', 'importlib.metadata'}; "
        "print(thaloom.__version__, sorted(heavy & set(sys.modules)), 'Client' in dir(thaloom)); "
        "print(thaloom.Client.__name__, thaloom.errors.QueueFull.code, 'httpx2' in sys.modules)"
    )
    path = f"import sys; sys.path[:] = {[entry for entry in sys.path if entry]!r}\n"
    command = [sys.executable, "-S", "-E", "-c", path + program]
    done = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert done.splitlines()[0].endswith(" [] True")
    assert done.splitlines()[1] == "Client queue_full True"


def test_what_is_not_there_is_an_attribute_error() -> None:
    import thaloom

    with pytest.raises(AttributeError, match="no_such"):
        _ = thaloom.no_such  # type: ignore[attr-defined]


def test_the_client_without_an_event_loop_is_up_to_date() -> None:
    command = [sys.executable, str(ROOT / "tools" / "generate_sync_client.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
