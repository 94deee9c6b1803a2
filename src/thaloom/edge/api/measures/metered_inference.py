"""Inference with an account: what a model computes is a request of its key, as an answer is; it takes no tokens."""

from __future__ import annotations

import dataclasses
from collections.abc import Coroutine
from typing import Any, TypeVar

from thaloom.edge.api.entrance.visits import CURRENT, Tab, allow, kept_model
from thaloom.edge.api.measures.metered import Charge
from thaloom.kernel.models.types import ModelTensor
from thaloom.work.runtime.types import (
    Inference,
    Inferred,
    InferRequest,
    PaintRequest,
    Pictures,
    SpeechRequest,
    TranscribeRequest,
    Transcript,
    Utterance,
)

R = TypeVar("R", InferRequest, TranscribeRequest, SpeechRequest, PaintRequest)
T = TypeVar("T", Inferred, Utterance, Transcript, Pictures)


class MeteredInference:
    """Implements types.Inference over another one. Every method raises Forbidden for a model the key is not for; what
    computes raises RateLimited too."""

    def __init__(self, inference: Inference) -> None:
        self._inference = inference

    def serves(self, model: str) -> bool:
        allow(model)
        return self._inference.serves(kept_model(model))

    async def tensors(self, model: str) -> tuple[tuple[ModelTensor, ...], tuple[ModelTensor, ...]]:
        allow(model)
        return await self._inference.tensors(kept_model(model))

    async def infer(self, request: InferRequest) -> Inferred:
        return await _charged(request.model, self._inference.infer(_kept(request)))

    async def transcribe(self, request: TranscribeRequest) -> Transcript:
        return await _charged(request.model, self._inference.transcribe(_kept(request)))

    async def speak(self, request: SpeechRequest) -> Utterance:
        tab = CURRENT.get() or Tab()
        speech = await _charged(request.model, self._inference.speak(_kept(request)))
        if speech.degraded is not None:
            tab.degraded.add(speech.degraded)
        return speech

    async def paint(self, request: PaintRequest) -> Pictures:
        return await _charged(request.model, self._inference.paint(_kept(request)))


def _kept(request: R) -> R:
    """With the name under which its model is served."""
    return dataclasses.replace(request, model=kept_model(request.model))


async def _charged(model: str, work: Coroutine[Any, Any, T]) -> T:
    """What `work` gives, where the key has a request left for it."""
    tab = CURRENT.get() or Tab()
    try:
        charge = Charge(tab, model, 0)
    except BaseException:
        work.close()
        raise
    try:
        answer = await work
    finally:
        charge.settle(0)
    tab.queue_s = max(tab.queue_s, answer.queue_s)
    tab.prefill_s = max(tab.prefill_s, answer.compute_s)
    return answer
