"""Answers in OpenAI's form: whole objects, and the chunks of a stream with all that stays the same written once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from thaloom.base.errors import ThaloomError
from thaloom.edge.api.errors import error_body, to_json
from thaloom.edge.api.openai.calls import call_deltas, whole_calls
from thaloom.edge.api.openai.logprobs import mean_logprob, of_chat, of_completion
from thaloom.edge.api.openai.requests import OpenAIWanted
from thaloom.edge.api.routes.generation import Choice
from thaloom.work.runtime.types import Done, PositionLogprobs

STREAM_END = b"data: [DONE]\n\n"


class OpenAIForm:
    """generation.Form for chat completions and completions."""

    def __init__(self, wanted: OpenAIWanted, *, created: int, fingerprint: str) -> None:
        self._wanted = wanted
        self._chat = wanted.kind == "chat"
        self._with_logprobs = wanted.logprobs is not None
        self._num_each = len(wanted.requests) // wanted.num_prompts
        self._head = {
            "id": wanted.id,
            "object": "chat.completion" if self._chat else "text_completion",
            "created": created,
            "model": wanted.model,
            "system_fingerprint": fingerprint,
        }
        if wanted.service_tier:
            self._head["service_tier"] = "default"
        chunk_head = self._head | {"object": "chat.completion.chunk"} if self._chat else self._head
        self._chunk_head = b"data: " + to_json(chunk_head)[:-1] + b',"choices":'
        self._chunk_tail = b',"usage":null}\n\n' if wanted.include_usage else b"}\n\n"
        self._around_text = [self._around(index) for index in range(len(wanted.requests))]
        self._only_text = not self._with_logprobs and not wanted.usage_so_far
        """But for reasoning and calls."""

    def whole(self, choices: Sequence[Choice]) -> bytes:
        write = self._chat_choice if self._chat else self._text_choice
        bodies = [write(choice) | {"index": index} for index, choice in enumerate(self._best(choices))]
        return to_json(self._head | {"choices": bodies, "usage": self._usage(choices)})

    def opening(self) -> bytes:
        """What a chat stream says first of each choice; completions have no such thing. Where tools may be called
        there may be no content at all."""
        if not self._chat:
            return b""
        first = {"role": "assistant", "content": None if self._wanted.tools.may_call else "", "refusal": None}
        return b"".join(
            self._chunk(self._delta_choice(index, first, None, None)) for index in range(len(self._around_text))
        )

    def chunk(self, choice: Choice) -> bytes:
        """What has come for this choice since the last chunk; the caller empties it afterwards."""
        if self._only_text and choice.done is None and not choice.reasoning and not choice.tool_calls:
            before, after = self._around_text[choice.index]  # as nearly all are
            return before + to_json(choice.text) + after
        if not self._chat:
            return self._chunk(self._text_choice(choice), choice)
        *others, last = self._deltas(choice) or [{}]
        if not others and not last and choice.done is None:
            return b""
        logprobs = choice.logprobs or None
        chunks = []
        for delta in others:
            chunks.append(self._chunk(self._delta_choice(choice.index, delta, logprobs, None), choice))
            logprobs = None
        chunks.append(self._chunk(self._delta_choice(choice.index, last, logprobs, choice.done), choice))
        return b"".join(chunks)

    def closing(self, choices: Sequence[Choice]) -> bytes:
        if not self._wanted.include_usage:
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

    def _chunk(self, body: dict[str, Any], choice: Choice | None = None) -> bytes:
        tail = self._chunk_tail
        if self._wanted.usage_so_far and choice is not None and choice.prompt_tokens is not None:
            tail = b',"usage":' + to_json(_usage_so_far(choice.prompt_tokens, choice.num_tokens)) + b"}\n\n"
        return self._chunk_head + b"[" + to_json(body) + b"]" + tail

    def _deltas(self, choice: Choice) -> list[dict[str, Any]]:
        """One for each kind of news: thought, text, calls."""
        deltas: list[dict[str, Any]] = []
        if choice.reasoning and self._wanted.include_reasoning:
            deltas.append({"reasoning_content": choice.reasoning})
        if choice.text or (choice.logprobs and not deltas and not choice.tool_calls):
            deltas.append({"content": choice.text})
        deltas += call_deltas(choice.tool_calls, as_functions=self._wanted.tools.as_functions)
        return deltas

    def _chat_choice(self, choice: Choice) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": choice.text, "refusal": None}
        if choice.reasoning and self._wanted.include_reasoning:
            message["reasoning_content"] = choice.reasoning
        if choice.tool_calls:
            calls = whole_calls(choice.tool_calls)
            message["content"] = choice.text or None
            if self._wanted.tools.as_functions:
                message["function_call"] = calls[0]["function"]
            else:
                message["tool_calls"] = calls
        return {
            "index": choice.index,
            "message": message,
            "logprobs": of_chat(choice.logprobs) if self._with_logprobs else None,
        } | self._end(choice.done)

    def _delta_choice(
        self, index: int, delta: dict[str, Any], logprobs: list[PositionLogprobs] | None, done: Done | None
    ) -> dict[str, Any]:
        return {"index": index, "delta": delta, "logprobs": of_chat(logprobs) if logprobs else None} | self._end(done)

    def _text_choice(self, choice: Choice) -> dict[str, Any]:
        logprobs = of_completion(choice, with_top=bool(self._wanted.logprobs)) if self._with_logprobs else None
        return {"index": choice.index, "text": choice.text, "logprobs": logprobs} | self._end(choice.done)

    def _end(self, done: Done | None) -> dict[str, Any]:
        if done is None:
            return {"finish_reason": None}
        as_function = done.reason == "tool_calls" and self._wanted.tools.as_functions
        end: dict[str, Any] = {"finish_reason": "function_call" if as_function else done.reason}
        return end if done.stop is None else end | {"stop_reason": done.stop}

    def _best(self, choices: Sequence[Choice]) -> list[Choice]:
        """Of each prompt's answers those to be shown, in the order of their likelihood if some are not."""
        if self._num_each == self._wanted.num_shown:
            return list(choices)
        best: list[Choice] = []
        for first in range(0, len(choices), self._num_each):
            ranked = sorted(choices[first : first + self._num_each], key=self._likelihood, reverse=True)
            best += ranked[: self._wanted.num_shown]
        return best

    def _likelihood(self, choice: Choice) -> float:
        num_prompt = choice.done.prompt_tokens if self._wanted.echo and choice.done is not None else 0
        return mean_logprob(choice, skip=num_prompt)

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
            "completion_tokens_details": {"reasoning_tokens": sum(done.reasoning_tokens for done in dones)},
        }


def _usage_so_far(prompt: int, completion: int) -> dict[str, int]:
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
