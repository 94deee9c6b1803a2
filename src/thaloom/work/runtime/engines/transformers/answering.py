"""From a request to the chunks of its answer, over whatever knows the language. What is not done is refused by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import msgspec
import numpy as np

from thaloom.base.errors import BadParameter, PromptTooLong
from thaloom.work.runtime.engines.transformers.drawing import Draws, Logits, Settings, logprobs_of
from thaloom.work.runtime.engines.transformers.writing import Writing

Chunk = dict[str, Any]


class Language(Protocol):
    """A model and its words. One thread at a time."""

    context_length: int
    ends: frozenset[int]
    """Tokens that end an answer."""
    defaults: Mapping[str, float]
    """Fields of Settings, as the model's makers want them."""

    def tokens(self, text: str) -> list[int]: ...

    def chat(self, messages: Sequence[Mapping[str, Any]], **options: Any) -> list[int]:
        """Raises BadParameter without a template, or where it does not take them."""
        ...

    def text(self, tokens: Sequence[int], *, special: bool) -> str: ...

    def generate(self, prompt: Sequence[int], choose: Callable[[Logits], int], enough: Callable[[], bool]) -> None:
        """Ask `choose` for token after token until there is `enough`."""
        ...

    def embed(self, tokens: Sequence[int]) -> list[float]:
        """The state at the last token."""
        ...


class Question(msgspec.Struct, kw_only=True):
    """The body of a request. Unknown fields are the worker's mistake, so there are none to be let pass."""

    model: str
    prompt: str | list[int] | None = None
    messages: list[dict[str, Any]] | None = None
    max_tokens: int | None = None
    stop: list[str] = []
    stop_token_ids: list[int] = []
    include_stop_str_in_output: bool = False
    skip_special_tokens: bool = True
    ignore_eos: bool = False
    min_tokens: int = 0
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logit_bias: dict[str, float] = {}
    seed: int | None = None
    logprobs: int | bool | None = None
    top_logprobs: int = 0
    chat_template_kwargs: dict[str, Any] = {}
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    stream: bool = True
    stream_options: dict[str, Any] = {}


def settings_of(asked: Question, defaults: Mapping[str, float]) -> Settings:
    told = {name: getattr(asked, name) for name in ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")}
    known: dict[str, Any] = dict(defaults) | {name: value for name, value in told.items() if value is not None}
    bias = {int(token): value for token, value in asked.logit_bias.items()}
    return Settings(
        **known, frequency_penalty=asked.frequency_penalty, presence_penalty=asked.presence_penalty, logit_bias=bias,
        seed=asked.seed,
    )  # fmt: skip


def prompt_of(asked: Question, language: Language) -> list[int]:
    """Raises BadParameter, PromptTooLong."""
    if asked.messages is not None:
        options = {"add_generation_prompt": asked.add_generation_prompt}
        options |= {"continue_final_message": asked.continue_final_message} | asked.chat_template_kwargs
        prompt = language.chat(asked.messages, **options)
    else:
        prompt = language.tokens(asked.prompt) if isinstance(asked.prompt, str) else list(asked.prompt or ())
    if not prompt:
        raise BadParameter("prompt: there is no token in it", param="prompt")
    if len(prompt) >= language.context_length:
        raise PromptTooLong(
            f"the prompt has {len(prompt)} tokens, the context {language.context_length}", param="prompt",
            prompt_tokens=len(prompt), context_length=language.context_length,
        )  # fmt: skip
    return prompt


@dataclass(slots=True)
class Answer:
    """One answer in the making. `tell` gets its chunks as they come, and says whether anybody still listens."""

    asked: Question
    language: Language
    tell: Callable[[Chunk], bool]
    completion_tokens: int = 0
    reason: str | None = None
    stopped: int | str | None = None
    _prompt: list[int] = field(default_factory=list)

    def run(self) -> None:
        """Raises BadParameter, PromptTooLong, both before anything is told."""
        self._prompt = prompt_of(self.asked, self.language)
        room = self.language.context_length - len(self._prompt)
        most = room if self.asked.max_tokens is None else min(room, self.asked.max_tokens)
        draws = Draws(settings_of(self.asked, self.language.defaults), self._prompt)
        asked, ends = self.asked, frozenset() if self.asked.ignore_eos else self.language.ends
        last = ends | frozenset(asked.stop_token_ids)
        writing = Writing(
            lambda tokens: self.language.text(tokens, special=not asked.skip_special_tokens),
            asked.stop, keep_stop=asked.include_stop_str_in_output, prompt=self._prompt,
        )  # fmt: skip

        def choose(logits: Logits) -> int:
            token = draws.next(logits, banned=tuple(last) if self.completion_tokens < asked.min_tokens else ())
            self.completion_tokens += 1
            self._take(token, logits, writing, last)
            if self.reason is None and self.completion_tokens >= most:
                self.reason = "length"
            return token

        if most > 0:
            self.language.generate(self._prompt, choose, lambda: self.reason is not None)
        self.reason = self.reason or "length"
        if rest := writing.finish():
            self.tell(self._chunk(rest, None))
        self._end()

    def _take(self, token: int, logits: Logits, writing: Writing, last: frozenset[int]) -> None:
        if token in last:
            self.reason = "stop"
            self.stopped = token if token in self.asked.stop_token_ids else None
            return
        text = writing.feed(token)
        told = None if self.asked.logprobs in (None, False) else self._logprobs(token, logits)
        if (text or told) and not self.tell(self._chunk(text, told)):
            self.reason = "abort"
        elif writing.stopped is not None:
            self.reason, self.stopped = "stop", writing.stopped

    def _logprobs(self, token: int, logits: Logits) -> Chunk:
        values = logprobs_of(logits)
        chat = self.asked.messages is not None
        count = self.asked.top_logprobs if chat else int(self.asked.logprobs or 0)
        best = np.argsort(-values, kind="stable")[:count]
        return self._logprob(token, values) | {"top_logprobs": [self._logprob(int(one), values) for one in best]}

    def _logprob(self, token: int, values: np.ndarray[Any, Any]) -> Chunk:
        text = self.language.text([token], special=True)
        return {"id": token, "token": text, "bytes": list(text.encode()), "logprob": float(values[token])}

    def _chunk(self, text: str, logprobs: Chunk | None) -> Chunk:
        choice: Chunk = {"index": 0, "finish_reason": None}
        choice |= {"text": text} if self.asked.messages is None else {"delta": {"content": text}}
        if logprobs is not None:
            choice["logprobs"] = {"content": [logprobs]}
        return {"object": "chunk", "choices": [choice]}

    def _end(self) -> None:
        end: Chunk = {"index": 0, "finish_reason": self.reason, "stop_reason": self.stopped}
        end["text" if self.asked.messages is None else "delta"] = "" if self.asked.messages is None else {}
        usage = {"prompt_tokens": len(self._prompt), "completion_tokens": self.completion_tokens}
        if self.tell({"object": "chunk", "choices": [end]}):
            self.tell({"object": "chunk", "choices": [], "usage": usage})
