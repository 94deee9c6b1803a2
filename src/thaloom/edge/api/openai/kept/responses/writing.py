"""A response as it grows: its items, and the event that tells of every change to them.

Every event has the next `sequence_number`; each item and each part is opened, grown and closed exactly once.
Source: OpenAI's API reference, streaming events of the Responses API.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import deepcopy
from typing import Any

from thaloom.base.errors import Refused, ThaloomError
from thaloom.edge.api.errors import to_json
from thaloom.edge.api.openai.kept.responses.items import Item, new_id
from thaloom.edge.api.openai.kept.responses.reading import ResponseWanted, param_of
from thaloom.edge.api.openai.logprobs import of_position
from thaloom.edge.api.routes.generation import Choice
from thaloom.edge.wire.responses import ResponsesRequest
from thaloom.work.runtime.types import Done, PositionLogprobs, ToolCallPiece

Event = dict[str, Any]
SERVED_TIER = "default"


class ResponseForm:
    """generation.Form for one response; `body` is the response as it is now."""

    def __init__(self, wanted: ResponseWanted, *, now: Callable[[], float]) -> None:
        self._with_logprobs = wanted.requests[0].logprobs is not None
        self._now = now
        self._num_events = 0
        self._grown: _Item | None = None
        self._num_positions = 0
        self.body = _head(wanted, int(now()))

    @property
    def is_over(self) -> bool:
        return bool(self.body["status"] != "in_progress")

    def whole(self, choices: Sequence[Choice]) -> bytes:
        (choice,) = choices
        for _ in self._grow(choice):
            pass
        return to_json(self.body)

    def opening(self) -> bytes:
        return self._written(
            [{"type": kind, "response": self.body} for kind in ("response.created", "response.in_progress")]
        )

    def chunk(self, choice: Choice) -> bytes:
        return self._written(self.news(choice))

    def closing(self, choices: Sequence[Choice]) -> bytes:  # noqa: ARG002 - it stands in `body` already
        return self._written([last_event(self.body)])

    def error_event(self, error: ThaloomError) -> bytes:
        return self._written(self.failure(error))

    # -- as events, for who keeps and numbers them himself

    def news(self, choice: Choice) -> list[Event]:
        """Of what has come for it since the last time."""
        return list(self._grow(choice))

    def failure(self, error: ThaloomError) -> list[Event]:
        events = [] if self._grown is None else list(self._close(self._grown, "incomplete"))
        self.fail(error)
        return [*events, last_event(self.body)]

    def take_up(self, events: Iterable[Event]) -> None:
        """Grow to where it was when these were its last events."""
        for event in events:
            if event["type"] == "response.output_item.added":
                self._open(deepcopy(event["item"]))
            elif event["type"] == "response.content_part.added":
                self.body["output"][-1]["content"].append(deepcopy(event["part"]))
            elif event["type"].endswith(".delta"):
                assert self._grown is not None, "what grows is open"
                for _ in self._grown.grow(event["delta"], event.get("logprobs", [])):
                    pass
            elif event["type"] == "response.output_item.done":
                self.body["output"][-1] = event["item"]
                self._grown = None

    def fail(self, error: ThaloomError) -> None:
        """`type` has our code. Source: the reference's codes of a response's error: what is at fault is the request
        itself, or how much is asked at once, or we are."""
        code = "invalid_prompt" if isinstance(error, Refused) else "server_error"
        if error.http_status == 429:
            code = "rate_limit_exceeded"
        self.body |= {
            "status": "failed",
            "error": {"code": code, "message": error.message, "type": error.code, "param": param_of(error)},
        }

    # -- growing

    def _grow(self, choice: Choice) -> Iterator[Event]:
        """What has come, in the order a model says it: thought, said, called."""
        positions = choice.logprobs if self._with_logprobs else []
        self._num_positions += len(positions)
        if choice.reasoning:
            yield from self._continue("reasoning", choice.reasoning, [])
        if choice.text:
            yield from self._continue("message", choice.text, _of_text(positions, choice, self._num_positions))
        for piece in choice.tool_calls:
            yield from self._call(piece)
        if choice.done is not None:
            yield from self._end(choice.done)

    def _continue(self, kind: str, delta: str, positions: Sequence[PositionLogprobs]) -> Iterator[Event]:
        item = self._grown
        if item is None or item.kind != kind:
            yield from self._close(item, "completed")
            item = self._open(_message() if kind == "message" else _reasoning())
            yield from item.opened()
        yield from item.grow(delta, [of_position(position) for position in positions])

    def _call(self, piece: ToolCallPiece) -> Iterator[Event]:
        item = self._grown
        if piece.name is not None:
            yield from self._close(item, "completed")
            item = self._open(_function_call(piece.id or new_id("call"), piece.name))
            yield from item.opened()
        assert item is not None, "the first piece of a call has its name"
        if piece.arguments:
            yield from item.grow(piece.arguments, [])

    def _open(self, item: Item) -> _Item:
        self.body["output"].append(item)
        self._grown = _Item(item, len(self.body["output"]) - 1, with_logprobs=self._with_logprobs)
        return self._grown

    def _close(self, item: _Item | None, status: str) -> Iterator[Event]:
        if item is not None:
            self._grown = None
            yield from item.close(status)

    def _end(self, done: Done) -> Iterator[Event]:
        whole = done.reason != "length"
        kinds = {item["type"] for item in self.body["output"]}
        if (self._grown is None and not kinds) or (whole and kinds == {"reasoning"}):  # an answer of no words is one
            yield from self._close(self._grown, "completed")
            yield from self._open(_message()).opened()
        yield from self._close(self._grown, "completed" if whole else "incomplete")
        self.body |= {
            "status": "completed" if whole else "incomplete",
            "completed_at": int(self._now()) if whole else None,
            "incomplete_details": None if whole else {"reason": "max_output_tokens"},
            "usage": usage(done),
        }

    def _written(self, events: Sequence[Event] | Iterator[Event]) -> bytes:
        lines = []
        for event in events:
            lines.append(as_lines(event, self._num_events))
            self._num_events += 1
        return b"".join(lines)


def as_lines(event: Event, number: int) -> bytes:
    """As it travels."""
    kind: str = event["type"]
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), to_json({"type": kind, "sequence_number": number} | event))


def first_events(body: dict[str, Any]) -> list[Event]:
    """Of a response that waits for its turn."""
    return [{"type": kind, "response": body} for kind in ("response.created", "response.queued")]


def last_event(body: dict[str, Any]) -> Event:
    """Of a response that is over. The protocol has no event of its own for one that was cancelled: it is one that
    did not become whole, and says why by its status."""
    status = body["status"]
    kind = f"response.{status if status in ('completed', 'failed') else 'incomplete'}"
    return {"type": kind, "response": body}


class _Item:
    """The item that grows now, and its one part if its kind has any."""

    def __init__(self, item: Item, index: int, *, with_logprobs: bool) -> None:
        self.kind: str = item["type"]
        self._item = item
        self._where = {"item_id": item["id"], "output_index": index}
        self._with_logprobs = with_logprobs
        self._told: Item = {**item, "content": []} if "content" in item else dict(item)

    def opened(self) -> Iterator[Event]:
        index = self._where["output_index"]
        yield {"type": "response.output_item.added", "output_index": index, "item": self._told}
        if self.kind != "function_call":
            self._item["content"].append(self._new_part())
            part = self._new_part()  # not the one that grows: this event may be written later
            yield {"type": "response.content_part.added", **self._where, "content_index": 0, "part": part}

    def grow(self, delta: str, logprobs: list[dict[str, Any]]) -> Iterator[Event]:
        if self.kind == "function_call":
            self._item["arguments"] += delta
            yield {"type": "response.function_call_arguments.delta", **self._where, "delta": delta}
            return
        part = self._item["content"][0]
        part["text"] += delta
        event = {**self._where, "content_index": 0, "delta": delta}
        if self.kind == "reasoning":
            yield {"type": "response.reasoning_text.delta", **event}
            return
        if self._with_logprobs:
            part["logprobs"] += logprobs
        yield {"type": "response.output_text.delta", **event, "logprobs": logprobs}

    def close(self, status: str) -> Iterator[Event]:
        self._item["status"] = status
        if self.kind == "function_call":
            named = {"name": self._item["name"], "arguments": self._item["arguments"]}
            yield {"type": "response.function_call_arguments.done", **self._where, **named}
        else:
            part = self._item["content"][0]
            event = {**self._where, "content_index": 0, "text": part["text"]}
            if self.kind == "reasoning":
                yield {"type": "response.reasoning_text.done", **event}
            else:
                yield {"type": "response.output_text.done", **event, "logprobs": part.get("logprobs", [])}
            yield {"type": "response.content_part.done", **self._where, "content_index": 0, "part": part}
        index = self._where["output_index"]
        yield {"type": "response.output_item.done", "output_index": index, "item": self._item}

    def _new_part(self) -> dict[str, Any]:
        if self.kind == "reasoning":
            return {"type": "reasoning_text", "text": ""}
        return {"type": "output_text", "text": "", "annotations": []} | (
            {"logprobs": []} if self._with_logprobs else {}
        )


def usage(done: Done) -> dict[str, Any]:
    return {
        "input_tokens": done.prompt_tokens,
        "input_tokens_details": {
            "cached_tokens": done.cached_tokens,
            "cache_write_tokens": done.prompt_tokens - done.cached_tokens,
        },
        "output_tokens": done.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": done.reasoning_tokens},
        "total_tokens": done.prompt_tokens + done.completion_tokens,
    }


def _head(wanted: ResponseWanted, created: int) -> dict[str, Any]:
    """The response before its first word, with everything that was asked."""
    asked: ResponsesRequest = wanted.asked
    choice: Any = asked.tool_choice or "auto"
    text = asked.text.model_dump(by_alias=True, exclude_none=True) if asked.text is not None else {}
    return {
        "id": wanted.id,
        "object": "response",
        "created_at": created,
        "completed_at": None,
        "status": "in_progress",
        "background": bool(asked.background),
        "error": None,
        "incomplete_details": None,
        "instructions": asked.instructions,
        "max_output_tokens": asked.max_output_tokens,
        "max_tool_calls": asked.max_tool_calls,
        "model": asked.model,
        "output": [],
        "parallel_tool_calls": asked.parallel_tool_calls is not False,
        "previous_response_id": asked.previous_response_id,
        "prompt_cache_key": asked.prompt_cache_key,
        "prompt_cache_retention": asked.prompt_cache_retention,
        "reasoning": {"effort": asked.reasoning.effort if asked.reasoning else None, "summary": None},
        "safety_identifier": asked.safety_identifier,
        "service_tier": SERVED_TIER,
        "store": wanted.store,
        "temperature": asked.temperature,
        "text": {"format": {"type": "text"}, "verbosity": "medium"} | text,
        "tool_choice": choice if isinstance(choice, str) else choice.model_dump(),
        "tools": [
            {
                "type": "function",
                "name": tool.name,
                "description": tool.description,
                "parameters": tool.parameters,
                "strict": bool(tool.strict),
            }
            for tool in asked.tools or ()
        ],
        "top_logprobs": asked.top_logprobs or 0,
        "top_p": asked.top_p,
        "truncation": "disabled",
        "usage": None,
        "user": asked.user,
        "metadata": asked.metadata or {},
    }


def _message() -> Item:
    return {"id": new_id("msg"), "type": "message", "role": "assistant", "status": "in_progress", "content": []}


def _reasoning() -> Item:
    return {"id": new_id("rs"), "type": "reasoning", "status": "in_progress", "summary": [], "content": []}


def _function_call(call_id: str, name: str) -> Item:
    return {
        "id": new_id("fc"),
        "type": "function_call",
        "status": "in_progress",
        "call_id": call_id,
        "name": name,
        "arguments": "",
    }


def _of_text(positions: Sequence[PositionLogprobs], choice: Choice, num_so_far: int) -> Sequence[PositionLogprobs]:
    """Those of the tokens that were said, not thought: thought is what comes first, and counted at the end."""
    if choice.done is None or not choice.done.reasoning_tokens:
        return positions
    thought_in_here = choice.done.reasoning_tokens - (num_so_far - len(positions))
    return positions[max(0, thought_in_here) :]
