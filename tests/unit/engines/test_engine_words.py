"""From our words to an engine's and back: pure."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from tests.gguf_files import encode_gguf
from thaloom.base.errors import BadParameter, DriverUnavailable, Forbidden, MalformedFile, WorkerLost
from thaloom.base.ids import RequestId
from thaloom.work.runtime.engines import kinds
from thaloom.work.runtime.engines.answering import NO_TOKEN, Chunks, embedding_of
from thaloom.work.runtime.engines.asking import embedding_question, question
from thaloom.work.runtime.engines.events import MAX_EVENT_BYTES, EventStream
from thaloom.work.runtime.engines.kinds import LLAMA_SERVER, OPENAI, VLLM, Kind, Start
from thaloom.work.runtime.engines.models import foreign_model
from thaloom.work.runtime.engines.places import place_of
from thaloom.work.runtime.types import (
    ChatMessage,
    Constraint,
    Delta,
    EmbedRequest,
    GenerateRequest,
    Sampling,
    Templating,
    Tool,
)

ASK = GenerateRequest(id=RequestId("r"), model="m", messages=(ChatMessage(role="user", content="hi"),))


def body_of(kind: Kind, **changes: Any) -> dict[str, Any]:
    return question(dataclasses.replace(ASK, **changes), kind, "m")[1]


def test_only_what_the_caller_says_is_said() -> None:
    assert body_of(OPENAI) == {
        "model": "m",
        "stream": True,
        "stream_options": {"include_usage": True},
        "messages": [{"role": "user", "content": "hi"}],
    }


def test_whole_sampling_goes_to_an_engine_that_has_it_all() -> None:
    sampling = Sampling(top_k=0, min_p=0.1, seed=2**64 - 1, repetition_penalty=1.1, logit_bias=((5, -1.0),))
    body = body_of(VLLM, sampling=sampling, sampling_changes={"temperature": 0.0})
    assert body["temperature"] == 0.0
    assert (body["top_k"], body["min_p"], body["repetition_penalty"]) == (-1, 0.1, 1.1)
    assert body["seed"] == 2**63 - 1
    assert body["logit_bias"] == {"5": -1.0}
    assert body_of(LLAMA_SERVER, sampling=sampling)["repeat_penalty"] == 1.1
    assert body_of(LLAMA_SERVER, sampling_changes={"seed": 2**40 + 1})["seed"] < 2**32 - 1


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"sampling_changes": {"top_k": 5}}, "top_k"),
        ({"sampling_changes": {"min_p": 0.5}}, "min_p"),
        ({"sampling_changes": {"repetition_penalty": 1.5}}, "repetition_penalty"),
        ({"ignore_eos": True}, "ignore_eos"),
        ({"cache_salt": "mine"}, "cache_salt"),
        ({"show_special_tokens": True}, "skip_special_tokens"),
        ({"templating": Templating(variables={"a": 1})}, "chat_template_kwargs"),
        ({"templating": Templating(add_generation_prompt=False)}, "add_generation_prompt"),
        ({"templating": Templating(continue_final_message=True)}, "continue_final_message"),
        ({"constraint": Constraint(kind="lark", text="x", param="grammar")}, "grammar"),
        ({"messages": None, "prompt_tokens": (1,), "echo": True}, "echo"),
        ({"messages": None, "prompt": "a", "echo": True, "logprobs": 1}, "echo"),
        ({"messages": None, "prompt": "a", "max_tokens": 0}, "max_tokens"),
    ],
)
def test_what_a_plain_server_lacks_is_refused_by_name(change: dict[str, Any], param: str) -> None:
    with pytest.raises(BadParameter) as refused:
        body_of(OPENAI, **change)
    assert refused.value.param == param


def test_neutral_values_are_not_refused() -> None:
    body = body_of(OPENAI, sampling=Sampling())
    assert "top_k" not in body
    assert "repetition_penalty" not in body


def test_tools_and_turns_with_calls() -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": {"a": 1}}}
    turns = (ChatMessage(role="assistant", content="", extra={"tool_calls": [call]}),)
    body = body_of(
        OPENAI, messages=turns, tools=(Tool(name="f", description="d", strict=True),), tool_use="required",
        forced_tool="f", parallel_tool_calls=False,
    )  # fmt: skip
    assert body["messages"][0]["tool_calls"][0]["function"]["arguments"] == '{"a": 1}'
    assert call["function"]["arguments"] == {"a": 1}, "the request itself is not changed"
    assert body["tools"][0]["function"] == {
        "name": "f",
        "description": "d",
        "parameters": {"type": "object"},
        "strict": True,
    }
    assert body["tool_choice"] == {"type": "function", "function": {"name": "f"}}
    assert body["parallel_tool_calls"] is False


def test_constraints_in_each_engines_words() -> None:
    schema = Constraint(kind="json_schema", text='{"type": "integer"}')
    assert body_of(VLLM, constraint=schema)["response_format"]["json_schema"]["schema"] == {"type": "integer"}
    choice = Constraint(kind="choice", text=json.dumps(['a"b', "c\n"]))
    assert body_of(LLAMA_SERVER, constraint=choice)["grammar"] == 'root ::= "a\\U00000022b" | "c\\U0000000A"'
    assert body_of(VLLM, constraint=choice)["structured_outputs"] == {"choice": ['a"b', "c\n"]}


def test_a_pooling_is_refused() -> None:
    asked = EmbedRequest(id=RequestId("r"), model="m", tokens=(1, 2))
    assert embedding_question(asked, "m")["input"] == [1, 2]
    with pytest.raises(BadParameter):
        embedding_question(dataclasses.replace(asked, pooling="mean"), "m")


def test_a_chunk_becomes_a_piece() -> None:
    chunks = Chunks()
    assert chunks.take({"choices": [{"delta": {"role": "assistant"}}]}) is None
    assert chunks.take({"choices": [{"delta": {"reasoning_content": "hm"}}]}) == Delta(
        text="", num_tokens=1, reasoning="hm"
    )
    old = {"tokens": ["a"], "token_logprobs": [-1.0], "top_logprobs": [{"a": -1.0, "b": -2.0}]}
    delta = chunks.take({"choices": [{"text": "a", "logprobs": old, "finish_reason": "length"}]})
    assert delta is not None
    assert [(one.text, one.logprob) for one in delta.logprobs[0].top] == [("a", -1.0), ("b", -2.0)]
    assert delta.logprobs[0].chosen.token == NO_TOKEN
    assert chunks.told.reason == "length"
    assert chunks.take({"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}}) is None
    assert (chunks.told.prompt_tokens, chunks.told.completion_tokens) == (3, 2)


def test_a_call_is_named_once_and_gets_an_id_if_it_has_none() -> None:
    chunks = Chunks()
    whole = {"index": 1, "function": {"name": "f", "arguments": "{"}}
    first = chunks.take({"choices": [{"delta": {"tool_calls": [whole]}}]})
    again = chunks.take({"choices": [{"delta": {"tool_calls": [whole]}}]})
    assert first is not None
    assert again is not None
    assert (first.tool_calls[0].id, first.tool_calls[0].name) == ("call_1", "f")
    assert (again.tool_calls[0].id, again.tool_calls[0].name) == (None, None)


@pytest.mark.parametrize(
    "chunk",
    [
        None, [], {"choices": [5]}, {"choices": {"a": 1}}, {"usage": {"prompt_tokens": -1}}, {"usage": 5},
        {"choices": [{"delta": {"tool_calls": [{"index": 0}]}}]},
        {"choices": [{"delta": {"tool_calls": [{"index": "x", "function": {"name": "f"}}]}}]},
        {"choices": [{"text": "a", "logprobs": {"tokens": ["a"], "token_logprobs": []}}]},
    ],
)  # fmt: skip
def test_what_is_no_chunk_is_told_as_such(chunk: Any) -> None:
    with pytest.raises(WorkerLost):
        Chunks().take(chunk)


@pytest.mark.parametrize("answer", [None, {}, {"data": []}, {"data": [{"embedding": ["x"]}], "usage": {}}])
def test_what_is_no_embedding_is_told_as_such(answer: Any) -> None:
    with pytest.raises(WorkerLost):
        embedding_of(answer)


def test_events_may_be_cut_anywhere() -> None:
    stream = b': hello\r\ndata: {"a":\r\ndata: 1}\r\n\r\nevent: x\ndata:b\n\n\n'
    for step in (1, 2, 3, 100):
        events = EventStream()
        got = [event for at in range(0, len(stream), step) for event in events.feed(stream[at : at + step])]
        assert got == [b'{"a":\n1}', b"b"]


def test_an_event_without_end_is_cut_off() -> None:
    events = EventStream()
    with pytest.raises(WorkerLost):
        for _ in range(MAX_EVENT_BYTES // 65536 + 1):
            events.feed(b"x" * 65536)


@pytest.mark.parametrize(
    "url", [None, "127.0.0.1:80", "ftp://127.0.0.1", "http://127.0.0.1:99999", "http://a b/", "http://u:p@127.0.0.1",
            "http://127.0.0.1/v1?x=1", "http://[::1", "http://127.0.0.1/\r\nX: y"],
)  # fmt: skip
def test_what_is_no_url_is_refused(url: str | None) -> None:
    with pytest.raises(BadParameter):
        place_of(url, ())


def test_only_loopback_or_what_is_allowed_with_tls() -> None:
    place = place_of("http://[::1]:8000/api/", ())
    assert (place.host, place.port, place.prefix) == ("::1", 8000, "/api")
    assert place_of("http://localhost", ()).prefix == "/v1"
    for url, hosts in (
        ("http://10.0.0.1/v1", ()),
        ("https://a.example", ("b.example",)),
        ("http://a.example", ("a.example",)),
    ):
        with pytest.raises(Forbidden):
            place_of(url, hosts)
    assert place_of("https://a.example", ("a.example",)).port == 443
    assert "secret" not in repr(place_of("http://127.0.0.1", (), "secret"))


def test_commands_load_no_code_and_no_pickles() -> None:
    start = Start(model="/m", name="n", host="127.0.0.1", port=5, num_threads=2, context_length=64, max_sequences=3)
    assert VLLM.command is not None
    assert LLAMA_SERVER.command is not None
    command = VLLM.command(start)
    assert command[command.index("--load-format") + 1] == "safetensors"
    assert "--trust-remote-code" not in command
    command = LLAMA_SERVER.command(start)
    assert command[command.index("--ctx-size") + 1] == "192", "one context for each slot"
    assert kinds.environment(VLLM, {"A": "b"}, "k")["VLLM_API_KEY"] == "k"


def test_an_engine_is_looked_for_on_the_path() -> None:
    assert kinds.find("llama.cpp", lambda name: "/x" if name == "llama-server" else None) is LLAMA_SERVER
    with pytest.raises(DriverUnavailable, match="vllm"):
        kinds.find("vllm", lambda name: None)


def test_what_a_gguf_tells_of_its_size(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    metadata = {
        "general.architecture": "llama", "llama.context_length": 128, "llama.block_count": 2,
        "llama.embedding_length": 64, "llama.attention.head_count": 4, "llama.attention.head_count_kv": 2,
    }  # fmt: skip
    path.write_bytes(encode_gguf(metadata, {}))
    model = foreign_model("llama.cpp", str(path))
    assert (model.weight_bytes, model.context_length) == (path.stat().st_size, 128)
    assert model.kv_bytes(model.context(None), 3) == 2 * 2 * 2 * 2 * 16 * 128 * 3
    with pytest.raises(BadParameter, match="129"):
        model.context(129)
    path.write_bytes(b"GGUFxx")
    with pytest.raises(MalformedFile):
        foreign_model("llama.cpp", str(path))
    for wrong in ("m.gguf", str(tmp_path), str(tmp_path / "none.gguf")):
        with pytest.raises(BadParameter):
            foreign_model("llama.cpp", wrong)
