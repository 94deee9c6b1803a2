"""Inference with an account: a pass through a model is a request of its key, as an answer is; it takes no tokens."""

from __future__ import annotations

from thaloom.edge.api.metered import Charge
from thaloom.edge.api.visits import CURRENT, Tab, allow
from thaloom.kernel.models.types import ModelTensor
from thaloom.work.runtime.types import Inference, Inferred, InferRequest


class MeteredInference:
    """Implements types.Inference over another one. Every method raises Forbidden for a model the key is not for."""

    def __init__(self, inference: Inference) -> None:
        self._inference = inference

    def serves(self, model: str) -> bool:
        allow(model)
        return self._inference.serves(model)

    async def tensors(self, model: str) -> tuple[tuple[ModelTensor, ...], tuple[ModelTensor, ...]]:
        allow(model)
        return await self._inference.tensors(model)

    async def infer(self, request: InferRequest) -> Inferred:
        """Raises RateLimited too."""
        charge = Charge(CURRENT.get() or Tab(), request.model, 0)
        try:
            inferred = await self._inference.infer(request)
        finally:
            charge.settle(0)
        charge.tab.queue_s = max(charge.tab.queue_s, inferred.queue_s)
        charge.tab.prefill_s = max(charge.tab.prefill_s, inferred.compute_s)
        return inferred
