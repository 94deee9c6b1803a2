"""Answers in OpenAI's form, where a client over a socket would not look."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from thaloom.base.ids import RequestId
from thaloom.edge.api.generation import Choice, cost_headers
from thaloom.edge.api.openai.answers import OpenAIForm
from thaloom.edge.api.openai.requests import chat, completion
from thaloom.edge.wire import openai as wire
from thaloom.work.runtime.types import Delta, Done, PositionLogprobs, TokenLogprob

DONE = Done(
    reason="stop", prompt_tokens=5, completion_tokens=2, cached_tokens=3, queue_s=0.1, prefill_s=0.2, decode_s=0.3
)


def chat_form(**changes: Any) -> OpenAIForm:
    body = {"model": "m", "messages": [{"role": "user", "content": "x"}]} | changes
    return OpenAIForm(chat(body, RequestId("chatcmpl-1")), created=1, fingerprint="fp_1")


def completion_form(**changes: Any) -> OpenAIForm:
    return OpenAIForm(
        completion({"model": "m", "prompt": "x"} | changes, RequestId("cmpl-1")), created=1, fingerprint="fp_1"
    )


def token(data: bytes, logprob: float = -1.0) -> TokenLogprob:
    return TokenLogprob(token=1, text=data.decode(errors="replace"), data=data, logprob=logprob)


def choice(*positions: PositionLogprobs, text: str = "Hi") -> Choice:
    made = Choice(index=0, done=DONE)
    made.add(Delta(text=text, num_tokens=1, logprobs=positions))
    return made


def usage(form: OpenAIForm) -> bytes:
    return form.closing([choice()]).removesuffix(b"data: [DONE]\n\n")


def event(chunk: bytes) -> Any:
    assert chunk.startswith(b"data: {")
    assert chunk.endswith(b"}\n\n")
    return json.loads(chunk[6:])


def test_whole_answers_are_what_the_document_promises() -> None:
    position = PositionLogprobs(chosen=token(b"Hi"), top=(token(b"Hi"), token(b"\xe4")))
    chats = json.loads(chat_form(logprobs=True, top_logprobs=2).whole([choice(position)]))
    completions = json.loads(completion_form(logprobs=2).whole([choice(position)]))
    assert wire.ChatCompletion.model_validate(chats).model_dump() == chats
    assert wire.Completion.model_validate(completions).model_dump() == completions


def test_chunks_are_what_the_document_promises() -> None:
    form = chat_form(stream=True)
    for chunk in (form.opening(), form.chunk(choice())):
        wire.ChatChunk.model_validate(event(chunk))
    assert "usage" not in event(form.opening())
    with_usage = chat_form(stream=True, stream_options={"include_usage": True})
    assert event(with_usage.opening())["usage"] is None
    assert event(usage(with_usage))["usage"]["total_tokens"] == 7


@pytest.mark.parametrize("form", [chat_form(n=2), completion_form(n=2)])
@pytest.mark.parametrize("text", ["Hi", '""', "\\ \n\u2028", "世界", "\ud800"])
def test_a_chunk_of_text_is_the_last_one_but_for_its_end(form: OpenAIForm, text: str) -> None:
    """It is not encoded as a whole."""
    whole = Choice(index=1, text=text, done=DONE)
    last = event(form.chunk(whole))
    last["choices"][0]["finish_reason"] = None
    whole.done = None
    assert event(form.chunk(whole)) == last


def test_the_last_chunk_without_text_has_an_empty_delta() -> None:
    assert event(chat_form(stream=True).chunk(Choice(index=0, done=DONE)))["choices"] == [
        {"index": 0, "delta": {}, "logprobs": None, "finish_reason": "stop"}
    ]


def test_impossible_tokens_are_very_unlikely_and_not_infinite() -> None:
    position = PositionLogprobs(chosen=token(b"a"), top=(token(b"b", -math.inf), token(b"c", math.nan)))
    (entry,) = json.loads(chat_form(logprobs=True, top_logprobs=2).whole([choice(position)]))["choices"][0]["logprobs"][
        "content"
    ]
    assert [top["logprob"] for top in entry["top_logprobs"]] == [-9999.0, -9999.0]


def test_half_a_character_is_spelled_in_bytes() -> None:
    position = PositionLogprobs(chosen=token(b"\xe4\xb8"), top=(token(b"\xe4\xb8"), token(b"\xe4\xbd")))
    told = json.loads(completion_form(logprobs=2).whole([choice(position, text="")]))["choices"][0]["logprobs"]
    assert told["tokens"] == ["bytes:\\xe4\\xb8"]
    assert set(told["top_logprobs"][0]) == {"bytes:\\xe4\\xb8", "bytes:\\xe4\\xbd"}


def test_offsets_count_whole_characters() -> None:
    parts = [token(b"a"), token(b"\xe4"), token(b"\xb8\x96"), token(b"b")]
    positions = [PositionLogprobs(chosen=part, top=()) for part in parts]
    form, grown = completion_form(logprobs=0), Choice(index=0)
    offsets = []
    for position in positions:
        grown.logprobs = [position]
        offsets += event(form.chunk(grown))["choices"][0]["logprobs"]["text_offset"]
    assert offsets == [0, 1, 1, 2]


def test_answers_say_what_they_cost_and_whether_they_were_degraded() -> None:
    headers = dict(cost_headers([DONE]))
    assert headers[b"server-timing"] == b"queue;dur=100.0, prefill;dur=200.0, decode;dur=300.0"
    assert headers[b"openai-processing-ms"] == b"600"
    assert b"x-thaloom-degraded" not in headers
    worse = Done(
        reason="stop", prompt_tokens=1, completion_tokens=1, cached_tokens=0, queue_s=0, prefill_s=0, decode_s=0,
        degraded="no compiler\r\nx: é",
    )  # fmt: skip
    assert dict(cost_headers([DONE, worse]))[b"x-thaloom-degraded"] == b"no compiler x: ?"
