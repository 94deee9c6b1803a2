"""What the door demands of an answer and what the worker lets a model say are the same thing: through a real tokenizer,
the worker's own masks, and back through the door's reading of tokens."""

from __future__ import annotations

import dataclasses
import json
import random
from typing import Any

import pytest
from tokenizers import AddedToken

from tests.unit.runtime_text.dialects_of_the_field import DIALECTS, NOW, numbered
from tests.unit.runtime_text.test_forcing import SWITCH
from tests.unit.runtime_text.tokenizers_of_the_field import byte_level, save
from thaloom.base.clock import ManualClock
from thaloom.base.events import Recorder
from thaloom.base.ids import RequestId
from thaloom.work.runtime.core.grammars import Grammars
from thaloom.work.runtime.dialects.thinking import KNOWN
from thaloom.work.runtime.frontend.asking import message_of
from thaloom.work.runtime.frontend.conversing import answer_text
from thaloom.work.runtime.frontend.prompting import Speech, read_speech
from thaloom.work.runtime.messages import Generate, Tokens
from thaloom.work.runtime.text.tokenizer import read_vocabulary
from thaloom.work.runtime.types import ChatMessage, Delta, GenerateRequest

MARKS = sorted({mark for name in DIALECTS.names() for mark in DIALECTS.create(name).marks if mark})
TEMPLATE = {"chat_template": "{% for m in messages %}{{ m.content }}{% endfor %}"}


@pytest.fixture(scope="module", params=[True, False], ids=["special", "plain"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Speech, Grammars]:
    """A model whose marks are special tokens, or added ones that are text."""
    tokenizer = byte_level()
    tokenizer.add_tokens([AddedToken(mark, special=request.param, normalized=False) for mark in (*MARKS, "[/THINK]")])
    folder = tmp_path_factory.mktemp("model")
    config = {"eos_token_id": tokenizer.token_to_id("<|im_end|>")}
    paths = save(folder, tokenizer, tokenizer_config=TEMPLATE, config=config)
    speech = read_speech(paths, model="m", clock=ManualClock(), emit=Recorder())
    size = speech.tokenizer.vocab_size
    data = (folder / "tokenizer.json").read_bytes()
    return speech, Grammars(lambda: read_vocabulary(data, size), size)


def follow(speech: Speech, grammars: Grammars, request: GenerateRequest, choose: random.Random) -> list[Delta]:
    """The answer of a model that picks any token it may."""
    prompt = speech.prompt_of(request)
    message: Generate = message_of(request, prompt, speech, 1 << 20)
    assert message.grammar is not None
    matcher = grammars.matcher(message.grammar)
    heard = answer_text(request, prompt, speech, new_id=numbered())
    deltas: list[Delta] = []
    for _ in range(2000):
        mask = matcher.allowed()
        token = choose.choice(
            [token for token in range(speech.tokenizer.vocab_size) if mask[token // 32] >> token % 32 & 1]
        )
        if token in message.stop_tokens:
            return [*deltas, heard.finish()]
        matcher.take(token)
        deltas.append(heard.feed(Tokens(tokens=[token], logprobs=None)))
        if matcher.complete or heard.stopped:
            return [*deltas, heard.finish()] if not heard.stopped else deltas
    raise AssertionError("the answer has no end")


def asked(**fields: Any) -> GenerateRequest:
    messages = (ChatMessage(role="user", content="hi"),)
    return GenerateRequest(
        id=RequestId("r"), model="m", messages=messages, tools=(SWITCH, NOW), parallel_tool_calls=False, **fields
    )


@pytest.mark.parametrize("name", DIALECTS.names())
def test_a_demanded_call_is_made_and_heard(model: tuple[Speech, Grammars], name: str) -> None:
    speech = dataclasses.replace(model[0], dialect=DIALECTS.create(name))
    choose = random.Random(name)
    for forced in (None, "switch", "now"):
        deltas = follow(speech, model[1], asked(tool_use="required", forced_tool=forced), choose)
        assert "".join(delta.text for delta in deltas) == ""
        pieces = [piece for delta in deltas for piece in delta.tool_calls]
        assert [piece.name for piece in pieces if piece.id] in ([["switch"], ["now"]] if forced is None else [[forced]])
        arguments = json.loads("".join(piece.arguments for piece in pieces))
        assert arguments == {} if pieces[0].name == "now" else isinstance(arguments["on"], bool)


@pytest.mark.parametrize("name", ["hermes", "mistral", "llama"])
def test_thoughts_come_first_where_the_prompt_began_them(model: tuple[Speech, Grammars], name: str) -> None:
    speech = dataclasses.replace(model[0], dialect=DIALECTS.create(name), thinking=KNOWN[1])
    request = dataclasses.replace(
        asked(tool_use="required"), messages=(ChatMessage(role="user", content="hi [THINK]"),), forced_tool="now"
    )
    close = speech.tokenizer.encode_rendered("[/THINK]")
    prompt = speech.prompt_of(request)
    message = message_of(request, prompt, speech, 1 << 20)
    assert message.grammar is not None
    matcher = model[1].matcher(message.grammar)
    heard = answer_text(request, prompt, speech, new_id=numbered())
    call = speech.tokenizer.encode_rendered(DIALECTS.create(name).write([("now", {})]))
    deltas = []
    for token in (*speech.tokenizer.encode_rendered("hm"), *close, *call):
        mask = matcher.allowed()
        assert mask[token // 32] >> token % 32 & 1
        matcher.take(token)
        deltas.append(heard.feed(Tokens(tokens=[token], logprobs=None)))
    assert "".join(delta.reasoning for delta in deltas) == "hm"
    assert [piece.name for delta in deltas for piece in delta.tool_calls if piece.id] == ["now"]
    assert heard.num_reasoning == len(speech.tokenizer.encode_rendered("hm")) + len(close)
