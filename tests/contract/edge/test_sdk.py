"""Both clients of the SDK against a live door and a real control server: every method, and every way of going wrong."""

from __future__ import annotations

import asyncio
import inspect
import itertools
import typing
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.contract.edge.fake_worker import FakeWorker
from tests.contract.edge.live_door import LiveDoor
from tests.contract.edge.sdk_methods import METHODS, NEEDED, OVER_THE_SOCKET, AnyClient, ask, method, node, opened
from tests.unit.edge_control.plane import Plane
from thaloom import AsyncClient, Client, Retries
from thaloom.base.errors import (
    BadParameter,
    DeadlineExceeded,
    Forbidden,
    InternalError,
    ModelInUse,
    NodeNotRunning,
    PromptTooLong,
    QueueFull,
    ServiceFailed,
    ServiceLoading,
    ServiceNotFound,
    WorkerLost,
)
from thaloom.edge.wire import control, openai
from thaloom.edge.wire.health import ServiceReadiness

KINDS = pytest.mark.parametrize("kind", [Client, AsyncClient], ids=lambda kind: kind.__name__)
AT_ONCE = Retries(first_pause_s=0.0)


def with_node(
    folder: Path,
    kind: type[AnyClient],
    test: Callable[[AnyClient, LiveDoor, Plane], Awaitable[None]],
    *,
    worker: FakeWorker | None = None,
    **settings: Any,
) -> None:
    async def run() -> None:
        async with node(folder, worker=worker) as (door, plane):
            async with opened(kind, door.url, **settings) as client:
                await test(client, door, plane)

    asyncio.run(run())


def opens_at_the_first_step(plane: Plane) -> Callable[[control.Progress], None]:
    """The node's long work waits until the caller has heard of it."""
    loop = asyncio.get_running_loop()

    def hear(step: control.Progress) -> None:
        if (step.stage, step.done_bytes, step.total_bytes) == ("importing", 3, 7):
            loop.call_soon_threadsafe(plane.gate.set)

    return hear


@KINDS
def test_every_method_is_answered_with_what_it_promises(short_path: Path, kind: type[AnyClient]) -> None:
    async def test(client: AnyClient, door: LiveDoor, plane: Plane) -> None:
        door.say("Hello")
        plane.gate.set()
        plane.phases = itertools.chain(["loading", "loading"], itertools.repeat("ready"))
        refused = dict.fromkeys(OVER_THE_SOCKET, Forbidden) | {"node.remove_model": ModelInUse}
        for name, arguments in METHODS.items():
            if name in refused:
                with pytest.raises(refused[name]):
                    await ask(client, name, *arguments)
                continue
            answer = await ask(client, name, *arguments, **NEEDED.get(name, {}))
            promised = inspect.signature(method(client, name).__func__, eval_str=True).return_annotation
            origin, parts = typing.get_origin(promised), typing.get_args(promised)
            if isinstance(answer, list):
                assert answer, name
                assert all(isinstance(piece, parts[0]) for piece in answer), name
            else:
                assert isinstance(answer, origin or promised), name
        assert plane.went_down

    with_node(short_path, kind, test)


@KINDS
def test_a_chat_whole_and_in_pieces(tmp_path: Path, kind: type[AnyClient]) -> None:
    async def test(client: AnyClient, door: LiveDoor, _: Plane) -> None:
        door.say("Hello, \u2028世界\u0085!")  # two of the signs that Unicode ends lines with, and JSON does not
        whole = await ask(client, "chat", "tiny", "hi", temperature=0.0, max_tokens=64)
        assert isinstance(whole, openai.ChatCompletion)
        assert whole.choices[0].message.content == "Hello, \u2028世界\u0085!"
        usage: Any = {"stream_options": {"include_usage": True}}
        chunks = await ask(client, "stream_chat", "tiny", [{"role": "user", "content": "hi"}], **usage)
        pieces = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
        assert "".join(pieces) == "Hello, \u2028世界\u0085!"
        assert len(pieces) > 3
        assert chunks[-1].usage.completion_tokens == len(door.worker.tokens)
        await ask(client, "chat", "tiny", [{"role": "user", "content": "a"}, whole.choices[0].message])
        assert door.worker.requests[0].prompt == door.worker.requests[1].prompt
        assert door.worker.requests[2].prompt != door.worker.requests[1].prompt

    with_node(tmp_path, kind, test)


