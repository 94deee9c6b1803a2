"""`/v1/models` in Anthropic's form, for clients that say they speak it: the path is OpenAI's too."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

from thaloom.base.errors import BadParameter
from thaloom.edge.api.routes.generation import get_served
from thaloom.edge.wire import anthropic as wire
from thaloom.work.runtime.types import Generation, ServedModel

DEFAULT_LIMIT = 20
MAX_LIMIT = 1000


def list_models(generation: Generation, query: Mapping[str, str]) -> wire.ModelPage:
    """The page before or after an id, in the order of the routes. Raises BadParameter, NodeNotRunning."""
    models = [_info(served) for served in generation.models()]
    limit = _limit(query.get("limit"))
    if "after_id" in query and "before_id" in query:
        raise BadParameter("after_id and before_id exclude each other", param="before_id")
    if "before_id" in query:
        end = _place(models, query["before_id"], "before_id")
        start = max(0, end - limit)
        return _page(models[start:end], more=start > 0)
    start = _place(models, query["after_id"], "after_id") + 1 if "after_id" in query else 0
    return _page(models[start : start + limit], more=start + limit < len(models))


def get_model(generation: Generation, name: str) -> wire.ModelInfo:
    """Raises ModelNotFound, NodeNotRunning."""
    return _info(get_served(generation, name))


def _limit(text: str | None) -> int:
    if text is None:
        return DEFAULT_LIMIT
    if not (text.isascii() and text.isdigit() and len(text) < 6 and 1 <= int(text) <= MAX_LIMIT):
        raise BadParameter(f"limit: {text!r} is no number from 1 to {MAX_LIMIT}", param="limit")
    return int(text)


def _place(models: list[wire.ModelInfo], name: str, param: str) -> int:
    for index, model in enumerate(models):
        if model.id == name:
            return index
    raise BadParameter(f"{param}: no model {name!r} is served here", param=param)


def _page(models: list[wire.ModelInfo], *, more: bool) -> wire.ModelPage:
    first, last = (models[0].id, models[-1].id) if models else (None, None)
    return wire.ModelPage(data=models, has_more=more, first_id=first, last_id=last)


def _info(served: ServedModel) -> wire.ModelInfo:
    return wire.ModelInfo(
        id=served.name,
        type="model",
        display_name=served.name,
        created_at=datetime.fromtimestamp(served.created_at, UTC).isoformat().replace("+00:00", "Z"),
        lifecycle="active",
        max_input_tokens=served.context_length,
        max_tokens=served.context_length,
    )
