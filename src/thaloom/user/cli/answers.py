"""Asking a served model through the door, showing its answers, and what is measured of them."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol, Self

from thaloom.base.errors import InternalError
from thaloom.user.cli.output import Output, harmless
from thaloom.user.cli.texts import text


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How an answer ended. Seconds as this program saw them, from sending the question."""

    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    first_token_s: float | None
    total_s: float

    @property
    def tokens_per_s(self) -> float | None:
        """The pace once it flows: of the tokens after the first. None if there are too few to tell."""
        if self.first_token_s is None or self.completion_tokens < 2 or self.total_s <= self.first_token_s:
            return None
        return (self.completion_tokens - 1) / (self.total_s - self.first_token_s)


class Streams(Protocol):
    """What this needs of the client: the `data:` objects of one streamed answer. Leaving the block ends the request.

    Raises the leaf the door refused with, or that ended the stream.
    """

    def stream(self, path: str, body: Mapping[str, Any]) -> AbstractContextManager[Iterator[dict[str, Any]]]: ...

    def close(self) -> None: ...


class Asker:
    """Asks one served model; with `chat` it remembers the conversation."""

    def __init__(
        self, client: Streams, *, model: str, chat: bool, system: str | None = None, sampling: Mapping[str, Any]
    ) -> None:
        self.model = model
        self.chat = chat
        self._client = client
        self._sampling = sampling
        self._system = [] if system is None else [{"role": "system", "content": system}]
        self._past: list[dict[str, str]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def forget(self) -> None:
        self._past.clear()

    def ask(self, prompt: str) -> Answer:
        """An answer that begins to come when its block is entered and is cancelled when the block is left early."""
        body = {"model": self.model, "stream": True, "stream_options": {"include_usage": True}, **self._sampling}
        if not self.chat:
            return Answer(self._client.stream("/v1/completions", body | {"prompt": prompt}))
        question = {"role": "user", "content": prompt}
        body["messages"] = [*self._system, *self._past, question]
        return Answer(self._client.stream("/v1/chat/completions", body), said=self._past, question=question)


class Answer:
    """One answer as it comes: iterate over its pieces inside its block, then read `text` and `ending`.

    Question and answer join `said`, the conversation, if the answer came to its end or was stopped on the way; not
    if it was refused or failed.
    """

    def __init__(
        self,
        stream: AbstractContextManager[Iterator[dict[str, Any]]],
        *,
        said: list[dict[str, str]] | None = None,
        question: dict[str, str] | None = None,
    ) -> None:
        self.text = ""
        self._stream = stream
        self._said = said
        self._question = question
        self._reason: str | None = None
        self._usage: dict[str, Any] = {}
        self._first_token_s: float | None = None
        self._total_s = 0.0

    def __enter__(self) -> Self:
        self._begin = time.monotonic()
        self._chunks = self._stream.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.__exit__(kind, error, trace)
        if self._said is not None and self._question is not None and kind in (None, KeyboardInterrupt):
            self._said += [self._question, {"role": "assistant", "content": self.text}]

    def __iter__(self) -> Iterator[str]:
        for chunk in self._chunks:
            self._usage = chunk.get("usage") or self._usage
            for choice in chunk["choices"]:
                self._reason = choice["finish_reason"] or self._reason
                piece = choice["delta"].get("content") if "delta" in choice else choice["text"]
                if piece:
                    if self._first_token_s is None:
                        self._first_token_s = time.monotonic() - self._begin
                    self.text += piece
                    yield piece
        self._total_s = time.monotonic() - self._begin

    @property
    def ending(self) -> Ending:
        """Raises InternalError if the stream stopped without saying how it ended: it must not pass for a whole one."""
        if self._reason is None:
            raise InternalError(f"the answer broke off after {len(self.text)} characters")
        return Ending(
            finish_reason=self._reason,
            prompt_tokens=self._usage.get("prompt_tokens", 0),
            completion_tokens=self._usage.get("completion_tokens", 0),
            first_token_s=self._first_token_s,
            total_s=self._total_s,
        )


def show(piece: str, output: Output) -> None:
    """Some more of an answer, at once."""
    if not output.as_json:
        sys.stdout.write(harmless(piece) if sys.stdout.isatty() else piece)
        sys.stdout.flush()


def speed(ending: Ending) -> str:
    rate, first = ending.tokens_per_s, ending.first_token_s
    return text(
        "run.speed",
        tokens=ending.completion_tokens,
        rate="-" if rate is None else f"{rate:.1f}",
        first="-" if first is None else f"{first:.2f}",
        reason=ending.finish_reason,
    )
