"""From an Ollama request's body to what the runtime is asked: pure, and every refusal names its field."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from pydantic import BaseModel

from thaloom.base.errors import BadParameter
from thaloom.base.ids import RequestId
from thaloom.edge.api.routes.fields import validate
from thaloom.edge.api.routes.generation import Wanted
from thaloom.edge.wire.ollama import (
    MAX_STOPS,
    UNSERVED,
    UNSERVED_OPTIONS,
    ChatRequest,
    GenerateRequest,
    GenerationFields,
    Message,
    Options,
)
from thaloom.work.runtime import types

M = TypeVar("M", bound=BaseModel)
_PART = re.compile(r"([0-9]*\.?[0-9]*)(ns|us|µs|μs|ms|s|m|h)")
_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_LONGEST_S = 1e10


@dataclass(frozen=True, slots=True, kw_only=True)
class OllamaWanted(Wanted):
    kind: Literal["chat", "generate"]
    asked: str
    """The model as the client calls it; `model` is what it is served as."""
    load_s: float = 0.0
    """How long it took until the model was there."""
    keep_alive_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Presence:
    """A request with nothing to generate: the model shall be there, or (`keep_alive_s` 0) not."""

    kind: Literal["chat", "generate"]
    model: str
    keep_alive_s: float | None

    @property
    def unload(self) -> bool:
        return self.keep_alive_s == 0


def chat(data: dict[str, Any], request_id: RequestId) -> OllamaWanted | Presence:
    """Raises BadParameter."""
    _refuse_images(data.get("messages"))
    fields = _generation(ChatRequest, data)
    if not fields.messages:
        return Presence(kind="chat", model=fields.model, keep_alive_s=keep_alive_s(fields.keep_alive))
    tools = tuple(
        types.Tool(
            name=tool.function.name,
            description=tool.function.description,
            parameters=tool.function.parameters or {},
        )
        for tool in fields.tools or ()
    )
    return _wanted("chat", request_id, fields, messages=_turns(fields.messages), tools=tools)


def generate(data: dict[str, Any], request_id: RequestId) -> OllamaWanted | Presence:
    """Raises BadParameter."""
    fields = _generation(GenerateRequest, data)
    if not fields.prompt:
        return Presence(kind="generate", model=fields.model, keep_alive_s=keep_alive_s(fields.keep_alive))
    if not fields.raw:
        system = [types.ChatMessage(role="system", content=fields.system)] if fields.system else []
        user = types.ChatMessage(role="user", content=fields.prompt)
        return _wanted("generate", request_id, fields, messages=(*system, user))
    if fields.system:
        raise BadParameter("system: a raw prompt has no template to put it in", param="system")
    return _wanted("generate", request_id, fields, prompt=fields.prompt)


def read(kind: type[M], data: dict[str, Any]) -> M:
    """Raises BadParameter."""
    if data.get("model") in (None, "") and "name" in data and "model" in kind.model_fields:
        data = data | {"model": data["name"]}
    return validate(kind, data)


F = TypeVar("F", bound=GenerationFields)


def _generation(kind: type[F], data: dict[str, Any]) -> F:
    for name, neutral in UNSERVED.items():
        _refuse(name, data.get(name), neutral)
    options = data.get("options")
    for name, neutral in UNSERVED_OPTIONS.items():
        if isinstance(options, Mapping):
            _refuse(f"options.{name}", options.get(name), neutral)
    return read(kind, data)


def _refuse(name: str, value: Any, neutral: tuple[Any, ...]) -> None:
    if value is not None and not any(
        value == one and isinstance(value, bool) == isinstance(one, bool) for one in neutral
    ):
        raise BadParameter(f"{name} is not served here", param=name)


def _refuse_images(messages: Any) -> None:
    for index, message in enumerate(messages if isinstance(messages, list) else ()):
        if isinstance(message, Mapping):
            _refuse(f"messages[{index}].images", message.get("images"), ([],))


def _wanted(
    kind: Literal["chat", "generate"], request_id: RequestId, fields: GenerationFields, **prompt: Any
) -> OllamaWanted:
    options = fields.options or Options()
    num_predict = options.num_predict or 0
    request = types.GenerateRequest(
        id=request_id,
        model=fields.model,
        max_tokens=num_predict if num_predict > 0 else None,
        up_to_context=True,
        sampling_changes=_sampling_changes(options),
        stop=_stops(options.stop),
        logprobs=(fields.top_logprobs or 0) if fields.logprobs else None,
        constraint=_constraint(fields.format),
        templating=types.Templating(variables=_template_variables(fields.think)),
        **prompt,
    )
    return OllamaWanted(
        id=request_id,
        kind=kind,
        model=fields.model,
        asked=fields.model,
        requests=(request,),
        stream=fields.stream is not False,
        keep_alive_s=keep_alive_s(fields.keep_alive),
    )


def _turns(messages: list[Message]) -> tuple[types.ChatMessage, ...]:
    return tuple(
        types.ChatMessage(role=message.role, content=message.content or "", extra=_extra(index, message))
        for index, message in enumerate(messages)
    )


def _extra(index: int, message: Message) -> dict[str, Any]:
    calls = [
        {
            "id": call.id or f"call_{index}_{place}",
            "type": "function",
            "function": {"name": call.function.name, "arguments": call.function.arguments},
        }
        for place, call in enumerate(message.tool_calls or ())
    ]
    found = {
        "reasoning_content": message.thinking,
        "tool_calls": calls,
        "name": message.tool_name,
        "tool_call_id": message.tool_call_id,
    }
    return {name: value for name, value in found.items() if value}


def _constraint(wanted: str | dict[str, Any] | None) -> types.Constraint | None:
    if wanted is None or wanted == "":
        return None
    if wanted == "json":
        return types.Constraint(kind="json_object", param="format")
    return types.Constraint(kind="json_schema", text=json.dumps(wanted, ensure_ascii=False), param="format")


def _template_variables(think: bool | str | None) -> dict[str, Any]:
    if think is None:
        return {}
    variables: dict[str, Any] = {"enable_thinking": bool(think), "thinking": bool(think)}
    if isinstance(think, str):
        variables["reasoning_effort"] = "high" if think == "max" else think
    return variables


_SAME = ("temperature", "top_p", "min_p", "presence_penalty", "frequency_penalty")


def _sampling_changes(options: Options) -> dict[str, float | int]:
    changes: dict[str, float | int] = {}
    for name in _SAME:
        if (value := getattr(options, name)) is not None:
            changes[name] = float(value)
    if options.top_p == 0:
        changes.pop("top_p")  # their engine's way to say: the likeliest token only
        changes["top_k"] = 1
    elif options.top_k is not None:
        changes["top_k"] = max(options.top_k, 0)
    if options.seed not in (None, -1):
        changes["seed"] = options.seed
    penalty = options.repeat_penalty
    if penalty is not None and penalty != 1 and options.repeat_last_n not in (None, -1, 0):
        raise BadParameter(
            "options.repeat_last_n: a penalty looks at the whole text (-1) or is off (0)", param="options.repeat_last_n"
        )
    if options.repeat_last_n == 0:
        penalty = 1.0
    if penalty is not None:
        changes["repetition_penalty"] = float(penalty)
    return changes


def _stops(stop: str | list[str] | None) -> tuple[str, ...]:
    stops = [] if stop is None else [stop] if isinstance(stop, str) else stop
    if len(stops) > MAX_STOPS or any(len(one) > 1000 for one in stops):
        raise BadParameter(f"options.stop: more than {MAX_STOPS} texts, or one of more than 1000 characters",
                           param="options.stop")  # fmt: skip
    return tuple(one for one in stops if one)


def keep_alive_s(said: str | float | None) -> float | None:
    """Seconds of what wire.KeepAlive lets pass; None: nothing was said. Source: Go, time.ParseDuration."""
    if isinstance(said, str):
        size = said.lstrip("+-")
        total = float(size) if size.isdigit() else sum(float(n) * _SECONDS[unit] for n, unit in _PART.findall(size))
        said = -total if said.startswith("-") else total
    return None if said is None else max(-_LONGEST_S, min(_LONGEST_S, float(said)))
