"""From a request in our own words to the body an engine takes: pure. What the engine cannot do is refused by name."""

from __future__ import annotations

import json
from typing import Any

from thaloom.base.errors import BadParameter
from thaloom.work.runtime.engines.kinds import Extra, Kind
from thaloom.work.runtime.types import ChatMessage, Constraint, EmbedRequest, GenerateRequest, Tool

CHAT, COMPLETIONS, EMBEDDINGS = "/chat/completions", "/completions", "/embeddings"
_STANDARD = ("temperature", "top_p", "frequency_penalty", "presence_penalty")
_NEUTRAL: dict[str, Any] = {"top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0, "logit_bias": (), "seed": None}


def question(request: GenerateRequest, kind: Kind, model: str) -> tuple[str, dict[str, Any]]:
    """Path and body, always of a stream: a whole answer is made of one. Raises BadParameter naming what
    `kind` lacks."""
    body: dict[str, Any] = {"model": model, "stream": True, "stream_options": {"include_usage": True}}
    body |= _sampling(request, kind) | _ends(request, kind)
    if request.messages is None:
        return COMPLETIONS, body | _completion(request)
    return CHAT, body | _chat(request, kind)


def embedding_question(request: EmbedRequest, model: str) -> dict[str, Any]:
    """Raises BadParameter for a pooling by name: how the engine pools is its own business."""
    if request.pooling is not None:
        raise BadParameter("a foreign engine pools in its own way; 'pooling' cannot be chosen", param="pooling")
    given = request.text if request.text is not None else list(request.tokens or ())
    return {"model": model, "input": given, "encoding_format": "float"}


def _sampling(request: GenerateRequest, kind: Kind) -> dict[str, Any]:
    """Only what the caller set: the rest is the engine's, as our own default is the model's."""
    wanted: dict[str, Any] = {}
    if request.sampling is not None:
        names = (*_STANDARD, *_NEUTRAL)
        wanted = {name: getattr(request.sampling, name) for name in names}
    wanted |= request.sampling_changes
    body = {name: wanted[name] for name in _STANDARD if name in wanted}
    if wanted.get("seed") is not None:
        body["seed"] = wanted["seed"] % (kind.most_seed + 1)
    if wanted.get("logit_bias"):
        body["logit_bias"] = {str(token): bias for token, bias in wanted["logit_bias"]}
    for name in ("top_k", "min_p"):
        if name in wanted:
            _extra(body, kind, name, wanted[name], neutral=_NEUTRAL[name])
    if body.get("top_k") == 0 and kind.name == "vllm":
        body["top_k"] = -1  # its word for all
    if "repetition_penalty" in wanted and kind.repetition is not None:
        body[kind.repetition] = wanted["repetition_penalty"]
    elif wanted.get("repetition_penalty", 1.0) != 1.0:
        raise lacking(kind, "repetition_penalty")
    return body


def _ends(request: GenerateRequest, kind: Kind) -> dict[str, Any]:
    body: dict[str, Any] = {}
    if request.max_tokens is not None:
        body["max_tokens"] = request.max_tokens
    if request.stop:
        body["stop"] = list(request.stop)
    _extra(body, kind, "stop_token_ids", list(request.stop_tokens), neutral=[])
    _extra(body, kind, "include_stop_str_in_output", request.include_stop, neutral=False)
    _extra(body, kind, "min_tokens", request.min_tokens, neutral=0)
    _extra(body, kind, "ignore_eos", request.ignore_eos, neutral=False)
    _extra(body, kind, "cache_salt", request.cache_salt, neutral="")
    _extra(body, kind, "skip_special_tokens", not request.show_special_tokens, neutral=True)
    if request.constraint is not None:
        body |= _constraint(request.constraint, kind)
    return body


def _completion(request: GenerateRequest) -> dict[str, Any]:
    body: dict[str, Any] = {
        "prompt": request.prompt if request.prompt is not None else list(request.prompt_tokens or ())
    }
    if request.logprobs is not None:
        body["logprobs"] = request.logprobs
    if request.echo and (request.logprobs is not None or request.prompt is None):
        raise BadParameter("a foreign engine echoes a prompt in text only, and without logprobs", param="echo")
    if request.max_tokens is None:
        body["max_tokens"] = None  # left out, it would be 16: the protocol's own default
    if request.max_tokens == 0:
        raise BadParameter("a foreign engine gives at least one token", param="max_tokens")
    return body


def _chat(request: GenerateRequest, kind: Kind) -> dict[str, Any]:
    body: dict[str, Any] = {"messages": [_message(message) for message in request.messages or ()]}
    if request.logprobs is not None:
        body |= {"logprobs": True} | ({"top_logprobs": request.logprobs} if request.logprobs else {})
    _extra(body, kind, "chat_template_kwargs", dict(request.templating.variables), neutral={})
    _extra(body, kind, "add_generation_prompt", request.templating.add_generation_prompt, neutral=True)
    _extra(body, kind, "continue_final_message", request.templating.continue_final_message, neutral=False)
    if not request.separate_reasoning:
        raise lacking(kind, "separate_reasoning", "what the model thinks aloud always comes apart")
    if not request.tools:
        return body
    if not kind.tools:
        raise lacking(kind, "tools")
    body["tools"] = [_tool(tool) for tool in request.tools]
    body["tool_choice"] = request.tool_use
    if request.forced_tool is not None:
        body["tool_choice"] = {"type": "function", "function": {"name": request.forced_tool}}
    if not request.parallel_tool_calls:
        body["parallel_tool_calls"] = False
    return body


def _message(message: ChatMessage) -> dict[str, Any]:
    """Arguments of calls are objects with us, JSON in a string in the protocol."""
    extra = dict(message.extra)
    if "tool_calls" in extra:
        extra["tool_calls"] = [_call(call) for call in extra["tool_calls"]]
    return {"role": message.role, "content": message.content} | extra


def _call(call: dict[str, Any]) -> dict[str, Any]:
    function = call.get("function", {})
    arguments = function.get("arguments", "")
    if not isinstance(arguments, str):
        arguments = json.dumps(arguments, ensure_ascii=False)
    return call | {"function": function | {"arguments": arguments}}


def _tool(tool: Tool) -> dict[str, Any]:
    function: dict[str, Any] = {"name": tool.name, "parameters": tool.parameters or {"type": "object"}}
    if tool.description is not None:
        function["description"] = tool.description
    if tool.strict:
        function["strict"] = True
    return {"type": "function", "function": function}


def _constraint(constraint: Constraint, kind: Kind) -> dict[str, Any]:
    if constraint.kind not in kind.constraints:
        raise lacking(kind, constraint.param, f"no constraint of the kind {constraint.kind}")
    if constraint.kind == "json_object":
        return {"response_format": {"type": "json_object"}}
    if constraint.kind == "json_schema":
        schema = json.loads(constraint.text)
        if kind.most_sequences == 1:  # llama-cpp-python's own form
            return {"response_format": {"type": "json_object", "schema": schema}}
        named = {"name": "answer", "schema": schema, "strict": True}
        return {"response_format": {"type": "json_schema", "json_schema": named}}
    if constraint.kind == "regex":
        return {"structured_outputs": {"regex": constraint.text}}
    if constraint.kind == "choice":
        choices = json.loads(constraint.text)
        if kind.name == "vllm":
            return {"structured_outputs": {"choice": choices}}
        return {"grammar": "root ::= " + " | ".join(_gbnf_literal(choice) for choice in choices)}
    return {"grammar": constraint.text}


def _gbnf_literal(text: str) -> str:
    """Source: llama.cpp, grammars/README.md, "Terminals"."""
    escaped = "".join(
        character if character.isprintable() and character not in '"\\' else f"\\U{ord(character):08X}"
        for character in text
    )
    return f'"{escaped}"'


def _extra(body: dict[str, Any], kind: Kind, name: Extra, value: Any, *, neutral: Any) -> None:
    """Put a field beyond the protocol, if it says anything."""
    if name in kind.extras:
        if value != neutral or name in ("top_k", "min_p"):
            body[name] = value
    elif value != neutral:
        raise lacking(kind, name)


def lacking(kind: Kind, param: str, why: str = "") -> BadParameter:
    more = f": {why}" if why else ""
    return BadParameter(f"engine {kind.name!r} does not do {param!r}{more}", param=param)
