"""Errors in OpenAI's form."""

from __future__ import annotations

import json

import pytest

from thaloom.base.errors import ERRORS, BadParameter, PromptTooLong, QueueFull, ThaloomError
from thaloom.edge.api.errors import error_body, error_response, to_json


@pytest.mark.parametrize("leaf", ERRORS.values(), ids=ERRORS.keys())
def test_every_leaf_can_be_told_and_comes_back_the_same(leaf: type[ThaloomError]) -> None:
    response = error_response(leaf("what", param="p"), "/v1/models")
    body = json.loads(bytes(response.body))
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert response.status_code == leaf.http_status
    assert (body["error"]["type"] == "server_error") == (leaf.http_status >= 500)
    assert type(ThaloomError.from_dict(body["error"])) is leaf


def test_when_to_come_back_is_a_header_and_a_field() -> None:
    response = error_response(QueueFull("full", retry_after_s=0.3), "/v1/models")
    assert response.headers["retry-after"] == "1"
    assert json.loads(bytes(response.body))["error"]["retry_after_s"] == 0.3
    assert json.loads(bytes(response.body))["error"]["type"] == "rate_limit_error"


def test_facts_for_machines_come_along() -> None:
    assert error_body(PromptTooLong("x", context_length=8))["error"]["details"] == {"context_length": 8}
    assert "details" not in error_body(BadParameter("x"))["error"]


def test_what_is_not_text_is_replaced_and_not_a_crash() -> None:
    assert to_json({"a": "\ud800"}) == b'{"a":"?"}'
