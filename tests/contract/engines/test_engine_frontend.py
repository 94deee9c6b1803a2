"""The door's half over a foreign engine's worker: text through, and what needs tokens refused."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.contract.edge.live_door import FixedRoutes
from tests.contract.engines.site import guest, install, question
from thaloom.base.clock import SystemClock
from thaloom.base.errors import BadParameter, NotServable, WorkerLost
from thaloom.base.events import ignore
from thaloom.base.ids import RequestId, ServiceName
from thaloom.kernel.state.types import Alias, Route, Share
from thaloom.work.runtime.frontend.frontend import Frontend
from thaloom.work.runtime.types import Delta, Done, EmbedRequest, ScoreRequest, TokenizeRequest


def test_the_frontend_forwards_text_and_refuses_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch)

    async def run() -> None:
        async with guest(tmp_path) as site:
            route = Route(
                name=ServiceName("guest"), model="/some.gguf", phase="ready", sockets=(site.spec.socket,),
                context_length=512, created_at=0.0, engine="llama.cpp",
            )  # fmt: skip
            frontend = Frontend(FixedRoutes(route), SystemClock(), ignore)
            try:
                items = [item async for item in await frontend.start(question().request)]
                assert "".join(item.text for item in items if isinstance(item, Delta)) == "Hello"
                assert isinstance(items[-1], Done)
                with pytest.raises(BadParameter, match="min_tokens"):
                    await frontend.start(question(min_tokens=2).request)
                asked = EmbedRequest(id=RequestId("r"), model="guest", text="four", dimensions=1)
                embedding = await frontend.embed(asked)
                assert (embedding.values, embedding.prompt_tokens) == ((1.0,), 4)
                assert embedding.degraded
                assert embedding.degraded == (await site.status()).degraded
                with pytest.raises(NotServable, match=r"'guest' is served by engine 'llama.cpp'"):
                    await frontend.tokenize(TokenizeRequest(model="guest", prompt="a"))
                with pytest.raises(NotServable):
                    await frontend.detokenize("guest", (1,))
                with pytest.raises(NotServable):
                    await frontend.tokenizer_info("guest")
                with pytest.raises(NotServable):
                    await frontend.score(ScoreRequest(id=RequestId("r"), model="guest", query="q", documents=("d",)))
                (record,) = await frontend.worker_metrics()
                assert (record["up"], record["requests_total"], record["engine"]) == (True, 2, "llama.cpp")
            finally:
                frontend.close()

    asyncio.run(run())


def test_an_answer_cut_off_by_the_engine_ends_with_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch, mood="cut")

    async def run() -> None:
        async with guest(tmp_path) as site:
            route = Route(
                name=ServiceName("guest"), model="/some.gguf", phase="ready", sockets=(site.spec.socket,),
                context_length=512, created_at=0.0, engine="llama.cpp",
            )  # fmt: skip
            frontend = Frontend(FixedRoutes(route), SystemClock(), ignore)
            try:
                got = []
                with pytest.raises(WorkerLost):
                    async for item in await frontend.start(question().request):
                        got.append(item)
                assert [item.text for item in got if isinstance(item, Delta)] == ["Hel"]
            finally:
                frontend.close()

    asyncio.run(run())


def test_several_workers_share_a_guests_requests_and_a_lost_one_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, monkeypatch)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()

    async def run() -> None:
        async with guest(tmp_path / "a") as first, guest(tmp_path / "b") as second:
            route = Route(
                name=ServiceName("guest"), model="/some.gguf", phase="ready",
                sockets=(first.spec.socket, second.spec.socket), context_length=512, created_at=0.0,
                engine="llama.cpp",
            )  # fmt: skip
            alias = Alias(name=ServiceName("best"), shares=(Share(service=ServiceName("guest"), weight=1),))
            routes = FixedRoutes(route)
            routes.aliases = (alias,)
            frontend = Frontend(routes, SystemClock(), ignore)
            try:
                under_way = [
                    await frontend.start(question(model=name, messages=None, prompt=text).request)
                    for name, text in (("guest", "one"), ("best", "two"), ("guest", "three"), ("best", "four"))
                ]
                for answer in under_way:
                    assert "".join([item.text async for item in answer if isinstance(item, Delta)]) == "Hello"
                counts = [(await site.status()).requests_total for site in (first, second)]
                assert counts == [2, 2]
                first.service.stop(0.0)
                await first.task
                for _ in range(3):
                    items = [item async for item in await frontend.start(question().request)]
                    assert isinstance(items[-1], Done)
                assert (await second.status()).requests_total == 5
            finally:
                frontend.close()

    asyncio.run(run())


def test_an_answer_lost_before_its_first_word_is_given_by_another_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()

    async def run() -> None:
        install(tmp_path, monkeypatch, mood="die at a request")
        async with guest(tmp_path / "a") as first:
            install(tmp_path, monkeypatch)
            async with guest(tmp_path / "b") as second:
                route = Route(
                    name=ServiceName("guest"), model="/some.gguf", phase="ready",
                    sockets=(first.spec.socket, second.spec.socket), context_length=512, created_at=0.0,
                    engine="llama.cpp",
                )  # fmt: skip
                frontend = Frontend(FixedRoutes(route), SystemClock(), ignore)
                try:
                    for _ in range(2):
                        items = [item async for item in await frontend.start(question().request)]
                        assert "".join(item.text for item in items if isinstance(item, Delta)) == "Hello"
                    with pytest.raises(WorkerLost):
                        await first.task
                finally:
                    frontend.close()

    asyncio.run(run())