@KINDS
def test_the_other_answers_say_what_they_should(short_path: Path, kind: type[AnyClient]) -> None:
    async def test(client: AnyClient, door: LiveDoor, plane: Plane) -> None:
        door.say("Hi")
        assert (await ask(client, "complete", "tiny", "a")).choices[0].text == "Hi"
        chunks = await ask(client, "stream_complete", "tiny", "a")
        assert "".join(chunk.choices[0].text for chunk in chunks) == "Hi"
        vectors = (await ask(client, "embed", "tiny", ["a", "bb"], dimensions=2)).data
        assert [one.embedding for one in vectors] == [pytest.approx([0.6, 0.8])] * 2
        assert (await ask(client, "rerank", "tiny", "a", ["b", "c"], top_n=1)).results[0].document is not None
        tokens = (await ask(client, "tokenize", "socket", model="tiny")).tokens
        assert (await ask(client, "detokenize", tokens)).prompt == "socket"
        assert (await ask(client, "ready")).services == [ServiceReadiness(name="tiny", ready=True)]
        assert (await ask(client, "node.serve", "a b", model="tiny", kv_dtype="f16")).spec.kv_dtype == "f16"
        assert [service.name for service in await ask(client, "node.services")] == ["a b"]
        assert await ask(client, "node.logs", "a b", tail=7) == ["follow=False tail=7"]
        assert (await ask(client, "node.events", limit=3))[0].fields["message"] == "3"
        made = await ask(client, "node.pull", "/x", name="tiny:v1", on_progress=opens_at_the_first_step(plane))
        assert made.name == "tiny:v1"

    with_node(short_path, kind, test)


@KINDS
def test_a_pull_from_a_hub_says_who_asks(short_path: Path, kind: type[AnyClient]) -> None:
    async def test(client: AnyClient, _: LiveDoor, plane: Plane) -> None:
        plane.gate.set()
        hub = control.HubAccess(hf_token="hf_secret", offline=True)
        await ask(client, "node.pull", "hf://org/name", hub=hub)
        model, settings, name, replace, read_through = plane.pulled
        assert (model.repo, settings.hf_token, settings.offline) == ("org/name", "hf_secret", True)
        assert (name, replace, read_through) == (None, False, False)

    with_node(short_path, kind, test)


@KINDS
def test_refusals_are_the_leaves_they_were(tmp_path: Path, kind: type[AnyClient]) -> None:
    async def test(client: AnyClient, door: LiveDoor, plane: Plane) -> None:
        with pytest.raises(BadParameter) as wrong:
            await ask(client, "chat", "tiny", "hi", temperature="hot")
        assert wrong.value.param == "temperature"
        with pytest.raises(PromptTooLong) as long:
            await ask(client, "complete", "tiny", "word " * 500)
        assert long.value.details["context_length"] == 256
        with pytest.raises(ServiceNotFound):
            await ask(client, "node.logs", "nothing")
        with pytest.raises(BadParameter, match="unknown field 'no_such'"):
            await ask(client, "node.serve", "a", no_such=1)
        with pytest.raises(BadParameter, match="JSON"):
            await ask(client, "chat", "tiny", "hi", temperature=float("nan"))
        with pytest.raises(BadParameter):
            await ask(client, "model", "")
        plane.fault = ModelInUse("in use", services=["x"])
        with pytest.raises(ModelInUse) as used:
            await ask(client, "node.pull", "/x", on_progress=opens_at_the_first_step(plane))
        assert used.value.details == {"services": ["x"]}

    with_node(tmp_path, kind, test, retries=None)


@KINDS
def test_a_stream_left_early_ends_the_request(tmp_path: Path, kind: type[AnyClient]) -> None:
    async def test(client: AnyClient, door: LiveDoor, _: Plane) -> None:
        door.say("x")

        def leave() -> None:
            assert isinstance(client, Client)
            with client.stream_chat("tiny", "hi") as chunks:
                next(chunks)

        if isinstance(client, Client):
            await asyncio.to_thread(leave)
        else:
            async with client.stream_chat("tiny", "hi") as chunks:
                async for _chunk in chunks:
                    break
        await door.worker.until_idle()
        assert door.worker.num_cancelled == 1

    with_node(tmp_path, kind, test, worker=FakeWorker(endless=True))


def test_a_chat_that_is_cancelled_ends_the_request(tmp_path: Path) -> None:
    async def test(client: AnyClient, door: LiveDoor, _: Plane) -> None:
        door.say("x")
        asked = asyncio.create_task(ask(client, "chat", "tiny", "hi"))
        while not door.worker.num_open:
            await asyncio.sleep(0.005)
        asked.cancel()
        await door.worker.until_idle()
        assert door.worker.num_cancelled == 1

    with_node(tmp_path, AsyncClient, test, worker=FakeWorker(endless=True))


