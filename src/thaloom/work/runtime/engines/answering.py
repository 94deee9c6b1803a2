"""From an engine's chunks to pieces of an answer and exactly one end: pure. What is no answer raises WorkerLost."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from thaloom.base.errors import (
    BadParameter,
    NotServable,
    PromptTooLong,
    QueueFull,
    ServiceFailed,
    ServiceLoading,
    ThaloomError,
    WorkerLost,
)
from thaloom.work.runtime.types import Delta, FinishReason, PositionLogprobs, TokenLogprob, ToolCallPiece

NO_TOKEN = -1
"""In TokenLogprob.token where the engine names tokens by their text only."""
_REASONS: dict[str, FinishReason] = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
}
_TOO_LONG = re.compile(r"maximum context length|context (?:size|window|length)|exceed.{0,40}context", re.IGNORECASE)
_MOST_SHOWN = 500


@dataclass(slots=True)
class Told:
    """What the chunks said so far of the answer as a whole."""

    reason: FinishReason | None = None
    stop: str | int | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    num_pieces: int = 0


class Chunks:
    """One answer in the making: `take` its chunks in order."""

    def __init__(self) -> None:
        self.told = Told()
        self._calls: set[int] = set()

    def take(self, chunk: Any) -> Delta | None:
        """The piece in it, if any. Raises WorkerLost for what is no chunk, and the engine's error if it is one."""
        if not isinstance(chunk, dict):
            raise WorkerLost("the engine's chunk is no object")
        if chunk.get("error"):
            raise error_of(500, {}, chunk)
        try:
            self._usage(chunk)
            choices = chunk.get("choices") or []
            return self._choice(choices[0]) if choices else None
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise WorkerLost(f"the engine's chunk is not what the protocol says: {type(error).__name__}") from error

    def _usage(self, chunk: Mapping[str, Any]) -> None:
        usage = chunk.get("usage")
        if usage is None:
            return
        self.told.prompt_tokens = _count(usage["prompt_tokens"])
        self.told.completion_tokens = _count(usage.get("completion_tokens", 0))
        self.told.cached_tokens = _count((usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0)
        details = usage.get("completion_tokens_details") or {}
        self.told.reasoning_tokens = _count(details.get("reasoning_tokens") or 0)

    def _choice(self, choice: Mapping[str, Any]) -> Delta | None:
        delta = choice.get("delta") or {}
        text = _text(choice.get("text") if "text" in choice else delta.get("content"))
        reasoning = _text(delta.get("reasoning_content") or delta.get("reasoning"))
        calls = tuple(self._call(call) for call in delta.get("tool_calls") or ())
        logprobs = _logprobs(choice.get("logprobs"))
        if (reason := choice.get("finish_reason")) is not None:
            if reason not in _REASONS:
                raise WorkerLost(f"the engine ended the answer with {str(reason)[:80]!r}")
            self.told.reason = _REASONS[reason]
            if self._calls and self.told.reason == "stop":
                self.told.reason = "tool_calls"  # some say `stop` where a call was forced
            stopped = choice.get("stop_reason")
            self.told.stop = stopped if isinstance(stopped, str | int) else None
        if not (text or reasoning or calls or logprobs):
            return None
        num_tokens = len(logprobs) or 1
        self.told.num_pieces += num_tokens
        return Delta(text=text, num_tokens=num_tokens, logprobs=logprobs, reasoning=reasoning, tool_calls=calls)

    def _call(self, call: Mapping[str, Any]) -> ToolCallPiece:
        """The first piece of a call has its id and name, and no other, whatever the engine repeats."""
        index, function = _count(call.get("index", 0)), call.get("function") or {}
        arguments = _text(function.get("arguments"))
        if index in self._calls:
            return ToolCallPiece(index=index, arguments=arguments)
        self._calls.add(index)
        name = function["name"]
        if not isinstance(name, str):
            raise TypeError(name)
        identity = call.get("id")
        return ToolCallPiece(
            index=index,
            id=identity if isinstance(identity, str) and identity else f"call_{index}",
            name=name,
            arguments=arguments,
        )


def embedding_of(answer: Any) -> tuple[tuple[float, ...], int]:
    """Values, and tokens of the text. Raises WorkerLost for what is no answer."""
    try:
        values = answer["data"][0]["embedding"]
        if values and isinstance(values[0], list):
            values = values[-1]  # an engine that does not pool: the last token's state
        return tuple(map(float, values)), _count(answer["usage"]["prompt_tokens"])
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise WorkerLost("the engine's embedding is not what the protocol says") from error


def error_of(status: int, headers: Mapping[str, str], answer: Any) -> ThaloomError:
    """The engine's refusal as one of ours. `answer`: its body, decoded, or None."""
    error = answer.get("error", answer) if isinstance(answer, dict) else answer
    details = error if isinstance(error, dict) else {"message": error}
    message = str(details.get("message") or details.get("detail") or f"status {status}")[:_MOST_SHOWN]
    if status in (400, 413, 422):
        param = details.get("param")
        if details.get("type") == "exceed_context_size_error" or _TOO_LONG.search(message):
            lengths = {"prompt_tokens": details.get("n_prompt_tokens"), "context_length": details.get("n_ctx")}
            known = {name: value for name, value in lengths.items() if isinstance(value, int)}
            return PromptTooLong(f"the engine refused: {message}", param="prompt", **known)
        return BadParameter(f"the engine refused: {message}", param=param if isinstance(param, str) else None)
    if status in (404, 405, 501):
        return NotServable(f"the engine does not serve this ({status}): {message}")
    if status in (401, 403):
        return ServiceFailed(f"the engine does not let its worker in ({status}): {message}")
    if status == 429:
        return QueueFull(f"the engine has too much to do: {message}", retry_after_s=_retry_after(headers))
    if status == 503:
        return ServiceLoading(f"the engine is not ready: {message}", retry_after_s=_retry_after(headers))
    return WorkerLost(f"the engine failed ({status}): {message}", retry_after_s=1.0)


def _retry_after(headers: Mapping[str, str]) -> float:
    text = headers.get("retry-after", "")
    return float(text) if text.isascii() and text.isdigit() and len(text) < 6 else 1.0


def _count(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(value)
    return value


def _text(value: Any) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise TypeError(value)
    return value


def _logprobs(told: Any) -> tuple[PositionLogprobs, ...]:
    """Of a chat, of a completion, and of llama.cpp, which has the chat's form for both."""
    if not told:
        return ()
    if told.get("content") is not None:
        return tuple(
            PositionLogprobs(chosen=_logprob(one), top=tuple(map(_logprob, one.get("top_logprobs") or ())))
            for one in told["content"]
        )
    tops = told.get("top_logprobs") or [{}] * len(told.get("tokens") or ())
    return tuple(
        PositionLogprobs(
            chosen=_named(token, logprob), top=tuple(_named(name, value) for name, value in (top or {}).items())
        )
        for token, logprob, top in zip(told.get("tokens") or (), told["token_logprobs"], tops, strict=True)
    )


def _logprob(one: Mapping[str, Any]) -> TokenLogprob:
    text = _text(one["token"])
    data = bytes(one["bytes"]) if one.get("bytes") is not None else text.encode()
    token = one.get("id", NO_TOKEN)
    return TokenLogprob(
        token=token if isinstance(token, int) else NO_TOKEN, text=text, data=data, logprob=float(one["logprob"])
    )


def _named(text: str, logprob: Any) -> TokenLogprob:
    value = None if logprob is None else float(logprob)
    return TokenLogprob(token=NO_TOKEN, text=text, data=_text(text).encode(), logprob=value)
