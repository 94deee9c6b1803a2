"""Tools, thoughts and echoes through the frontend, against a worker on a real unix socket."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.contract.edge.fake_worker import FakeWorker
from tests.contract.edge.test_frontend import ask, scene
from tests.unit.runtime_text.dialects_of_the_field import NOW, ONE, PARIS, TOOLS, TWO
from thaloom.base.errors import WorkerLost
from thaloom.base.ids import RequestId
from thaloom.work.runtime.frontend.frontend import Frontend
from thaloom.work.runtime.text.tokenizer import Tokenizer, read_text_files
from thaloom.work.runtime.types import ChatMessage, Delta, Done, GenerateRequest

USER = ChatMessage(role="user", content="hi")


def chat(**fields: Any) -> GenerateRequest:
    told: dict[str, Any] = {"max_tokens": 1000, "messages": (USER,)}
    return GenerateRequest(id=RequestId("r"), model="tiny", **told | fields)


async def items(frontend: Frontend, request: GenerateRequest) -> tuple[list[Delta], Done]:
    heard = [item async for item in await frontend.start(request)]
    assert isinstance(heard[-1], Done)
    return [item for item in heard if isinstance(item, Delta)], heard[-1]


def run_with(folder: Path, text: str, body: Any, **fields: Any) -> FakeWorker:
    """Play `text` to what `body(scene)` asks; the model's context is wide."""

    async def run() -> FakeWorker:
        worker = FakeWorker(**fields)
        async with scene(folder, worker) as here:
            here.reroute(context_length=4096)
            worker.tokens = Tokenizer(read_text_files(here.files)).encode_rendered(text)
            await body(here)
            await worker.until_idle()
        return worker

    return asyncio.run(run())


def test_calls_are_streamed_and_end_the_answer_as_such(tmp_path: Path) -> None:
    async def body(here: Any) -> None:
        deltas, done = await items(here.frontend, chat(tools=TOOLS))
        pieces = [piece for delta in deltas for piece in delta.tool_calls]
        assert [piece.name for piece in pieces if piece.id is not None] == ["get_weather", "now"]
        assert all(re.fullmatch(r"call_[A-Za-z0-9]{24}", piece.id) for piece in pieces if piece.id is not None)
        assert json.loads("".join(piece.arguments for piece in pieces if piece.index == 0)) == PARIS
        assert "".join(delta.text for delta in deltas) == "Let me see.\n"
        assert done.reason == "tool_calls"
        assert done.completion_tokens == sum(delta.num_tokens for delta in deltas)

    worker = run_with(tmp_path, f"Let me see.\n{TWO['hermes']}", body)
    assert worker.requests[0].grammar is not None  # one of the tools is strict
    assert worker.requests[0].grammar.kind == "lark"


def test_without_calls_an_answer_to_tools_just_stops(tmp_path: Path) -> None:
    async def body(here: Any) -> None:
        deltas, done = await items(here.frontend, chat(tools=(NOW,)))
        assert ("".join(delta.text for delta in deltas), done.reason) == ("No.", "stop")

    assert run_with(tmp_path, "No.", body).requests[0].grammar is None


def test_a_call_cut_off_by_the_length_is_no_end_by_calls(tmp_path: Path) -> None:
    async def body(here: Any) -> None:
        deltas, done = await items(here.frontend, chat(tools=TOOLS, max_tokens=70))
        assert "".join(delta.text for delta in deltas) == ""
        assert [piece.name for delta in deltas for piece in delta.tool_calls if piece.id] == ["get_weather"]
        assert done.reason == "length"

    run_with(tmp_path, ONE["hermes"], body)


def test_where_one_call_is_wanted_the_worker_is_let_go_behind_it(tmp_path: Path) -> None:
    async def body(here: Any) -> None:
        deltas, done = await items(here.frontend, chat(tools=TOOLS, parallel_tool_calls=False))
        assert [piece.name for delta in deltas for piece in delta.tool_calls if piece.id] == ["get_weather"]
        assert (done.reason, done.stop) == ("tool_calls", None)

    assert run_with(tmp_path, TWO["hermes"], body, endless=True).num_cancelled == 1


def test_a_demanded_call_reaches_the_worker_as_a_grammar(tmp_path: Path) -> None:
    async def body(here: Any) -> None:
        await items(here.frontend, chat(tools=TOOLS, tool_use="required", forced_tool="now"))
        await items(here.frontend, chat(tools=TOOLS, tool_use="none"))

    first, second = run_with(tmp_path, "x", body).requests
    assert first.grammar is not None
    assert (first.grammar.kind, first.grammar.param) == ("lark", "tools")
    assert second.grammar is None
    assert len(second.prompt) < len(first.prompt)


def test_what_ended_the_answer_is_told(tmp_path: Path) -> None:
    async def body(here: Any) -> None:
        assert (await items(here.frontend, chat(stop=("b",))))[1].stop == "b"
        shown, done = await items(here.frontend, chat(stop=("b",), include_stop=True))
        assert ("".join(delta.text for delta in shown), done.stop) == ("ab", "b")
        assert (await items(here.frontend, chat(stop_tokens=(7,))))[1].stop == 7
        assert (await items(here.frontend, chat(stop_tokens=(8,))))[1].stop is None

    run_with(tmp_path, "abc", body, stop_token=7)


@pytest.mark.parametrize("logprobs", [None, 0, 2])
def test_the_prompt_comes_first_where_it_is_wanted(tmp_path: Path, logprobs: int | None) -> None:
    async def body(here: Any) -> None:
        deltas, done = await items(here.frontend, ask(echo=True, logprobs=logprobs, max_tokens=2))
        assert "".join(delta.text for delta in deltas) == "Hiab"
        assert (deltas[0].num_tokens, done.completion_tokens) == (0, 2)
        told = [entry.chosen for delta in deltas for entry in delta.logprobs]
        assert [entry.text for entry in told] == ([] if logprobs is None else ["H", "i", "a", "b"])
        if told:
            assert (told[0].logprob, told[1].logprob is not None) == (None, True)

    run_with(tmp_path, "ab", body)


@pytest.mark.parametrize("logprobs", [None, 1])
def test_an_echo_of_nothing_but_the_prompt(tmp_path: Path, logprobs: int | None) -> None:
    async def body(here: Any) -> None:
        deltas, done = await items(here.frontend, ask(echo=True, logprobs=logprobs, max_tokens=0))
        assert ("".join(delta.text for delta in deltas), done.completion_tokens) == ("Hi", 0)
        assert len([entry for delta in deltas for entry in delta.logprobs]) == (0 if logprobs is None else 2)

    run_with(tmp_path, "ab", body)


def test_a_worker_lost_behind_the_echo_is_not_replaced_in_silence(tmp_path: Path) -> None:
    async def body(here: Any) -> None:
        stream = await here.frontend.start(ask(echo=True, logprobs=0))
        async with FakeWorker(tokens=[39]).listening(tmp_path / "new.sock"):
            assert isinstance(await anext(stream), Delta)
            here.reroute(sockets=(str(tmp_path / "new.sock"),))
            with pytest.raises(WorkerLost):
                await anext(stream)

    run_with(tmp_path, "ab", body, die_after=0)
