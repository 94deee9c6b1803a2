"""A model's calls of tools, as OpenAI's protocol writes them: whole, and piece by piece."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from thaloom.work.runtime.types import ToolCallPiece


def whole_calls(pieces: Sequence[ToolCallPiece]) -> list[dict[str, Any]]:
    """For `message.tool_calls`."""
    calls: dict[int, dict[str, Any]] = {}
    for piece in pieces:
        if piece.index not in calls:
            function = {"name": piece.name or "", "arguments": ""}
            calls[piece.index] = {"id": piece.id or "", "type": "function", "function": function}
        calls[piece.index]["function"]["arguments"] += piece.arguments
    return [calls[index] for index in sorted(calls)]


def call_deltas(pieces: Sequence[ToolCallPiece], *, as_functions: bool) -> Iterator[dict[str, Any]]:
    """One delta for each: a call's beginning, then its arguments; pieces of the same arguments are joined.

    `as_functions`: as the older `function_call`, which has room for the first call only.
    """
    index, arguments = -1, ""
    for piece in pieces:
        if piece.id is not None or piece.index != index:
            if arguments:
                yield _arguments(index, arguments, as_functions)
            index, arguments = piece.index, ""
        if as_functions and index > 0:
            continue
        if piece.id is not None:
            yield _beginning(piece, as_functions)
        arguments += piece.arguments
    if arguments:
        yield _arguments(index, arguments, as_functions)


def _beginning(piece: ToolCallPiece, as_functions: bool) -> dict[str, Any]:
    function = {"name": piece.name, "arguments": ""}
    if as_functions:
        return {"function_call": function}
    return {"tool_calls": [{"index": piece.index, "id": piece.id, "type": "function", "function": function}]}


def _arguments(index: int, arguments: str, as_functions: bool) -> dict[str, Any]:
    if as_functions:
        return {"function_call": {"arguments": arguments}}
    return {"tool_calls": [{"index": index, "function": {"arguments": arguments}}]}
