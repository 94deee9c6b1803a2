"""From a Responses request's body to what the runtime is asked: pure, and every refusal names its field."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel

from thaloom.base.errors import BadParameter, ThaloomError
from thaloom.base.ids import RequestId
from thaloom.edge.api.openai.kept.responses.items import Item, kept_items, messages
from thaloom.edge.api.openai.retention import pins
from thaloom.edge.api.routes.fields import validate
from thaloom.edge.api.routes.generation import Wanted
from thaloom.edge.wire.responses import (
    ITEM_TYPES,
    AllowedTools,
    ChosenTool,
    FunctionTool,
    InputTokensRequest,
    JsonObjectFormat,
    JsonSchemaFormat,
    Reasoning,
    ResponsesRequest,
    TextConfig,
)
from thaloom.work.runtime.types import (
    ChatMessage,
    Constraint,
    GenerateRequest,
    Templating,
    TokenizeRequest,
    Tool,
    ToolUse,
)

M = TypeVar("M", bound=BaseModel)
TEXT_PARTS = frozenset({"input_text", "output_text", "text", "refusal", "summary_text", "reasoning_text"})
LOGPROBS = "message.output_text.logprobs"
REFUSED: dict[str, str] = {
    "conversation": "conversations are not kept here; use previous_response_id",
    "prompt": "prompt templates are not kept here; send the prompt itself",
    "context_management": "nothing is ever compacted or left out here",
    "moderation": "nothing is moderated here",
}
"""Fields that ask for what nobody here does, and why; null, {} and [] ask for nothing."""


_CALLERS_WORDS = {"messages": "input", "max_tokens": "max_output_tokens"}


def param_of(error: ThaloomError) -> str | None:
    """What is at fault, in this protocol's word: the runtime names it in its own."""
    return None if error.param is None else _CALLERS_WORDS.get(error.param, error.param)


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponseWanted(Wanted):
    """A response: what was asked, in the forms it is told and kept in."""

    asked: ResponsesRequest
    items: list[Item]
    """What was said in this request alone."""
    store: bool


def read(data: dict[str, Any]) -> ResponsesRequest:
    """Raises BadParameter."""
    _refuse_hosted(data)
    asked = validate(ResponsesRequest, data)
    if asked.background and asked.store is False:
        raise BadParameter("store: a response made in the background can only be had where it is kept", param="store")
    _use_of_tools(asked.tools, asked.tool_choice)
    return asked


def wanted(asked: ResponsesRequest, request_id: RequestId, *, before: Sequence[Item] = ()) -> ResponseWanted:
    """What to generate. `before`: the items of the responses this one builds upon. Raises BadParameter."""
    items = kept_items(asked.input)
    tools, use, forced = _use_of_tools(asked.tools, asked.tool_choice)
    request = GenerateRequest(
        id=RequestId(f"{request_id}-0"),
        model=asked.model,
        messages=_messages(asked.instructions, [*before, *items]),
        max_tokens=asked.max_output_tokens,
        sampling_changes=_sampling_changes(asked),
        logprobs=_logprobs(asked),
        tools=tools,
        tool_use=use,
        forced_tool=forced,
        parallel_tool_calls=asked.parallel_tool_calls is not False,
        constraint=None if use == "required" else _constraint(asked.text),
        templating=_templating(asked.reasoning),
        pins=pins(asked.prompt_cache_retention),
    )
    return ResponseWanted(
        id=request_id,
        model=asked.model,
        requests=(request,),
        stream=bool(asked.stream),
        asked=asked,
        items=items,
        store=asked.store is not False,
    )


def read_tokens(data: dict[str, Any]) -> InputTokensRequest:
    """Raises BadParameter."""
    _refuse_hosted(data)
    asked = validate(InputTokensRequest, data)
    _use_of_tools(asked.tools, asked.tool_choice)
    return asked


def to_tokenize(asked: InputTokensRequest, *, before: Sequence[Item] = ()) -> TokenizeRequest:
    tools, _, _ = _use_of_tools(asked.tools, asked.tool_choice)
    items = [*before, *kept_items(asked.input)]
    return TokenizeRequest(
        model=asked.model,
        messages=_messages(asked.instructions, items),
        tools=tools,
        templating=_templating(asked.reasoning),
    )


def _messages(instructions: str | None, items: Sequence[Item]) -> tuple[ChatMessage, ...]:
    found = messages(instructions, items)
    if not found:
        raise BadParameter("input: nothing in it is said to the model", param="input")
    return found


