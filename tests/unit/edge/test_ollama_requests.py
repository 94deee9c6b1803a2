"""From a body to what the runtime is asked: every wrong field is named, and nothing is silently left out."""

from __future__ import annotations

from typing import Any

import pytest

from thaloom.base.errors import BadParameter, ModelNotFound
from thaloom.base.ids import RequestId
from thaloom.edge.api.ollama.names import local_name, source_of, tagged
from thaloom.edge.api.ollama.requests import OllamaWanted, Presence, chat, generate, read
from thaloom.edge.wire import ollama as wire
from thaloom.work.runtime.types import GenerateRequest

CHAT: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}
PROMPT: dict[str, Any] = {"model": "tiny", "prompt": "hi"}


def ask_chat(**changes: Any) -> OllamaWanted:
    wanted = chat(CHAT | changes, RequestId("id"))
    assert isinstance(wanted, OllamaWanted)
    return wanted


def request(**changes: Any) -> GenerateRequest:
    (made,) = ask_chat(**changes).requests
    return made


def prompted(**changes: Any) -> GenerateRequest:
    wanted = generate(PROMPT | changes, RequestId("id"))
    assert isinstance(wanted, OllamaWanted)
    return wanted.requests[0]


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"model": None}, "model"),
        ({"model": ""}, "model"),
        ({"messages": "hi"}, "messages"),
        ({"messages": [{"content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": "x", "images": ["a"]}]}, "messages[0].images"),
        ({"messages": [{"role": "assistant", "tool_calls": [{"function": {}}]}]},
         "messages[0].tool_calls[0].function.name"),
        ({"stream": "yes"}, "stream"),
        ({"format": "xml"}, "format"),
        ({"format": 5}, "format"),
        ({"think": "hard"}, "think"),
        ({"keep_alive": "soon"}, "keep_alive"),
        ({"keep_alive": [5]}, "keep_alive"),
        ({"logprobs": 1}, "logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"options": []}, "options"),
        ({"options": {"temperature": -1}}, "options.temperature"),
        ({"options": {"temperature": "0.5"}}, "options.temperature"),
        ({"options": {"top_k": 1.5}}, "options.top_k"),
        ({"options": {"top_p": 2}}, "options.top_p"),
        ({"options": {"min_p": -1}}, "options.min_p"),
        ({"options": {"seed": "x"}}, "options.seed"),
        ({"options": {"num_predict": "all"}}, "options.num_predict"),
        ({"options": {"num_ctx": "big"}}, "options.num_ctx"),
        ({"options": {"stop": [5]}}, "options.stop[0]"),
        ({"options": {"stop": ["x"] * 65}}, "options.stop"),
        ({"options": {"repeat_penalty": 0}}, "options.repeat_penalty"),
        ({"options": {"repeat_penalty": 1.1, "repeat_last_n": 64}}, "options.repeat_last_n"),
        ({"options": {"presence_penalty": 3}}, "options.presence_penalty"),
        ({"options": {"mirostat": 2}}, "options.mirostat"),
        ({"options": {"tfs_z": 0.5}}, "options.tfs_z"),
        ({"options": {"typical_p": 0.5}}, "options.typical_p"),
        ({"options": {"penalize_newline": False}}, "options.penalize_newline"),
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        ({"tools": [{"type": "web", "function": {"name": "f"}}]}, "tools[0].type"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(changes: dict[str, Any], param: str) -> None:
    with pytest.raises(BadParameter) as caught:
        ask_chat(**changes)
    assert caught.value.param == param
    assert param.split(".")[-1].split("[")[0] in caught.value.message


@pytest.mark.parametrize("name", [*wire.UNSERVED, "system"])
def test_what_a_prompt_may_not_bring_is_named(name: str) -> None:
    wrong: Any = {"images": ["a"], "context": [1], "width": 5, "height": 5, "steps": 5}.get(name, "x")
    with pytest.raises(BadParameter) as caught:
        generate(PROMPT | {name: wrong, "raw": True}, RequestId("id"))
    assert caught.value.param == name


def test_what_asks_for_nothing_is_let_pass() -> None:
    nothing = {name: values[0] for name, values in wire.UNSERVED.items()}
    options = {name: values[0] for name, values in wire.UNSERVED_OPTIONS.items()}
    assert prompted(**nothing, system="") == prompted()
    engine = {"num_ctx": 2048, "num_gpu": 5, "num_batch": 7, "numa": True, "num_keep": 3, "something_new": 1}
    assert request(options=options | engine, keep_alive="-1", shift=True, truncate=True) == request()


def test_numbers_may_be_written_as_other_languages_do() -> None:
    assert request(options={"seed": 5.0, "top_k": 3.0, "num_predict": 4.0}).sampling_changes == {"seed": 5, "top_k": 3}


@pytest.mark.parametrize(
    ("options", "changes"),
    [
        ({"temperature": 0}, {"temperature": 0.0}),
        ({"top_p": 0, "top_k": 9}, {"top_k": 1}),
        ({"top_k": -1}, {"top_k": 0}),
        ({"seed": -1}, {}),
        ({"seed": 0}, {"seed": 0}),
        ({"repeat_penalty": 1.5}, {"repetition_penalty": 1.5}),
        ({"repeat_penalty": 1.5, "repeat_last_n": -1}, {"repetition_penalty": 1.5}),
        ({"repeat_penalty": 1.5, "repeat_last_n": 0}, {"repetition_penalty": 1.0}),
        ({"repeat_last_n": 64}, {}),
        ({"min_p": 0.1}, {"min_p": 0.1}),
    ],
)
def test_options_become_what_the_sampler_knows(options: dict[str, Any], changes: dict[str, Any]) -> None:
    assert request(options=options).sampling_changes == changes


def test_how_long_an_answer_may_be() -> None:
    assert [request(options={"num_predict": number}).max_tokens for number in (-2, -1, 0, 5)] == [None, None, None, 5]
    assert request().up_to_context


def test_likeliest_tokens_are_told_to_who_asks_for_any() -> None:
    assert [request(logprobs=given, top_logprobs=3).logprobs for given in (True, False, None)] == [3, None, None]


def test_stops_may_be_one_or_many() -> None:
    assert request(options={"stop": "END"}).stop == ("END",)
    assert request(options={"stop": ["a", "", "b"]}).stop == ("a", "b")


def test_it_streams_unless_told_not_to() -> None:
    assert ask_chat().stream
    assert ask_chat(stream=None).stream
    assert not ask_chat(stream=False).stream


def test_turns_keep_what_they_hold() -> None:
    call = {"function": {"name": "f", "arguments": {"a": 1}}}
    made = request(
        messages=[
            {"role": "USER", "content": "go"},
            {"role": "assistant", "thinking": "hm", "tool_calls": [call, call | {"id": "x"}]},
            {"role": "tool", "content": "r", "tool_name": "f", "tool_call_id": "x"},
        ]
    )
    user, assistant, tool = made.messages or ()
    assert (user.role, user.extra) == ("user", {})
    assert (assistant.content, assistant.extra["reasoning_content"]) == ("", "hm")
    assert [told["id"] for told in assistant.extra["tool_calls"]] == ["call_1_0", "x"]
    assert tool.extra == {"name": "f", "tool_call_id": "x"}


@pytest.mark.parametrize(
    ("keep_alive", "unload"),
    [(None, False), (0, True), (0.0, True), ("0", True), ("0s", True), ("-0", True), ("0h0m", True),
     (-1, False), ("5m", False), ("10", False), ("-1", False), (300, False), ("1.5h", False)],
)  # fmt: skip
def test_nothing_to_generate_is_about_the_models_presence(keep_alive: Any, unload: bool) -> None:
    for wanted in (
        chat({"model": "m", "messages": [], "keep_alive": keep_alive}, RequestId("id")),
        generate({"model": "m", "keep_alive": keep_alive}, RequestId("id")),
    ):
        assert isinstance(wanted, Presence)
        assert (wanted.model, wanted.unload) == ("m", unload)


@pytest.mark.parametrize(
    ("said", "seconds"),
    [(None, None), ("5m", 300), ("1h30m", 5400), ("1.5h", 5400), (".5s", 0.5), ("300", 300), (300, 300), (0.5, 0.5),
     (-1, -1), ("-1", -1), ("-1m", -60), ("+2s", 2), ("100ms", 0.1), ("0s", 0), ("-0", 0), (1e300, 1e10)],
)  # fmt: skip
def test_how_long_a_model_stays_is_said_in_durations_or_seconds(said: Any, seconds: float | None) -> None:
    wanted = chat({"model": "m", "messages": [{"role": "user", "content": "hi"}], "keep_alive": said}, RequestId("id"))
    assert wanted.keep_alive_s == (seconds if seconds is None else pytest.approx(seconds))


def test_a_name_may_be_said_the_old_way() -> None:
    assert read(wire.NamedRequest, {"name": "m"}).model == "m"
    assert read(wire.NamedRequest, {"model": "n", "name": "m"}).model == "n"
    with pytest.raises(BadParameter) as caught:
        read(wire.NamedRequest, {"name": 5})
    assert caught.value.param == "model"


@pytest.mark.parametrize(
    ("name", "local", "source"),
    [
        ("tiny", "tiny", "tiny"),
        ("tiny:latest", "tiny", "tiny"),
        ("Tiny:Q4_K", "tiny:Q4_K", "Tiny:Q4_K"),
        ("library/tiny", "tiny", "library/tiny"),
        ("org/Model-7B:latest", "model-7b", "org/Model-7B"),
        ("hub.example/org/Model", "model", "https://hub.example/org/Model"),
        ("hub.example:5000/org/model:latest", "model", "https://hub.example:5000/org/model"),
    ],
)
def test_names(name: str, local: str, source: str) -> None:
    assert (local_name(name), source_of(name)) == (local, source)


@pytest.mark.parametrize(
    "name",
    ["", "/", "/etc/passwd", "..", "../x", "a//b", "a/b/c/d", "a b", "a:", ":b", "a:b:c", "a\n", "https://a/b/c"],
)
def test_what_is_no_name(name: str) -> None:
    for refused in (local_name, source_of):
        with pytest.raises(BadParameter):
            refused(name)


def test_a_name_that_no_model_can_have_is_not_found() -> None:
    for name in ("x" * 64, "_hidden", "a..b", "x:" + "y" * 64):
        with pytest.raises(ModelNotFound):
            local_name(name)


def test_a_hubs_model_has_no_tag() -> None:
    with pytest.raises(BadParameter, match="no tags"):
        source_of("hub.example/org/model:Q4_K_M")


def test_lists_show_tags() -> None:
    assert (tagged("tiny"), tagged("tiny:v1")) == ("tiny:latest", "tiny:v1")
