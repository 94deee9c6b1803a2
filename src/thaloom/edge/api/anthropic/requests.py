"""From an Anthropic request's body to what the runtime is asked: pure, and every refusal names its field."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from thaloom.base.errors import BadParameter
from thaloom.base.ids import RequestId
from thaloom.edge.api.anthropic.marks import pins
from thaloom.edge.api.anthropic.turns import conversation, system_text
from thaloom.edge.api.routes.fields import validate
from thaloom.edge.api.routes.generation import Wanted
from thaloom.edge.wire.anthropic import (
    BLOCKS,
    UNSERVED,
    CountTokensRequest,
    MessagesRequest,
    OutputFormat,
    Prompt,
)
from thaloom.work.runtime.types import (
    ChatMessage,
    Constraint,
    GenerateRequest,
    Pin,
    Templating,
    TokenizeRequest,
    Tool,
    ToolUse,
)

P = TypeVar("P", bound=Prompt)
_EFFORTS = {"low": "low", "medium": "medium", "high": "high", "xhigh": "high", "max": "high"}
"""As templates know them."""
_USES: dict[str, ToolUse] = {"auto": "auto", "any": "required", "tool": "required", "none": "none"}


@dataclass(frozen=True, slots=True, kw_only=True)
class AnthropicWanted(Wanted):
    thinking: bool
    """Whether what the model thinks aloud is shown as blocks at all."""
    thinking_text: bool
    """Whether they come with their text."""


def messages(data: dict[str, Any], request_id: RequestId) -> AnthropicWanted:
    """Raises BadParameter."""
    fields = _validate(MessagesRequest, data)
    _check_thinking(fields)
    prompt, kept = _prompt(fields)
    choice = fields.tool_choice
    request = GenerateRequest(
        id=request_id,
        model=fields.model,
        messages=prompt.messages,
        max_tokens=fields.max_tokens,
        up_to_context=True,
        sampling_changes=_sampling_changes(fields),
        stop=tuple(fields.stop_sequences or ()),
        tools=prompt.tools,
        tool_use=_USES[choice.type] if choice is not None else "auto",
        forced_tool=_forced_tool(fields),
        parallel_tool_calls=choice is None or not choice.disable_parallel_tool_use,
        constraint=_constraint(fields),
        templating=prompt.templating,
        pins=kept,
    )
    thinking = fields.thinking
    return AnthropicWanted(
        id=RequestId(request_id.replace("-", "_", 1)),
        model=fields.model,
        requests=(request,),
        stream=bool(fields.stream),
        thinking=thinking is not None and thinking.type != "disabled",
        thinking_text=thinking is None or thinking.display != "omitted",
    )


def count_tokens(data: dict[str, Any]) -> TokenizeRequest:
    """Raises BadParameter."""
    fields = _validate(CountTokensRequest, data)
    _forced_tool(fields)
    prompt, _ = _prompt(fields)
    return prompt


def _validate(kind: type[P], data: dict[str, Any]) -> P:
    for name, neutral in UNSERVED.items():
        if (value := data.get(name)) is not None and value not in neutral:
            raise BadParameter(f"{name} is not served here", param=name)
    _refuse_thread(data.get("thread"))
    _refuse_unserved_blocks(data.get("messages"), "messages")
    _refuse_unserved_tools(data.get("tools"))
    return validate(kind, data)


def _refuse_thread(thread: Any) -> None:
    """With the protocol's own code, at which clients go on without one: they have all of the conversation."""
    if thread is not None:
        raise BadParameter(
            "thread: conversations are not kept here; send all of it",
            param="thread",
            error_code="thread_unsupported_request",
        )


def _refuse_unserved_blocks(messages: Any, name: str) -> None:
    """By name: a validator would only list what else there is."""
    for index, message in enumerate(messages if isinstance(messages, list) else ()):
        content = message.get("content") if isinstance(message, Mapping) else None
        for place, block in enumerate(content if isinstance(content, list) else ()):
            where = f"{name}[{index}].content[{place}]"
            _refuse_unserved_block(block, where, BLOCKS)
            inner = block.get("content") if isinstance(block, Mapping) else None
            for number, part in enumerate(inner if isinstance(inner, list) else ()):
                _refuse_unserved_block(part, f"{where}.content[{number}]", ("text",))


def _refuse_unserved_block(block: Any, where: str, served: tuple[str, ...]) -> None:
    kind = block.get("type") if isinstance(block, Mapping) else None
    if isinstance(kind, str) and kind not in served:
        raise BadParameter(f"{where}: a block of type {kind!r} is not served here (served: {', '.join(served)})",
                           param=f"{where}.type")  # fmt: skip


