"""`/tokenize`, `/detokenize` and `/tokenizer_info`: a model's way with text, without its worker."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from thaloom.base.errors import BadParameter
from thaloom.edge.api.openai.messages import chat_messages, refuse_what_is_not_text
from thaloom.edge.api.openai.requests import templating
from thaloom.edge.api.openai.tools import tools_of
from thaloom.edge.api.openai.unserved import refuse_unserved
from thaloom.edge.api.routes.exchange import Asked
from thaloom.edge.api.routes.fields import validate
from thaloom.edge.wire import tokens as wire
from thaloom.work.runtime.types import Generation, TokenizeRequest

TOKENIZER_CLASS = "PreTrainedTokenizerFast"
"""What other programs read a `tokenizer.json` with, the only kind there is here."""


async def tokenize(generation: Generation, asked: Asked) -> Mapping[str, Any]:
    """Raises ModelNotFound, BadParameter."""
    request, with_texts = _chat(generation, asked.data) if "messages" in asked.data else _prompt(generation, asked.data)
    told = await generation.tokenize(request)
    return {
        "count": len(told.tokens),
        "max_model_len": told.context_length,
        "tokens": list(told.tokens),
        "token_strs": list(told.texts) if with_texts else None,
    }


async def detokenize(generation: Generation, asked: Asked) -> Mapping[str, Any]:
    """Raises ModelNotFound, BadParameter."""
    fields = validate(wire.DetokenizeRequest, asked.data)
    text = await generation.detokenize(named_or_only(generation, fields.model), tuple(fields.tokens))
    return {"prompt": text}


async def tokenizer_info(generation: Generation, model: str | None) -> wire.TokenizerInfoAnswer:
    """Raises ModelNotFound, BadParameter."""
    name = named_or_only(generation, model)
    info = await generation.tokenizer_info(name)
    return wire.TokenizerInfoAnswer(
        tokenizer_class=TOKENIZER_CLASS,
        model=name,
        vocab_size=info.vocab_size,
        model_max_length=info.context_length,
        bos_token=info.bos_token,
        eos_token=info.eos_token,
        stop_token_ids=list(info.stop_tokens),
        chat_template=info.chat_template,
    )


def named_or_only(generation: Generation, name: str | None) -> str:
    """The model asked for, or the only one there is. Raises BadParameter."""
    if name is not None:
        return name
    names = sorted(model.name for model in generation.models())
    if len(names) != 1:
        told = ", ".join(names) or "none"
        raise BadParameter(f"model: say which one, if not just one is served (served: {told})", param="model")
    return names[0]


def _prompt(generation: Generation, data: dict[str, Any]) -> tuple[TokenizeRequest, bool]:
    refuse_unserved(data, wire.UNSERVED_IN_TOKENIZE)
    fields = validate(wire.TokenizePrompt, data)
    request = TokenizeRequest(
        model=named_or_only(generation, fields.model),
        prompt=fields.prompt,
        add_special_tokens=fields.add_special_tokens is not False,
    )
    return request, bool(fields.return_token_strs)


def _chat(generation: Generation, data: dict[str, Any]) -> tuple[TokenizeRequest, bool]:
    refuse_unserved(data, wire.UNSERVED_IN_TOKENIZE_CHAT)
    refuse_what_is_not_text(data)
    fields = validate(wire.TokenizeChat, data)
    request = TokenizeRequest(
        model=named_or_only(generation, fields.model),
        messages=chat_messages(fields.messages),
        tools=tools_of([tool.function for tool in fields.tools or ()]),
        templating=templating(fields, fields.chat_template_kwargs or {}),
    )
    return request, bool(fields.return_token_strs)