@KINDS
def test_a_stream_that_breaks_off_is_told_and_not_asked_for_again(tmp_path: Path, kind: type[AnyClient]) -> None:
    async def test(client: AnyClient, door: LiveDoor, _: Plane) -> None:
        door.say("Hello")
        with pytest.raises(WorkerLost):
            await ask(client, "stream_chat", "tiny", "hi")
        assert len(door.worker.requests) == 1

    with_node(tmp_path, kind, test, worker=FakeWorker(die_after=1), retries=AT_ONCE)


# -- trying again


def answering(*answers: httpx2.Response | Exception) -> tuple[httpx2.MockTransport, list[httpx2.Request]]:
    """A transport that gives these answers, the last one for ever, and what it was asked."""
    asked: list[httpx2.Request] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        asked.append(request)
        found = answers[min(len(asked), len(answers)) - 1]
        if isinstance(found, Exception):
            raise found
        return httpx2.Response(found.status_code, headers=found.headers, content=found.content)

    return httpx2.MockTransport(answer), asked


def refused(code: str, status: int, **fields: Any) -> httpx2.Response:
    return httpx2.Response(status, json={"error": {"code": code, "message": "no", "type": "x", "param": None} | fields})


FULL = refused("queue_full", 429, retry_after_s=0.001)
MODELS = httpx2.Response(200, json={"object": "list", "data": [], "new_field": {"of": "a newer node"}})
REMOVED = httpx2.Response(200, json={"name": "x"})


@KINDS
@pytest.mark.parametrize(
    ("name", "arguments", "answers", "retries", "num_asked", "outcome"),
    [
        ("models", (), (FULL, FULL, MODELS), AT_ONCE, 3, None),
        ("models", (), (FULL,), AT_ONCE, 3, QueueFull),
        ("models", (), (FULL,), None, 1, QueueFull),
        ("models", (), (FULL,), Retries(max_retries=0), 1, QueueFull),
        ("models", (), (refused("queue_full", 429, retry_after_s=31.0),), AT_ONCE, 1, QueueFull),
        ("models", (), (refused("service_loading", 503), MODELS), AT_ONCE, 2, None),
        ("models", (), (refused("worker_lost", 502), MODELS), AT_ONCE, 2, None),
        ("models", (), (refused("deadline_exceeded", 504),), AT_ONCE, 1, DeadlineExceeded),
        ("models", (), (refused("bad_parameter", 400),), AT_ONCE, 1, BadParameter),
        ("models", (), (httpx2.ConnectError("no"), MODELS), AT_ONCE, 2, None),
        ("models", (), (httpx2.ConnectError("no"),), AT_ONCE, 3, NodeNotRunning),
        ("models", (), (httpx2.ReadError("cut"), MODELS), AT_ONCE, 2, None),
        ("models", (), (httpx2.ReadTimeout("late"),), AT_ONCE, 1, DeadlineExceeded),
        # What may have been done already is not done twice; what cannot have been, is.
        ("node.stop", ("x",), (httpx2.ReadError("cut"),), AT_ONCE, 1, NodeNotRunning),
        ("node.stop", ("x",), (refused("node_not_running", 503),), AT_ONCE, 1, NodeNotRunning),
        ("node.stop", ("x",), (httpx2.ConnectError("no"), REMOVED), AT_ONCE, 2, None),
        ("node.stop", ("x",), (FULL, REMOVED), AT_ONCE, 2, None),
        ("node.down", (), (httpx2.ReadError("cut"),), AT_ONCE, 1, NodeNotRunning),
        ("stream_chat", ("tiny", "hi"), (FULL,), AT_ONCE, 3, QueueFull),
    ],
)
def test_what_was_refused_for_now_is_asked_again_where_that_is_safe(
    kind: type[AnyClient],
    name: str,
    arguments: tuple[Any, ...],
    answers: tuple[Any, ...],
    retries: Retries | None,
    num_asked: int,
    outcome: type[Exception] | None,
) -> None:
    transport, asked = answering(*answers)

    async def run() -> None:
        async with opened(kind, transport=transport, retries=retries) as client:
            if outcome is None:
                await ask(client, name, *arguments)
            else:
                with pytest.raises(outcome):
                    await ask(client, name, *arguments)

    asyncio.run(run())
    assert len(asked) == num_asked