def _refuse_unserved_tools(tools: Any) -> None:
    for index, tool in enumerate(tools if isinstance(tools, list) else ()):
        kind = tool.get("type") if isinstance(tool, Mapping) else None
        if isinstance(kind, str) and kind != "custom":
            raise BadParameter(
                f"tools[{index}]: {kind!r} is a tool of Anthropic's own; only tools with an input_schema are served",
                param=f"tools[{index}].type",
            )


def _prompt(fields: Prompt) -> tuple[TokenizeRequest, tuple[Pin, ...]]:
    """What both routes have in common is what is tokenised, and what of it is to stay."""
    said = conversation(fields.messages)
    turns, goes_on = said.turns, said.goes_on
    if fields.system and (text := system_text(fields.system)):
        turns = [ChatMessage(role="system", content=text), *turns]
    templating = Templating(
        variables=_template_variables(fields), add_generation_prompt=not goes_on, continue_final_message=goes_on
    )
    asked = TokenizeRequest(model=fields.model, messages=tuple(turns), tools=_tools(fields), templating=templating)
    return asked, pins(fields, turns, said.marks)


def _tools(fields: Prompt) -> tuple[Tool, ...]:
    names: set[str] = set()
    for index, tool in enumerate(fields.tools or ()):
        if tool.name in names:
            raise BadParameter(f"tools[{index}].name: {tool.name!r} is there twice", param=f"tools[{index}].name")
        names.add(tool.name)
    return tuple(
        Tool(name=tool.name, description=tool.description, parameters=tool.input_schema, strict=bool(tool.strict))
        for tool in fields.tools or ()
    )


def _forced_tool(fields: Prompt) -> str | None:
    choice = fields.tool_choice
    if choice is None or choice.type in ("auto", "none"):
        return None
    if not fields.tools:
        raise BadParameter("tool_choice wants a tool to be used, but there are no tools", param="tool_choice")
    if fields.thinking is not None and fields.thinking.type == "enabled":
        raise BadParameter("tool_choice: a tool cannot be demanded while thinking is enabled", param="tool_choice")
    if choice.type == "any":
        return None
    if choice.name not in {tool.name for tool in fields.tools}:
        raise BadParameter(f"tool_choice.name: there is no tool {choice.name!r}", param="tool_choice.name")
    return choice.name


def _check_thinking(fields: MessagesRequest) -> None:
    thinking = fields.thinking
    if thinking is None or thinking.type != "enabled":
        return
    if thinking.budget_tokens is None:
        raise BadParameter("thinking.budget_tokens: Field required", param="thinking.budget_tokens")
    if thinking.budget_tokens >= fields.max_tokens:
        raise BadParameter(
            f"thinking.budget_tokens: {thinking.budget_tokens} must be less than max_tokens, {fields.max_tokens}",
            param="thinking.budget_tokens",
        )


def _template_variables(fields: Prompt) -> dict[str, Any]:
    """A model is only asked to think where the client has asked for it: clients of this protocol that have not take the
    first block for the answer."""
    kind = "disabled" if fields.thinking is None else fields.thinking.type
    variables: dict[str, Any] = {}
    if kind in ("enabled", "disabled"):
        variables["enable_thinking"] = variables["thinking"] = kind == "enabled"
    if fields.thinking is not None and fields.thinking.budget_tokens is not None:
        variables["thinking_budget"] = fields.thinking.budget_tokens
    effort = None if fields.output_config is None else fields.output_config.effort
    if effort is not None:
        variables["reasoning_effort"] = _EFFORTS[effort]
    return variables


def _constraint(fields: Prompt) -> Constraint | None:
    wanted: OutputFormat | None = None if fields.output_config is None else fields.output_config.format
    param = "output_format" if wanted is None else "output_config.format"
    wanted = wanted or fields.output_format
    if wanted is None:
        return None
    if fields.tool_choice is not None and fields.tool_choice.type in ("any", "tool"):
        raise BadParameter("tool_choice: a tool cannot be demanded together with an output format", param="tool_choice")
    return Constraint(kind="json_schema", text=json.dumps(wanted.json_schema, ensure_ascii=False), param=param)


def _sampling_changes(fields: MessagesRequest) -> dict[str, float | int]:
    changes: dict[str, float | int] = {}
    for name in ("temperature", "top_p"):
        if (value := getattr(fields, name)) is not None:
            changes[name] = float(value)
    if fields.top_k is not None:
        changes["top_k"] = fields.top_k
    return changes
