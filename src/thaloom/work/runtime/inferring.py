"""One pass through a model that is no language model, asked for at the door."""

from __future__ import annotations

from thaloom.base.errors import NotServable, TooLarge
from thaloom.base.units import format_bytes
from thaloom.kernel.models.types import ModelTensor
from thaloom.kernel.state.types import Route
from thaloom.work.runtime.messages import MAX_FRAME_BYTES, Infer, encode
from thaloom.work.runtime.types import Inferred, InferRequest
from thaloom.work.runtime.workers import Workers


async def tensors(workers: Workers, route: Route) -> tuple[tuple[ModelTensor, ...], tuple[ModelTensor, ...]]:
    """What the model takes and gives, as any of its workers tells it. Raises NotServable, ServiceLoading."""
    _require_tensors(route)
    stats = await workers.status(route.name)
    return tuple(stats.inputs), tuple(stats.outputs)


async def infer(workers: Workers, route: Route, request: InferRequest) -> Inferred:
    """Raises NotServable, TooLarge, and whatever the worker refuses it with."""
    _require_tensors(route)
    workers.require_ready(route.name)
    message = Infer(request=request)
    if len(encode(message)) > MAX_FRAME_BYTES:
        raise TooLarge(f"the inputs have more than the {format_bytes(MAX_FRAME_BYTES)} that are taken")
    placed = await workers.begin(route.name, message)
    try:
        return (await placed.call.inferred()).result
    finally:
        placed.call.close()


def _require_tensors(route: Route) -> None:
    if route.engine != "onnx":
        raise NotServable(f"{route.name!r} is a language model; it is asked at /v1", param="model")
