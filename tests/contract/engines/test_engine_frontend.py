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
from thaloom.kernel.state.types import Route
from thaloom.work.runtime.frontend import Frontend
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
