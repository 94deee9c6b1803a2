"""Messages, and how many tokens they have, as routes."""

from __future__ import annotations

from typing import Any

from thaloom.base.errors import BadParameter, UnknownPath
from thaloom.edge.api.anthropic import requests
from thaloom.edge.api.anthropic.answers import AnthropicForm
from thaloom.edge.api.anthropic.requests import AnthropicWanted
from thaloom.edge.api.routes.generation import Speaking, told_first
from thaloom.edge.api.routes.object_route import ObjectRoute
from thaloom.edge.wire import anthropic as wire
from thaloom.work.runtime.types import Generation, ServedModel


def _form(wanted: AnthropicWanted, served: ServedModel | None, now: float) -> AnthropicForm:  # noqa: ARG001
    return AnthropicForm(wanted)


MESSAGES = Speaking(id_prefix="msg", read=requests.messages, form=_form)


def count_tokens(generation: Generation) -> ObjectRoute:
    """Counts as the prompt of the same request would be counted, by the model's own tokenizer."""

    async def answer(data: dict[str, Any]) -> wire.TokensCount:
        try:
            asked = requests.count_tokens(data)
        except BadParameter as error:
            raise told_first(generation, data, error) from error
        told = await generation.tokenize(asked)
        return wire.TokensCount(input_tokens=len(told.tokens))

    return ObjectRoute(answer)


async def refuse_batches(_: Any) -> Any:
    raise UnknownPath("message batches are not served here; send each message to /v1/messages")