@KINDS
@pytest.mark.parametrize(
    ("answer", "leaf", "told"),
    [
        (httpx2.Response(503, headers={"retry-after": "7"}, content=refused("service_loading", 503).content),
         ServiceLoading, 7.0),
        (refused("a_code_of_tomorrow", 418), InternalError, None),
        (httpx2.Response(502, text="<html>a proxy</html>"), InternalError, None),
        (httpx2.Response(500, json={"error": "no object"}), InternalError, None),
        (httpx2.Response(307, headers={"location": "http://elsewhere/"}), InternalError, None),
        (httpx2.Response(200, text="not JSON"), InternalError, None),
        (httpx2.Response(200, json={"object": "list"}), InternalError, None),
    ],
)  # fmt: skip
def test_whatever_is_answered_ends_in_a_leaf(
    kind: type[AnyClient], answer: httpx2.Response, leaf: type[Exception], told: float | None
) -> None:
    async def run() -> None:
        async with opened(kind, transport=answering(answer)[0], retries=None) as client:
            with pytest.raises(leaf) as error:
                await ask(client, "models")
            assert getattr(error.value, "retry_after_s", None) == told

    asyncio.run(run())


@KINDS
def test_a_key_goes_with_every_call_and_is_not_shown(kind: type[AnyClient], monkeypatch: pytest.MonkeyPatch) -> None:
    transport, asked = answering(MODELS)
    monkeypatch.setenv("THALOOM_API_KEY", "of-the-environment")

    async def run() -> None:
        async with opened(kind, transport=transport) as client:
            await ask(client, "models")
        async with opened(kind, transport=transport, api_key="tk-secret") as client:
            await ask(client, "models")
            assert "secret" not in repr(client) + repr(vars(client))

    asyncio.run(run())
    assert [request.headers["authorization"] for request in asked] == ["Bearer of-the-environment", "Bearer tk-secret"]


# The HTTP library leaves a unix socket that it cannot connect to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@KINDS
def test_a_node_of_this_machine_is_asked_over_its_socket(short_path: Path, kind: type[AnyClient]) -> None:
    async def run() -> None:
        async with node(short_path):
            # The door is somewhere else, or nowhere.
            async with opened(kind, "http://127.0.0.1:9", home=short_path, retries=None) as client:
                assert (await ask(client, "node.status")).version == "1"
                made = await ask(client, "node.make_key", "ci", models=["tiny"], requests_per_minute=60)
                assert (made.key.limits.requests_per_minute, made.key.limits.models) == (60, ["tiny"])
                assert [key.name for key in (await ask(client, "node.keys")).keys] == ["ci"]
                assert (await ask(client, "node.remove_key", "ci")).name == "ci"
                with pytest.raises(NodeNotRunning):
                    await ask(client, "health")
        async with opened(kind, home=short_path, retries=None) as client:
            with pytest.raises(NodeNotRunning, match=str(short_path)):
                await ask(client, "node.status")

    asyncio.run(run())


@KINDS
@pytest.mark.parametrize(
    ("phases", "leaf"), [(["loading", "failed"], ServiceFailed), (["loading"] * 10_000, DeadlineExceeded)]
)
def test_waiting_for_a_service_ends(
    short_path: Path, kind: type[AnyClient], phases: list[str], leaf: type[Exception]
) -> None:
    async def test(client: AnyClient, _: LiveDoor, plane: Plane) -> None:
        await ask(client, "node.serve", "tiny")
        plane.phases = iter(phases)
        with pytest.raises(leaf, match="tiny"):
            await ask(client, "node.wait_ready", "tiny", timeout_s=0.2)

    with_node(short_path, kind, test)


@KINDS
def test_long_work_that_is_left_is_cancelled_in_the_node(short_path: Path, kind: type[AnyClient]) -> None:
    async def test(client: AnyClient, _: LiveDoor, plane: Plane) -> None:
        class Enough(Exception):
            pass

        def stop(_: control.Progress) -> None:
            raise Enough

        with pytest.raises(Enough):
            await ask(client, "node.pull", "/x", on_progress=stop)
        async with asyncio.timeout(30):
            await plane.cancelled.wait()

    with_node(short_path, kind, test)


@KINDS
def test_a_log_is_followed_and_left(short_path: Path, kind: type[AnyClient]) -> None:
    async def test(client: AnyClient, _: LiveDoor, plane: Plane) -> None:
        await ask(client, "node.serve", "tiny")
        if isinstance(client, Client):
            sync = client

            def first() -> str:
                with sync.node.logs("tiny", follow=True) as lines:
                    return next(lines)

            line = await asyncio.to_thread(first)
        else:
            async with client.node.logs("tiny", follow=True) as pieces:
                line = await anext(pieces)
        assert line == "follow=True tail=100"
        async with asyncio.timeout(30):
            await plane.cancelled.wait()

    with_node(short_path, kind, test)
