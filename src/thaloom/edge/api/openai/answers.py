"""Answers in OpenAI's form: whole objects, and the chunks of a stream with all that stays the same written once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from thaloom.base.errors import ThaloomError
from thaloom.edge.api.errors import error_body, to_json
from thaloom.edge.api.generation import Choice
from thaloom.edge.api.openai.requests import OpenAIWanted
from thaloom.work.runtime.types import PositionLogprobs, TokenLogprob

STREAM_END = b"data: [DONE]\n\n"
LEAST_LOGPROB = -9999.0
"""JSON has no infinity. Source: OpenAI's API reference: -9999.0 signifies that a token is very unlikely."""


class OpenAIForm:
    """generation.Form for chat completions and completions."""

    def __init__(self, wanted: OpenAIWanted, *, created: int, fingerprint: str) -> None:
        self._chat = wanted.kind == "chat"
        self._with_logprobs = wanted.requests[0].logprobs is not None
        self._with_top = bool(wanted.requests[0].logprobs)
        self._num_each = len(wanted.requests) // wanted.num_prompts
        self._usage_later = wanted.include_usage
        self._head = {
            "id": wanted.id,
            "object": "chat.completion" if self._chat else "text_completion",
            "created": created,
            "model": wanted.model,
            "system_fingerprint": fingerprint,
        }
        chunk_head = self._head | {"object": "chat.completion.chunk"} if self._chat else self._head
        self._chunk_head = b"data: " + to_json(chunk_head)[:-1] + b',"choices":'
        self._chunk_tail = b',"usage":null}\n\n' if self._usage_later else b"}\n\n"
        self._around_text = [self._around(index) for index in range(len(wanted.requests))]

    def whole(self, choices: Sequence[Choice]) -> bytes:
        bodies = [self._chat_choice(choice) if self._chat else self._text_choice(choice) for choice in choices]
        return to_json(self._head | {"choices": bodies, "usage": self._usage(choices)})

    def opening(self) -> bytes:
        """What a chat stream says first of each choice; completions have no such thing."""
        if not self._chat:
            return b""
        first = {"role": "assistant", "content": ""}
        return b"".join(
            self._chunk(self._delta_choice(index, first, None, None)) for index in range(len(self._around_text))
        )

    def chunk(self, choice: Choice) -> bytes:
        """What has come for this choice since the last chunk; the caller empties it afterwards."""
        if choice.done is None and not self._with_logprobs:  # as nearly all are
            before, after = self._around_text[choice.index]
            return before + to_json(choice.text) + after
        finish = None if choice.done is None else choice.done.reason
        if not self._chat:
            return self._chunk(self._text_choice(choice))
        delta = {"content": choice.text} if choice.text or choice.logprobs else {}
        return self._chunk(self._delta_choice(choice.index, delta, choice.logprobs or None, finish))

    def closing(self, choices: Sequence[Choice]) -> bytes:
        if not self._usage_later:
            return STREAM_END
        return self._chunk_head + b'[],"usage":' + to_json(self._usage(choices)) + b"}\n\n" + STREAM_END

    def error_event(self, error: ThaloomError) -> bytes:
        return b"data: " + to_json(error_body(error)) + b"\n\n"

    def _around(self, index: int) -> tuple[bytes, bytes]:
        """What stands before and behind the text in a chunk of nothing but text."""
        if self._chat:
            empty = self._delta_choice(index, {"content": ""}, None, None)
        else:
            empty = self._text_choice(Choice(index=index))
        before, after = to_json(empty).split(b'""')
        return self._chunk_head + b"[" + before, after + b"]" + self._chunk_tail

    def _chunk(self, choice: dict[str, Any]) -> bytes:
        return self._chunk_head + b"[" + to_json(choice) + b"]" + self._chunk_tail

    def _chat_choice(self, choice: Choice) -> dict[str, Any]:
        return {
            "index": choice.index,
            "message": {"role": "assistant", "content": choice.text, "refusal": None},
            "logprobs": self._chat_logprobs(choice.logprobs) if self._with_logprobs else None,
            "finish_reason": None if choice.done is None else choice.done.reason,
        }

    def _delta_choice(
        self, index: int, delta: dict[str, str], logprobs: list[PositionLogprobs] | None, finish: str | None
    ) -> dict[str, Any]:
        written = self._chat_logprobs(logprobs) if logprobs else None
        return {"index": index, "delta": delta, "logprobs": written, "finish_reason": finish}

    def _text_choice(self, choice: Choice) -> dict[str, Any]:
        return {
            "index": choice.index,
            "text": choice.text,
            "logprobs": self._text_logprobs(choice) if self._with_logprobs else None,
            "finish_reason": None if choice.done is None else choice.done.reason,
        }

    def _chat_logprobs(self, positions: Iterable[PositionLogprobs]) -> dict[str, Any]:
        content = [
            _chat_logprob(position.chosen) | {"top_logprobs": [_chat_logprob(top) for top in position.top]}
            for position in positions
        ]
        return {"content": content, "refusal": None}

    def _text_logprobs(self, choice: Choice) -> dict[str, Any]:
        offsets = []
        for position in choice.logprobs:
            offsets.append(choice.num_decoded)
            choice.num_decoded += len(choice.decoder.decode(position.chosen.data))
        return {
            "tokens": [_spelled(position.chosen) for position in choice.logprobs],
            "token_logprobs": [_number(position.chosen.logprob) for position in choice.logprobs],
            "top_logprobs": [
                {_spelled(top): _number(top.logprob) for top in reversed(position.top)} for position in choice.logprobs
            ]
            if self._with_top
            else None,
            "text_offset": offsets,
        }

    def _usage(self, choices: Sequence[Choice]) -> dict[str, Any]:
        """Each prompt counts once, however many answers it has."""
        dones = [choice.done for choice in choices if choice.done is not None]
        firsts = [choice.done for choice in choices[:: self._num_each] if choice.done is not None]
        prompt = sum(done.prompt_tokens for done in firsts)
        completion = sum(done.completion_tokens for done in dones)
        return {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
            "prompt_tokens_details": {"cached_tokens": sum(done.cached_tokens for done in firsts)},
        }


def _chat_logprob(token: TokenLogprob) -> dict[str, Any]:
    return {"token": token.text, "logprob": _number(token.logprob), "bytes": list(token.data)}


def _spelled(token: TokenLogprob) -> str:
    """As the completions protocol writes a token that is not text alone: `bytes:\\xe4\\xbd`."""
    try:
        return token.data.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in token.data)


def _number(logprob: float | None) -> float | None:
    if logprob is None:
        return None
    return logprob if logprob > LEAST_LOGPROB else LEAST_LOGPROB  # NaN too
