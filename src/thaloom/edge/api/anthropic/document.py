"""The OpenAPI document's part on Anthropic's protocol."""

from __future__ import annotations

from typing import Any

from thaloom.edge.api.document.described import Protocol, event_of
from thaloom.edge.wire import anthropic as wire

_EVENTS = (
    wire.MessageStart, wire.Ping, wire.ContentBlockStart, wire.ContentBlockDelta, wire.ContentBlockStop,
    wire.MessageDelta, wire.MessageStop, wire.Error,
)  # fmt: skip


def describe(document: dict[str, Any]) -> None:
    part = Protocol(document, "Anthropic", "anthropic", wire.Error)
    part.add_messages([wire.MessagesRequest, wire.CountTokensRequest, wire.MessageAnswer, wire.TokensCount, *_EVENTS])
    events = event_of({"oneOf": [part.reference(event) for event in _EVENTS]})
    part.add(
        "/v1/messages",
        "post",
        "create_message",
        "The next message; with `stream`, its events. Unknown fields are ignored; these are refused unless they ask "
        f"for nothing: {', '.join(wire.UNSERVED)}, thread; and blocks of other types than {', '.join(wire.BLOCKS)}.",
        body=wire.MessagesRequest,
        answer=wire.MessageAnswer,
        stream=("text/event-stream", events),
    )
    part.add(
        "/v1/messages/count_tokens",
        "post",
        "count_message_tokens",
        "How many tokens the prompt of such a message has.",
        body=wire.CountTokensRequest,
        answer=wire.TokensCount,
    )
