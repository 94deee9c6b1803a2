"""The document tells of keys, limits and costs wherever they are."""

from __future__ import annotations

from thaloom.door import openapi_document

DOCUMENT = openapi_document()


def test_keys_are_told_of_where_they_are_asked_for_and_optional() -> None:
    schemes = DOCUMENT["components"]["securitySchemes"]
    assert {(one["type"], one.get("name", one.get("scheme"))) for one in schemes.values()} == {
        ("http", "bearer"),
        ("apiKey", "x-api-key"),
        ("apiKey", "api-key"),
    }
    chat = DOCUMENT["paths"]["/v1/chat/completions"]["post"]
    assert chat["security"][0] == {}, "a node without keys asks for none"
    assert {name for one in chat["security"] for name in one} == set(schemes)
    assert "security" not in DOCUMENT["paths"]["/healthz"]["get"]


def test_headers_of_limits_and_costs_are_told_of() -> None:
    chat = DOCUMENT["paths"]["/v1/chat/completions"]["post"]["responses"]["200"]["headers"]
    assert {"x-request-id", "server-timing", "x-thaloom-degraded", "x-ratelimit-remaining-tokens"} <= set(chat)
    models = DOCUMENT["paths"]["/v1/models"]["get"]["responses"]["200"]["headers"]
    assert "x-ratelimit-limit-requests" in models
    assert "server-timing" not in models
    assert set(DOCUMENT["paths"]["/healthz"]["get"]["responses"]["200"]["headers"]) == {"x-request-id"}


def test_how_to_ask_for_the_cost_of_a_stream_is_told_once_where_there_are_streams() -> None:
    for path, operations in DOCUMENT["paths"].items():
        for operation in (one for method, one in operations.items() if method != "parameters"):
            asked = [one for one in operation.get("parameters", []) if one["name"] == "x-thaloom-cost"]
            streams = any("text/event-stream" in one.get("content", {}) for one in operation["responses"].values())
            assert len(asked) == streams, path
