"""A runtime that answers as a test says: texts, thoughts and calls, an end or a failure. And a door over it."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.contract.edge.live_door import serving
from thaloom.base.clock import SystemClock
from thaloom.base.errors import ModelNotFound, ThaloomError
from thaloom.base.events import Recorder
from thaloom.edge.api.app import door_app
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

TEMPLATE = "{% if enable_thinking %}<think>{% endif %}{% for tool in tools %}{{ tool }}{% endfor %}"


def done(reason: Any = "stop", **changes: Any) -> Done:
    facts: dict[str, Any] = {
        "prompt_tokens": 20, "completion_tokens": 7, "cached_tokens": 16,
        "queue_s": 0.25, "prefill_s": 0.5, "decode_s": 1.0,
    }  # fmt: skip
    return Done(reason=reason, **facts | changes)


def says(*texts: str) -> list[Delta]:
    return [Delta(text=text, num_tokens=1) for text in texts]


def thinks(*texts: str) -> list[Delta]:
    return [Delta(text="", num_tokens=1, reasoning=text) for text in texts]


def calls(index: int, name: str, *arguments: str) -> list[Delta]:
    """One call in pieces, the first of which has no arguments."""
    pieces = [ToolCallPiece(index=index, id=f"call_{index}", name=name)]
    pieces += [ToolCallPiece(index=index, arguments=piece) for piece in arguments]
    return [Delta(text="", num_tokens=1, tool_calls=(piece,)) for piece in pieces]


class _Answer:
    """As the real one: its first delta tells how long the prompt is."""

    _first = True

    def __init__(self, items: Sequence[Delta | Done | ThaloomError]) -> None:
        self._items = iter(items)

    def __aiter__(self) -> AsyncIterator[Delta | Done]:
        return self

    async def __anext__(self) -> Delta | Done:
        await asyncio.sleep(0)
        item = next(self._items, None)
        if item is None:
            raise StopAsyncIteration
        if isinstance(item, ThaloomError):
            raise item
        if isinstance(item, Delta) and self._first:
            self._first = False
            return dataclasses.replace(item, prompt_tokens=20)
        return item


@dataclass
class Scripted:
    """Implements types.Generation. What it is asked is kept."""

    items: Sequence[Delta | Done | ThaloomError] = ()
    refuse_with: ThaloomError | None = None
    served: list[ServedModel] = field(
        default_factory=lambda: [ServedModel(name="tiny", ready=True, context_length=256, created_at=1_700_000_000.0)]
    )
    template: str | None = TEMPLATE
    requests: list[GenerateRequest] = field(default_factory=list)
    tokenized: list[TokenizeRequest] = field(default_factory=list)
    embedded: list[EmbedRequest] = field(default_factory=list)

    @property
    def request(self) -> GenerateRequest:
        return self.requests[-1]

    def play(self, *items: Delta | Done | ThaloomError) -> None:
        self.items = items

    def models(self) -> list[ServedModel]:
        return self.served

    async def start(self, request: GenerateRequest) -> AsyncIterator[Delta | Done]:
        self._known(request.model)
        if self.refuse_with is not None:
            raise self.refuse_with
        self.requests.append(request)
        return _Answer(self.items)

    async def tokenize(self, request: TokenizeRequest) -> Tokenized:
        self._known(request.model)
        self.tokenized.append(request)
        return Tokenized(tokens=(1, 2, 3, 4, 5), texts=("a",) * 5, context_length=256)

    async def detokenize(self, model: str, tokens: tuple[int, ...]) -> str:
        self._known(model)
        return "".join(map(chr, tokens))

    async def tokenizer_info(self, model: str) -> TokenizerInfo:
        self._known(model)
        return TokenizerInfo(
            vocab_size=8, context_length=256, bos_token=None, eos_token=None, stop_tokens=(),
            chat_template=self.template,
        )  # fmt: skip

    async def awake(self, model: str) -> None:
        self._known(model)

    async def embed(self, request: EmbedRequest) -> Embedding:
        self._known(request.model)
        if self.refuse_with is not None:
            raise self.refuse_with
        self.embedded.append(request)
        return Embedding(values=(float(len(request.text or "")), 0.5, 0.25), prompt_tokens=3)

    async def score(self, request: ScoreRequest) -> Scores:
        self._known(request.model)
        return Scores(values=(0.5,) * len(request.documents), prompt_tokens=3)

    async def worker_metrics(self) -> list[dict[str, Any]]:
        return []

    def _known(self, name: str) -> None:
        if not any(name in (model.name, f"{model.name}:latest") for model in self.served):
            raise ModelNotFound(f"no model {name!r} is served here", param="model")


@contextlib.asynccontextmanager
async def scripted_door(runtime: Scripted, folder: Path) -> AsyncIterator[str]:
    """The URL of a door over `runtime`, whose control socket would be in `folder`."""
    app = door_app(runtime, control_socket=folder / "control.sock", clock=SystemClock(), emit=Recorder())
    async with serving(app) as url:
        yield url
