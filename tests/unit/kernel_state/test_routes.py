"""The published snapshot: whole, cheap to look at, and never lost to a bad successor."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import pytest

from thaloom.base.errors import NodeNotRunning
from thaloom.base.events import Recorder
from thaloom.base.ids import ServiceName
from thaloom.kernel.state.events import RoutesUnreadable
from thaloom.kernel.state.routes import RouteReader, publish
from thaloom.kernel.state.types import Route, Routes

ROUTES = Routes(
    version=1,
    published_at=5.5,
    control_socket="/run/control.sock",
    routes=(
        Route(
            name=ServiceName("chat"),
            model="tiny",
            phase="ready",
            sockets=("/run/w.sock", "/run/v.sock"),
            context_length=256,
            created_at=1.0,
            tokenizer_files={"tokenizer.json": "/run/tokenizers/x/tokenizer.json"},
        ),
        Route(
            name=ServiceName("模型"),
            model="other",
            phase="loading",
            sockets=(),
            context_length=None,
            created_at=2.0,
            reason="loading weights",
            retry_after_s=1.5,
        ),
    ),
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "routes.json"


def version(number: int) -> Routes:
    return dataclasses.replace(ROUTES, version=number)


def test_what_is_published_is_read(path: Path) -> None:
    publish(path, ROUTES)
    assert RouteReader(path).current() == ROUTES
    assert [file.name for file in path.parent.iterdir()] == ["routes.json"]


def test_a_new_snapshot_is_seen_at_once_however_fast_it_came(path: Path) -> None:
    publish(path, ROUTES)
    reader = RouteReader(path)
    for number in range(2, 9):  # all of one size, and likely within one tick of the file system's clock
        publish(path, version(number))
        publish(path, version(number + 1))
        assert reader.current().version == number + 1


def test_a_snapshot_from_before_there_were_pins_lets_them_be_asked_for(path: Path) -> None:
    publish(path, ROUTES)
    older = json.loads(path.read_bytes())
    for told in older["routes"]:
        del told["keeps_prompts"]
    path.write_text(json.dumps(older))
    assert RouteReader(path).current() == ROUTES


def test_an_unchanged_file_is_not_read_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(path, ROUTES)
    reader = RouteReader(path)
    first = reader.current()
    monkeypatch.setattr(json, "loads", lambda text: pytest.fail("read again"))
    assert reader.current() is first


def test_no_file_means_no_node(path: Path) -> None:
    reader = RouteReader(path)
    with pytest.raises(NodeNotRunning, match="no node is running"):
        reader.current()
    publish(path, ROUTES)
    assert reader.current() == ROUTES
    path.unlink()
    with pytest.raises(NodeNotRunning):
        reader.current()


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"{}",
        b"\xff",
        b'{"version": 1, "published_at": 1.0, "control_socket": "c", "new_key": 1}',
        b'{"version": "x", "published_at": 1.0, "control_socket": "c"}',
        b'{"version": 1, "published_at": 1.0, "control_socket": "c", "routes": [{"name": "a"}]}',
        b"[" * 100_000,
    ],
)
def test_a_malformed_snapshot_keeps_the_last_good_one_and_is_told_once(text: bytes, path: Path) -> None:
    events = Recorder()
    publish(path, ROUTES)
    reader = RouteReader(path, events)
    reader.current()
    path.write_bytes(text)
    assert reader.current() == reader.current() == ROUTES
    assert len(events.of(RoutesUnreadable)) == 1
    publish(path, version(2))
    assert reader.current().version == 2


def test_a_node_whose_only_snapshot_is_malformed_is_not_running(path: Path) -> None:
    path.write_bytes(b"{")
    with pytest.raises(NodeNotRunning, match="cannot be read"):
        RouteReader(path).current()


def test_a_reader_keeps_one_file_open_and_gives_it_back(path: Path) -> None:
    def num_open() -> int:
        return len(os.listdir("/proc/self/fd"))

    before = num_open()
    reader = RouteReader(path)
    for number in range(20):
        publish(path, version(number))
        reader.current()
    assert num_open() == before + 1
    del reader
    assert num_open() == before
