"""`/v1/models`, and what OpenAI's protocol calls a fingerprint."""

from __future__ import annotations

import hashlib

from thaloom import __version__
from thaloom.edge.api.routes.generation import get_served
from thaloom.edge.wire import openai as wire
from thaloom.work.runtime.types import Generation, ServedModel


def fingerprint(served: ServedModel | None) -> str:
    """OpenAI's `system_fingerprint`: changes when what answers changes."""
    told = __version__ if served is None else f"{__version__}/{served.name}/{served.created_at}"
    return "fp_" + hashlib.sha256(told.encode()).hexdigest()[:12]


def list_models(generation: Generation) -> wire.ModelList:
    return wire.ModelList(object="list", data=[_model(served) for served in generation.models()])


def get_model(generation: Generation, name: str) -> wire.Model:
    """Raises ModelNotFound."""
    return _model(get_served(generation, name))


def _model(served: ServedModel) -> wire.Model:
    return wire.Model(
        id=served.name,
        object="model",
        created=int(served.created_at),
        owned_by="thaloom",
        root=served.name,
        parent=None,
        max_model_len=served.context_length,
        ready=served.ready,
        context_length=served.context_length,
    )
