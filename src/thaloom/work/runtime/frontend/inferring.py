"""What a model that is no language model computes, asked for at the door."""

from __future__ import annotations

from typing import TypeVar

from thaloom.base.errors import NotServable, TooLarge
from thaloom.base.units import format_bytes
from thaloom.kernel.models.types import ModelTensor
from thaloom.kernel.state.types import Route
from thaloom.work.runtime.frontend.workers import Workers
from thaloom.work.runtime.messages import MAX_FRAME_BYTES, InferDone, PaintDone, Spoken, Task, Transcribed, encode

Computed = TypeVar("Computed", InferDone, Transcribed, Spoken, PaintDone)


async def tensors(workers: Workers, route: Route) -> tuple[tuple[ModelTensor, ...], tuple[ModelTensor, ...]]:
    """What the model takes and gives, as any of its workers tells it. Raises NotServable, ServiceLoading."""
    _require_tensors(route)
    stats = await workers.status(route.name)
    return tuple(stats.inputs), tuple(stats.outputs)


async def compute(workers: Workers, route: Route, message: Task, kind: type[Computed]) -> Computed:
    """The answer to `message`. Raises NotServable, TooLarge, and whatever the worker refuses it with."""
    _require_tensors(route)
    await workers.ready(route.name)
    if len(encode(message)) > MAX_FRAME_BYTES:
        raise TooLarge(f"more is asked than the {format_bytes(MAX_FRAME_BYTES)} that are taken")
    placed = await workers.begin(route.name, message)
    try:
        return await placed.call.whole(kind)
    finally:
        placed.call.close()


def seconds(answer: InferDone | Transcribed | Spoken | PaintDone) -> tuple[float, float]:
    """In the queue, and computing."""
    match answer:
        case InferDone(result=inferred):
            return inferred.queue_s, inferred.compute_s
        case Transcribed(transcript=transcript):
            return transcript.queue_s, transcript.compute_s
        case Spoken(speech=speech):
            return speech.queue_s, speech.compute_s
        case PaintDone(pictures=pictures):
            return pictures.queue_s, pictures.compute_s


def _require_tensors(route: Route) -> None:
    if route.engine != "onnx":
        raise NotServable(f"{route.name!r} is a language model; it is asked at /v1", param="model")