def _refuse_hosted(data: dict[str, Any]) -> None:
    """Complain about what is known and not done here in words that say so, rather than as of a wrong type. A message
    may come without its type; it gets one here."""
    for name, reason in REFUSED.items():
        if data.get(name) not in (None, [], {}):
            raise BadParameter(f"{name}: {reason}", param=name)
    if data.get("truncation") == "auto":
        raise BadParameter(
            "truncation: nothing is ever left out of a prompt here; one that is too long is refused", param="truncation"
        )
    tools = data.get("tools")
    for index, tool in enumerate(tools if isinstance(tools, list) else []):
        if isinstance(tool, dict) and isinstance(kind := tool.get("type"), str) and kind != "function":
            raise _hosted(f"tools[{index}].type", kind)
    choice = data.get("tool_choice")
    if isinstance(choice, dict) and choice.get("type") not in ("function", "allowed_tools", None):
        raise _hosted("tool_choice.type", str(choice["type"]))
    if isinstance(data.get("input"), list):
        data["input"] = [_typed(index, item) for index, item in enumerate(data["input"])]


def _typed(index: int, item: Any) -> Any:
    if not isinstance(item, dict):
        return item
    kind = item.get("type", "message")
    if isinstance(kind, str) and kind not in ITEM_TYPES:
        raise BadParameter(
            f"input[{index}].type: items of type {kind!r} are not served here (served: {', '.join(ITEM_TYPES)})",
            param=f"input[{index}].type",
        )
    content = item.get("content")
    for place, part in enumerate(content if isinstance(content, list) else []):
        if isinstance(part, dict) and isinstance(part.get("type"), str) and part["type"] not in TEXT_PARTS:
            raise BadParameter(
                f"input[{index}].content[{place}].type: {part['type']!r} is not served here, only text",
                param=f"input[{index}].content[{place}].type",
            )
    return item | {"type": kind}


def _hosted(param: str, kind: str) -> BadParameter:
    return BadParameter(f"{param}: {kind!r} is not served here; only functions of the caller are", param=param)


def _use_of_tools(
    tools: Sequence[FunctionTool] | None, choice: str | ChosenTool | AllowedTools | None
) -> tuple[tuple[Tool, ...], ToolUse, str | None]:
    """The tools the model may call, whether it must, and which one it must."""
    by_name = {tool.name: _tool(tool) for tool in tools or ()}
    if len(by_name) < len(tools or ()):
        raise BadParameter("tools: two functions have the same name", param="tools")
    if isinstance(choice, AllowedTools):
        for index, allowed in enumerate(choice.tools):
            _must_be_there(allowed.name, by_name, f"tool_choice.tools[{index}].name")
        names = {allowed.name for allowed in choice.tools}
        return tuple(tool for tool in by_name.values() if tool.name in names), choice.mode, None
    everything = tuple(by_name.values())
    if isinstance(choice, ChosenTool):
        _must_be_there(choice.name, by_name, "tool_choice.name")
        return everything, "required", choice.name
    if choice == "required":
        if not by_name:
            raise BadParameter("tool_choice: a call is required, and there are no tools", param="tool_choice")
        return everything, "required", None
    return everything, "none" if choice == "none" else "auto", None


def _must_be_there(name: str, by_name: Mapping[str, Tool], param: str) -> None:
    if name not in by_name:
        raise BadParameter(f"{param}: there is no function {name!r} among the tools", param=param)


def _tool(tool: FunctionTool) -> Tool:
    return Tool(
        name=tool.name,
        description=tool.description,
        parameters=tool.parameters or {},
        strict=bool(tool.strict),
    )


def _constraint(text: TextConfig | None) -> Constraint | None:
    form = None if text is None else text.format
    if isinstance(form, JsonSchemaFormat):
        schema = json.dumps(form.schema_, ensure_ascii=False)
        return Constraint(kind="json_schema", text=schema, param="text.format.schema")
    return Constraint(kind="json_object", param="text.format") if isinstance(form, JsonObjectFormat) else None


def _templating(reasoning: Reasoning | None) -> Templating:
    """How much a model is to think is for its template to say; the two names are those templates use."""
    effort = None if reasoning is None else reasoning.effort
    if effort is None:
        return Templating()
    return Templating(variables={"reasoning_effort": effort, "enable_thinking": effort != "none"})


def _logprobs(asked: ResponsesRequest) -> int | None:
    if LOGPROBS in (asked.include or ()):
        return asked.top_logprobs or 0
    return asked.top_logprobs or None


def _sampling_changes(asked: ResponsesRequest) -> dict[str, Any]:
    changes: dict[str, Any] = {}
    for name in ("temperature", "top_p", "min_p", "frequency_penalty", "presence_penalty", "repetition_penalty"):
        if (value := getattr(asked, name)) is not None:
            changes[name] = float(value)
    if asked.top_k is not None:
        changes["top_k"] = max(asked.top_k, 0)
    if asked.seed is not None:
        changes["seed"] = asked.seed
    return changes
