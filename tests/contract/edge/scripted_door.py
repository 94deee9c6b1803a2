"""Generation that says what a test tells it to, and remembers what it was asked; and a door over it."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import openai

from tests.contract.edge.live_door import serving
from thaloom.base.clock import SystemClock
from thaloom.base.errors import BadParameter, ModelNotFound, ThaloomError
from thaloom.base.events import Recorder
from thaloom.edge.api.app import door_app
from thaloom.kernel.models.types import ModelTensor
from thaloom.work.runtime.types import (
    Delta,
    Done,
    Embedding,
    EmbedRequest,
    GenerateRequest,
    Inferred,
    InferRequest,
    PaintRequest,
    Pictures,
    ScoreRequest,
    Scores,
    ServedModel,
    SpeechRequest,
    SpokenWord,
    Tokenized,
    TokenizeRequest,
    TokenizerInfo,
    TranscribeRequest,
    Transcript,
    Utterance,
)

DIMENSIONS = 4
DONE = Done(
    reason="stop", prompt_tokens=5, completion_tokens=2, cached_tokens=3, queue_s=0.1, prefill_s=0.2, decode_s=0.3
)


@dataclass
class Scripted:
    """Implements types.Generation and types.Inference. Tokens are bytes; a document's score is how often the query
    stands in it; what a model is given comes out of it."""

    says: Sequence[Delta | Done] = (Delta(text="Hi", num_tokens=2), DONE)
    scripts: list[Sequence[Delta | Done]] = field(default_factory=list)
    """For the next requests, before `says`."""
    fails: ThaloomError | None = None
    names: Sequence[str] = ("tiny",)
    generated: list[GenerateRequest] = field(default_factory=list)
    tokenized: list[TokenizeRequest] = field(default_factory=list)
    embedded: list[EmbedRequest] = field(default_factory=list)
    scored: list[ScoreRequest] = field(default_factory=list)
    degraded: str | None = None

    def models(self) -> list[ServedModel]:
        return [ServedModel(name=name, ready=True, context_length=4096, created_at=7.5) for name in self.names]

    async def start(self, request: GenerateRequest) -> AsyncIterator[Delta | Done]:
        self._check(request.model)
        self.generated.append(request)
        script = self.scripts.pop(0) if self.scripts else self.says

        async def answer() -> AsyncIterator[Delta | Done]:
            for item in script:
                yield item

        return answer()

    async def tokenize(self, request: TokenizeRequest) -> Tokenized:
        self._check(request.model)
        self.tokenized.append(request)
        text = request.prompt
        if text is None:
            text = "".join(message.content for message in request.messages or ())
        tokens = tuple(text.encode())
        return Tokenized(tokens=tokens, texts=tuple(chr(token) for token in tokens), context_length=4096)

    async def detokenize(self, model: str, tokens: tuple[int, ...]) -> str:
        self._check(model)
        if any(token > 255 for token in tokens):
            raise BadParameter("tokens: there is no such token", param="tokens")
        return bytes(tokens).decode(errors="replace")

    async def awake(self, model: str) -> None:
        self._check(model)

    async def tokenizer_info(self, model: str) -> TokenizerInfo:
        self._check(model)
        return TokenizerInfo(
            vocab_size=256,
            context_length=4096,
            bos_token=None,
            eos_token="</s>",
            stop_tokens=(0,),
            chat_template="{{x}}",
        )

    async def embed(self, request: EmbedRequest) -> Embedding:
        self._check(request.model)
        self.embedded.append(request)
        if (request.dimensions or 0) > DIMENSIONS:
            raise BadParameter("dimensions: there are fewer", param="dimensions")
        size = len(request.text.encode()) if request.text is not None else len(request.tokens or ())
        values = (float(size), 0.5, -0.25, 1e-8)[: request.dimensions or DIMENSIONS]
        return Embedding(values=values, prompt_tokens=size, degraded=self.degraded)

    async def score(self, request: ScoreRequest) -> Scores:
        self._check(request.model)
        self.scored.append(request)
        values = tuple(min(document.count(request.query) / 10, 1.0) for document in request.documents)
        return Scores(values=values, prompt_tokens=len(values), degraded=self.degraded)

    def serves(self, model: str) -> bool:
        self._check(model)
        return True

    async def tensors(self, model: str) -> tuple[tuple[ModelTensor, ...], tuple[ModelTensor, ...]]:
        self._check(model)
        return (ModelTensor(name="x", dtype="FP32", shape=(-1,)),), ()

    async def infer(self, request: InferRequest) -> Inferred:
        self._check(request.model)
        return Inferred(outputs=request.inputs, queue_s=0.1, compute_s=0.2, batch_rows=0)

    async def transcribe(self, request: TranscribeRequest) -> Transcript:
        self._check(request.model)
        word = SpokenWord(text="hi", begin_s=0.5, end_s=1.0)
        return Transcript(text="hi", words=(word,), duration_s=1.5, queue_s=0.1, compute_s=0.2)

    async def speak(self, request: SpeechRequest) -> Utterance:
        self._check(request.model)
        return Utterance(samples=request.text.encode()[:1] * 2, rate=8000, queue_s=0.1, compute_s=0.2)

    async def paint(self, request: PaintRequest) -> Pictures:
        self._check(request.model)
        if request.size not in (None, (2, 1)):
            raise BadParameter("size: 2x1 is made", param="size")
        return Pictures(images=(b"png",) * request.count, width=2, height=1, queue_s=0.1, compute_s=0.2)

    async def worker_metrics(self) -> list[dict[str, Any]]:
        return []

    def _check(self, model: str) -> None:
        if self.fails is not None:
            raise self.fails
        if model.removesuffix(":latest") not in self.names:
            raise ModelNotFound(f"no model {model!r}", param="model")


@dataclass
class ScriptedDoor:
    url: str
    generation: Scripted
    http: httpx2.AsyncClient

    @functools.cached_property
    def client(self) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0, timeout=10.0)


@contextlib.asynccontextmanager
async def scripted_door(generation: Scripted) -> AsyncIterator[ScriptedDoor]:
    app = door_app(generation, control_socket=Path("/nonexistent"), clock=SystemClock(), emit=Recorder())
    async with (
        serving(app) as url,
        httpx2.AsyncClient(base_url=url, trust_env=False, verify=False, timeout=10.0) as http,
    ):
        door = ScriptedDoor(url, generation, http)
        try:
            yield door
        finally:
            if "client" in vars(door):
                await door.client.close()
