"""The engine of last resort without its library: worker, keeper and program are real, the language is not."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.contract.engines.fake_language import END
from tests.contract.engines.site import Guest, guest, question
from tests.contract.engines.test_engine_moods import gone, text_of
from tests.contract.runtime.harness import error_of
from tests.models import make_model
from thaloom.base.clock import SystemClock
from thaloom.base.errors import NotServable
from thaloom.base.ids import RequestId
from thaloom.kernel.models.store import ModelStore
from thaloom.work.runtime.engines import kinds
from thaloom.work.runtime.messages import AskEmbedding, Embedded, Ended, Piece
from thaloom.work.runtime.types import Done, EmbedRequest, Tool

FAKE = Path(__file__).with_name("fake_language.py")


def prepare(folder: Path, monkeypatch: pytest.MonkeyPatch, architecture: str = "GPT2LMHeadModel") -> None:
    """A model of that architecture in the store, and a program that reads it backwards."""
    model = make_model(folder / "model")
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"architectures": [architecture]}))
    ModelStore(folder, SystemClock()).import_path(model)

    def command(start: kinds.Start) -> list[str]:
        usual = kinds._transformers(start)
        return [sys.executable, str(FAKE), *usual[4:]]

    found = dataclasses.replace(kinds.TRANSFORMERS, command=command)
    monkeypatch.setattr(kinds, "find", lambda _: found)
    monkeypatch.setenv("PYTHONPATH", ":".join(sys.path))


def served(
    folder: Path, monkeypatch: pytest.MonkeyPatch, test: Callable[[Guest], Any], architecture: str = "GPT2LMHeadModel"
) -> None:
    prepare(folder, monkeypatch, architecture)

    async def run() -> None:
        async with guest(folder, engine="transformers", model="model", context_length=64) as site:
            if site.task.done():
                await site.task
            await test(site)
        await gone(str(FAKE))

    asyncio.run(run())


def done_of(replies: list[Any]) -> Done:
    assert isinstance(replies[-1], Ended), replies[-1]
    return replies[-1].done


def test_an_answer_with_its_account_and_why_it_is_degraded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(site: Guest) -> None:
        plain = await site.ask(question(messages=None, prompt="abc", max_tokens=10))
        done = done_of(plain)
        assert text_of(plain) == "cba"
        assert (done.reason, done.prompt_tokens, done.completion_tokens) == ("stop", 3, 4)
        reason = "served by transformers: no own model for architecture GPT2LMHeadModel"
        assert done.degraded is not None
        assert done.degraded.startswith(reason)
        stats = await site.status()
        assert stats.degraded is not None
        assert (stats.degraded.startswith(reason), stats.context_length) == (True, 64)

    served(tmp_path, monkeypatch, test)


def test_ends_of_every_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(site: Guest) -> None:
        async def ask(**changes: Any) -> tuple[str, str, Any, int]:
            replies = await site.ask(question(**({"messages": None, "prompt": "abcdef"} | changes)))
            done = done_of(replies)
            return text_of(replies), done.reason, done.stop, done.completion_tokens

        assert await ask() == ("fedcba", "stop", None, 7)
        assert await ask(max_tokens=2) == ("fe", "length", None, 2)
        assert await ask(stop=("dc",)) == ("fe", "stop", "dc", 4)
        assert await ask(stop=("dc",), include_stop=True) == ("fedc", "stop", "dc", 4)
        assert await ask(stop=("cX", "zz")) == ("fedcba", "stop", None, 7)  # held back, and told after all
        assert await ask(stop_tokens=(ord("d"),)) == ("fe", "stop", ord("d"), 3)
        assert (await ask(ignore_eos=True, max_tokens=9))[1:] == ("length", None, 9)
        assert (await ask(prompt="a", min_tokens=3, max_tokens=5))[3] >= 3
        assert (await ask(sampling_changes={"logit_bias": ((END, 99.0),)}))[3] == 1

    served(tmp_path, monkeypatch, test)


def test_a_chat_logprobs_and_an_embedding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(site: Guest) -> None:
        replies = await site.ask(question(logprobs=2))
        assert text_of(replies) == "ih"
        told = [row for reply in replies if isinstance(reply, Piece) for row in reply.delta.logprobs]
        assert [(row.chosen.token, row.chosen.text) for row in told] == [(ord("i"), "i"), (ord("h"), "h")]
        assert all(len(row.top) == 2 and row.top[0] == row.chosen for row in told)
        assert told[0].chosen.logprob == pytest.approx(-0.0311, abs=1e-3)
        asked = AskEmbedding(request=EmbedRequest(id=RequestId("e"), model="guest", text="abcd"))
        (reply,) = (one for one in await site.ask(asked) if isinstance(one, Embedded))
        assert (reply.embedding.values, reply.embedding.prompt_tokens) == ((4.0, 1.0), 4)

    served(tmp_path, monkeypatch, test)


def test_what_it_does_not_do_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(site: Guest) -> None:
        tool = Tool(name="t", description="", parameters={})
        assert error_of(await site.ask(question(tools=(tool,))))["param"] == "tools"
        long = error_of(await site.ask(question(messages=None, prompt="x" * 64)))
        assert (long["code"], long["details"]) == ("prompt_too_long", {"prompt_tokens": 64, "context_length": 64})
        assert error_of(await site.ask(question(messages=None, prompt="")))["param"] == "prompt"
        assert text_of(await site.ask(question(messages=None, prompt="on"))) == "no"  # and it goes on

    served(tmp_path, monkeypatch, test)


def test_an_own_architecture_is_said_to_be_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(site: Guest) -> None:
        assert "LlamaForCausalLM has an own model" in (done_of(await site.ask(question())).degraded or "")

    served(tmp_path, monkeypatch, test, "LlamaForCausalLM")


def test_what_does_not_continue_texts_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NotServable, match="BertModel"):
        served(tmp_path, monkeypatch, lambda _: None, "BertModel")
