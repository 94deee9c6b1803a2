"""A generation that says what a test wrote down: thoughts, texts, calls, ends, failures; it remembers its requests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from thaloom.base.errors import ThaloomError
from thaloom.work.runtime.types import (
    Delta,
    Done,
    Embedding,
    EmbedRequest,
    GenerateRequest,
    ScoreRequest,
    Scores,
    ServedModel,
    Tokenized,
    TokenizeRequest,
    TokenizerInfo,
    ToolCallPiece,
)


def said(text: str) -> Delta:
    return Delta(text=text, num_tokens=1)


def thought(text: str) -> Delta:
    return Delta(text="", num_tokens=1, reasoning=text)


def called(index: int, arguments: str = "", **facts: Any) -> Delta:
    return Delta(text="", num_tokens=1, tool_calls=(ToolCallPiece(index=index, arguments=arguments, **facts),))


def ended(reason: Any = "stop", **facts: Any) -> Done:
    return Done(
        **{"reason": reason, "prompt_tokens": 9, "completion_tokens": 5, "cached_tokens": 4, "queue_s": 0.0,
           "prefill_s": 0.0, "decode_s": 0.0} | facts
    )  # fmt: skip


Step = Delta | Done | ThaloomError | asyncio.Event


@dataclass
class Scripted:
    """A Generation. A step that is an event is waited for; one that is an error is raised."""

    script: Sequence[Step] = (said("Hello"), ended())
    refusals: list[ThaloomError] = field(default_factory=list)
    """Taken one by one by the requests that come, before any is answered."""
    requests: list[GenerateRequest] = field(default_factory=list)
    num_open: int = 0
    most_open: int = 0

    def models(self) -> list[ServedModel]:
        return [ServedModel(name="tiny", ready=True, context_length=256, created_at=0.0)]

    async def start(self, request: GenerateRequest) -> AsyncIterator[Delta | Done]:
        self.requests.append(request)
        if self.refusals:
            raise self.refusals.pop(0)
        return self._answer()

    async def _answer(self) -> AsyncIterator[Delta | Done]:
        self.num_open += 1
        self.most_open = max(self.most_open, self.num_open)
        try:
            for step in self.script:
                if isinstance(step, ThaloomError):
                    raise step
                if isinstance(step, asyncio.Event):
                    await step.wait()
                else:
                    yield step
                    await asyncio.sleep(0)
        finally:
            self.num_open -= 1

    async def tokenize(self, request: TokenizeRequest) -> Tokenized:
        text = "".join(message.content for message in request.messages or ())
        return Tokenized(tokens=tuple(range(len(text))), texts=tuple(text), context_length=256)

    async def detokenize(self, model: str, tokens: tuple[int, ...]) -> str:
        raise NotImplementedError

    async def awake(self, model: str) -> None:
        pass

    async def tokenizer_info(self, model: str) -> TokenizerInfo:
        raise NotImplementedError

    async def embed(self, request: EmbedRequest) -> Embedding:
        raise NotImplementedError

    async def score(self, request: ScoreRequest) -> Scores:
        raise NotImplementedError

    async def worker_metrics(self) -> list[dict[str, Any]]:
        return []
