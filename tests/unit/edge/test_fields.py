"""A body's fields: whole numbers however they are written, and complaints about the right place."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from thaloom.base.errors import BadParameter
from thaloom.edge.api.routes.fields import validate
from thaloom.edge.wire.openai_requests import ChatRequest, CompletionRequest

ASK: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "x"}]}


def test_a_whole_number_may_be_written_as_a_float() -> None:
    fields = validate(ChatRequest, ASK | {"max_tokens": 5.0, "top_k": -1.0, "temperature": 1, "seed": 1e3})
    assert (fields.max_tokens, fields.top_k, fields.temperature, fields.seed) == (5, -1, 1.0, 1000)
    assert validate(CompletionRequest, {"model": "m", "prompt": [[1.0, 2], [3]]}).prompt == [[1, 2], [3]]


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"max_tokens": 5.5}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"max_tokens": "5"}, "max_tokens"),
        ({"max_tokens": 1e300}, "max_tokens"),
        ({"max_tokens": 5.0, "stop": 5}, "stop"),
        ({"stream": 1.0}, "stream"),
    ],
)
def test_what_is_no_whole_number_is_none(changes: dict[str, Any], param: str) -> None:
    with pytest.raises(BadParameter) as caught:
        validate(ChatRequest, ASK | changes)
    assert caught.value.param == param


def test_other_fields_keep_what_they_were_sent() -> None:
    schema = {"type": "object", "const": 1.0}
    fields = validate(ChatRequest, ASK | {"json_schema": schema})
    assert isinstance((fields.json_schema or {})["const"], float)


@pytest.mark.parametrize(
    ("message", "complaint"),
    [
        ({"content": "x"}, r"messages\[0\]\.role: Field required"),
        ({"role": "robot"}, r"messages\[0\]\.role: Input should be 'system', 'developer', 'user'"),
        ({"role": None}, r"messages\[0\]\.role: Input should be"),
    ],
)
def test_a_kind_that_is_not_known_is_named_by_the_field_that_says_it(message: Any, complaint: str) -> None:
    with pytest.raises(BadParameter, match=complaint):
        validate(ChatRequest, {"model": "m", "messages": [message]})


def test_a_list_too_long_is_not_called_a_list_of_wrong_things() -> None:
    with pytest.raises(BadParameter, match=r"^prompt: List should have at most 128 items"):
        validate(CompletionRequest, {"model": "m", "prompt": ["x"] * 129})


@pytest.mark.parametrize("wrong", [{}, "", {"role": "user", "content": [{}] * 1000}])
def test_a_list_is_refused_at_its_first_wrong_item(wrong: object) -> None:
    """A million complaints about one body would hold up everybody, and take a gigabyte."""
    with pytest.raises(ValidationError) as refused:
        ChatRequest.model_validate({"model": "tiny", "messages": [{"role": "user", "content": "hi"}, *[wrong] * 1000]})
    assert refused.value.error_count() < 10
    with pytest.raises(BadParameter, match=r"^messages\[1\]"):
        validate(ChatRequest, {"model": "tiny", "messages": [{"role": "user", "content": "hi"}, *[wrong] * 1000]})
