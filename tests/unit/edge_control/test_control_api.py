"""The control API end to end: typed client, unix socket, routes, a made-up control plane."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import stat
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.unit.edge_control.plane import CPU, MANIFEST, serving
from thaloom.base.errors import (
    BadParameter,
    CorruptObject,
    DeadlineExceeded,
    DeviceNotFound,
    Forbidden,
    InternalError,
    ModelInUse,
    ModelNotFound,
    NodeNotRunning,
    OutOfMemory,
    ServiceFailed,
    ServiceNotFound,
)
from thaloom.edge.api.control import server as control_server
from thaloom.edge.client.control import ControlClient, control_socket
from thaloom.edge.wire.control import (
    PREFIX,
    CopyRequest,
    HubAccess,
    Progress,
    PullRequest,
    QuantiseRequest,
    ServeRequest,
)
from thaloom.kernel.models.types import HubSettings, ModelName

SERVE = ServeRequest(model="tiny:v1", num_threads=2)


@pytest.fixture
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Short: a socket lies in it."""
    return tmp_path_factory.mktemp("c")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One server for all tests that change nothing in it."""
    home = tmp_path_factory.mktemp("s")
    with serving(home):
        yield home


def raw(home: Path, method: str, path: str, body: Any = None, **headers: str) -> httpx2.Response:
    """A request no typed client would send."""
    transport = httpx2.HTTPTransport(uds=str(control_socket(home)))
    with httpx2.Client(transport=transport, base_url="http://localhost") as client:
        content = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        return client.request(method, path, content=content, headers={"Content-Type": "application/json"} | headers)


def test_every_fact_survives_the_way(home: Path) -> None:
    with serving(home) as (plane, client, _):
        status = client.status()
        assert (status.pid, status.door_pid, status.memory[0].free_bytes) == (7, 8, 6)
        assert client.version().api == "v1"
        assert [process.role for process in client.processes()] == ["daemon"]
        devices = client.devices()
        assert devices.absent[0].reason == "no libcuda"
        device = devices.devices[0]
        assert (device.dtypes, device.features, device.caches[0].size_bytes) == (["bf16", "f32"], ["avx2"], 32768)
        assert device.reading is not None
        assert (device.reading.memory_used_bytes, device.reading.power_mw) == (5, None)
        assert client.device("cpu").reading is None
        model = client.model("tiny:v1")
        assert (model.name, model.total_bytes, model.files[0].path) == ("tiny:v1", 7, "config.json")
        assert client.models() == [model]
        event = client.events(limit=3)[0]
        assert (event.name, event.level, event.fields["message"]) == ("Degraded", "warning", "3")
        service = client.serve("chat", SERVE)
        assert (service.name, service.spec.num_threads, service.operator_levels) == ("chat", 2, {"linear": "L2"})
        assert client.services() == [client.service("chat")]
        assert client.status().services == client.services()
        assert client.stop("chat").name == "chat"
        assert client.down().pid == 7
        assert plane.went_down


def test_a_model_gets_a_second_name(home: Path) -> None:
    with serving(home) as (plane, client, _):
        assert client.copy_model("tiny:v1", CopyRequest(name="mine", replace=True)).name == "mine"
        assert plane.copied == (ModelName("tiny", "v1"), ModelName("mine"), True)
        with pytest.raises(ModelNotFound):
            client.copy_model("nobody", CopyRequest(name="mine"))
        with pytest.raises(BadParameter):
            client.copy_model("tiny:v1", CopyRequest(name="NOT A NAME"))


def test_the_leaf_that_was_raised_arrives_with_its_details(home: Path) -> None:
    with serving(home) as (_, client, _):
        with pytest.raises(ModelNotFound) as refusal:
            client.model("nobody")
        assert refusal.value.details == {"near": ["tiny:v1"]}
        with pytest.raises(DeviceNotFound) as unknown:
            client.device("virtual:0")
        assert unknown.value.param == "device"
        with pytest.raises(OutOfMemory) as short:
            client.serve("x", ServeRequest(model="m", kv_bytes=1))
        assert short.value.details == {"needed_bytes": 9, "free_bytes": 6}
        with pytest.raises(ModelInUse):
            client.remove_model("tiny")
        with pytest.raises(ServiceNotFound):
            client.stop("nobody")
        with pytest.raises(BadParameter):
            client.model("NOT A NAME")


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        ({"model": "m", "colour": "blue"}, "bad_parameter", "colour"),
        ({}, "bad_parameter", "model"),
        ({"model": 7}, "bad_parameter", "model"),
        ({"model": ""}, "bad_parameter", "model"),
        ({"model": "m", "num_threads": "2"}, "bad_parameter", "num_threads"),
        ({"model": "m", "num_threads": 0}, "bad_parameter", "num_threads"),
        ({"model": "m", "num_threads": True}, "bad_parameter", "num_threads"),
        ({"model": "../m"}, "bad_parameter", "model"),
        (b"{", "bad_request", None),
        (b"", "bad_request", None),
        (b"[]", "bad_request", None),
        (b"\xff", "bad_request", None),
    ],
)
def test_a_wrong_body_is_a_400_that_names_the_field(shared: Path, body: Any, code: str, param: str | None) -> None:
    response = raw(shared, "PUT", f"{PREFIX}/services/a", body)
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["param"]) == (400, code, param)
    assert error["help_page"].startswith("docs/errors.md#")


def test_a_body_that_does_not_say_it_is_json_is_refused(shared: Path) -> None:
    """A page of a browser can send text without asking; JSON it cannot."""
    response = raw(shared, "PUT", f"{PREFIX}/services/a", {"model": "m"}, **{"Content-Type": "text/plain"})
    assert response.status_code == 400
    assert "Content-Type: application/json" in response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nothing", 404),
        ("GET", f"{PREFIX}/nothing", 404),
        ("DELETE", f"{PREFIX}/status", 405),
        ("GET", f"{PREFIX}/services/a/logs?tail=-1", 400),
        ("GET", f"{PREFIX}/services/a/logs?tail=1000000", 400),
        ("GET", f"{PREFIX}/services/a/logs?follow=perhaps", 400),
        ("GET", f"{PREFIX}/events?limit=0", 400),
        ("GET", f"{PREFIX}/models/a%2Fb", 404),
    ],
)
def test_wrong_paths_and_queries_get_an_error_of_the_tree(shared: Path, method: str, path: str, status: int) -> None:
    response = raw(shared, method, path)
    assert response.status_code == status
    assert response.json()["error"]["code"] in ("bad_request", "bad_parameter", "model_not_found")


def test_a_relative_path_is_refused(home: Path) -> None:
    with serving(home) as (_, client, _), pytest.raises(BadParameter, match="absolute"):
        client.pull(PullRequest(source="models/tiny"))


def test_progress_then_the_model(home: Path) -> None:
    with serving(home) as (plane, client, soon):
        steps: list[Progress] = []

        def note(progress: Progress) -> None:
            steps.append(progress)
            soon(plane.gate.set)

        assert client.pull(PullRequest(source="/m", name="tiny"), note).digest == MANIFEST.digest
        assert (steps[0].stage, steps[0].done_bytes, steps[0].total_bytes) == ("importing", 3, 7)
        wish = QuantiseRequest(to="int4", replace=True)
        assert client.quantise("tiny:v1", wish, note).digest == MANIFEST.digest
        assert (str(plane.wish.model), str(plane.wish.name), plane.wish.to) == ("tiny:v1", "tiny-int4:v1", "int4")
        verification = client.verify("tiny:v1", note)
        assert not verification.sound
        assert verification.faults[0].message == "chunk 3"


def test_an_error_before_the_first_word_is_an_ordinary_answer(home: Path) -> None:
    with serving(home) as (plane, client, soon):
        plane.fault = CorruptObject("altered")
        soon(plane.gate.set)
        with pytest.raises(CorruptObject):
            client.pull(PullRequest(source="/m"))
        soon(plane.gate.set)
        assert raw(home, "POST", f"{PREFIX}/models/tiny/verify").status_code == 422


@pytest.mark.parametrize(("fault", "leaf"), [(CorruptObject("altered"), CorruptObject), (KeyError(1), InternalError)])
def test_an_error_in_the_middle_is_the_last_line(home: Path, fault: Exception, leaf: type[Exception]) -> None:
    with serving(home) as (plane, client, soon):
        plane.fault = fault
        with pytest.raises(leaf):
            client.pull(PullRequest(source="/m"), lambda _: soon(plane.gate.set))
        with pytest.raises(leaf):
            plane.gate.clear()
            client.verify("tiny", lambda _: soon(plane.gate.set))


def test_a_caller_who_leaves_cancels_the_work(home: Path) -> None:
    class Left(Exception):
        pass

    def leave(_: Progress) -> None:
        raise Left

    with serving(home) as (plane, client, _):
        with pytest.raises(Left):
            client.pull(PullRequest(source="/m"), leave)
        wait_for(plane.cancelled.is_set)


def test_a_hubs_model_is_asked_for_with_what_the_caller_knows_of_hubs(home: Path) -> None:
    with serving(home) as (plane, client, soon):
        access = HubAccess(hf_endpoint="https://mirror", hf_token="hf_secret", offline=True)
        request = PullRequest(source="hf://a/b", name="c:v1", replace=True, hub=access, read_through=True)
        assert "hf_secret" not in repr(request)
        assert client.pull(request, lambda _: soon(plane.gate.set)).digest == MANIFEST.digest
        model, settings, name, replace, read_through = plane.pulled
        assert (str(model), str(name), replace, read_through) == ("hf://a/b@main", "c:v1", True, True)
        assert settings == HubSettings(hf_endpoint="https://mirror", hf_token="hf_secret", offline=True)
        assert "hf_secret" not in repr(settings)


def test_unfinished_pulls_and_refused_calls(home: Path) -> None:
    with serving(home) as (_, client, _):
        (pull,) = client.unfinished_pulls()
        assert (pull.source, pull.done_bytes, pull.running) == ("hf://a/b@main", 1, False)
        assert client.remove_pull(pull.source).name == pull.source
        with pytest.raises(ModelNotFound):
            client.remove_pull("hf://a/c")
        assert raw(home, "DELETE", f"{PREFIX}/pulls").status_code == 400
        outgoing = client.outgoing()
        assert (outgoing.closed, outgoing.refused[0].url) == ("closed", "https://x/y")


def test_logs_are_followed_until_they_end_or_the_caller_leaves(home: Path) -> None:
    with serving(home) as (plane, client, soon):
        client.serve("a", SERVE)
        with client.logs("a", tail=5) as lines:
            assert list(lines) == ["follow=False tail=5"]
        with client.logs("a", follow=True) as lines:
            assert next(lines) == "follow=True tail=100"
            soon(plane.gate.set)
            assert list(lines) == ["more"]
        soon(plane.gate.clear)
        with client.logs("a", follow=True) as lines:
            assert next(lines)
        wait_for(plane.cancelled.is_set)
        with pytest.raises(ServiceNotFound), client.logs("nobody"):
            pass


def test_waiting_for_a_service(home: Path) -> None:
    with serving(home) as (plane, client, _):
        client.serve("a", SERVE)
        plane.phases = iter(["loading", "loading", "ready"])
        seen: list[str] = []
        assert client.wait_ready("a", timeout_s=30, on_change=lambda s: seen.append(s.phase)).phase == "ready"
        assert seen == ["loading", "ready"]
        plane.phases = iter(["loading", "failed"])
        with pytest.raises(ServiceFailed, match="is failed"):
            client.wait_ready("a", timeout_s=30)
        plane.phases = iter(["pending"])
        with pytest.raises(DeadlineExceeded, match="is pending"):
            client.wait_ready("a", timeout_s=0)


def test_an_error_of_ours_is_an_internal_error_and_not_silence(home: Path) -> None:
    with serving(home) as (plane, client, _):
        client.serve("a", SERVE)
        plane.phases = iter([])
        with pytest.raises(InternalError):
            client.service("a")


def test_no_node_and_a_dead_socket_are_told_as_such(home: Path) -> None:
    with ControlClient(home) as client:
        with pytest.raises(NodeNotRunning, match="thaloom up"):
            client.status()
        (home / "run").mkdir()
        with socket.socket(socket.AF_UNIX) as left_behind:
            left_behind.bind(str(control_socket(home)))
        with pytest.raises(NodeNotRunning):
            client.status()


def test_the_node_of_another_user_is_not_taken_for_absent(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(_socket: socket.socket, _path: str) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("socket.socket.connect", refused)
    with ControlClient(home) as client, pytest.raises(Forbidden, match="another user"):
        client.status()


@pytest.mark.parametrize("sent", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{"])
def test_a_node_that_dies_while_answering_is_told_as_such(home: Path, sent: bytes) -> None:
    with mute_node(home, sent), ControlClient(home) as client, pytest.raises(NodeNotRunning):
        client.status()


def test_a_stream_that_breaks_off_is_not_taken_for_its_end(home: Path) -> None:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    with mute_node(home, head + b"4\r\none\n\r\n"), ControlClient(home) as client, client.logs("a") as lines:
        assert next(lines) == "one"
        with pytest.raises(NodeNotRunning):
            next(lines)
    with mute_node(home, head + b"4\r\none\n\r\n0\r\n\r\n"), ControlClient(home) as client, client.logs("a") as lines:
        assert list(lines) == ["one"]


def test_an_error_of_the_caller_is_not_taken_for_the_nodes(home: Path) -> None:
    with mute_node(home, b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\none\n"), ControlClient(home) as client:
        with pytest.raises(BrokenPipeError), client.logs("a"):
            raise BrokenPipeError


def test_a_refusal_that_comes_before_the_question_is_whole_is_told(home: Path) -> None:
    answer = json.dumps({"error": BadParameter("too long", param="source").to_dict()}).encode()
    head = b"HTTP/1.1 400 Bad Request\r\nContent-Length: %d\r\n\r\n" % len(answer)
    question = PullRequest(source="x" * (8 << 20), name="a")  # more than a socket holds: the rest meets a closed one
    with mute_node(home, head + answer), ControlClient(home) as client, pytest.raises(BadParameter, match="too long"):
        client.pull(question)
    with mute_node(home, b""), ControlClient(home) as client, pytest.raises(NodeNotRunning):
        client.pull(question)


@contextlib.contextmanager
def mute_node(home: Path, sent: bytes) -> Iterator[None]:
    """A node that reads a little of one question, answers it with these bytes, and is gone."""
    path = control_socket(home)
    path.parent.mkdir(exist_ok=True)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def answer() -> None:
            with listener.accept()[0] as connection:
                connection.recv(65536)
                connection.sendall(sent)

        answering = threading.Thread(target=answer)
        answering.start()
        try:
            yield
        finally:
            answering.join(30)
            path.unlink()


def test_a_silent_node_does_not_hang_its_callers(home: Path) -> None:
    (home / "run").mkdir()
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(control_socket(home)))
        silent.listen()
        with ControlClient(home, timeout_s=0.05) as client, pytest.raises(DeadlineExceeded):
            client.status()


def test_an_answer_that_is_not_ours_is_an_internal_error(home: Path) -> None:
    with serving(home) as (plane, client, _):

        async def nonsense() -> list[object]:
            return []

        plane.processes = nonsense  # type: ignore[assignment,method-assign]
        assert client.processes() == []
        with pytest.raises(InternalError):
            client._get(type(client.status()), "/version")


def test_the_socket_is_for_its_own_user(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(home) as (_, client, _):
        path = control_socket(home)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        client.version()
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(path))
            assert control_server.peer_uid(connection) == os.getuid()
        monkeypatch.setattr(control_server, "peer_uid", lambda _: os.getuid() + 1)
        with pytest.raises(NodeNotRunning):
            client.version()
    assert not path.exists()


def test_a_stale_socket_is_replaced(home: Path) -> None:
    (home / "run").mkdir()
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(control_socket(home)))
    with serving(home) as (_, client, _):
        assert client.device("cpu").id == CPU.id


def test_the_api_describes_itself(home: Path) -> None:
    with serving(home):
        document = raw(home, "GET", f"{PREFIX}/openapi.json").json()
        assert document["openapi"].startswith("3.1")
        assert f"{PREFIX}/services/{{name}}" in document["paths"]


def wait_for(what: Callable[[], bool]) -> None:
    """Until the server's thread has come as far."""
    deadline = time.monotonic() + 30
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0)
