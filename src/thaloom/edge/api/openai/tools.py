"""Which tools a chat's answer may call, and whether it must: `tools`, `tool_choice`, and what was before them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from thaloom.base.errors import BadParameter
from thaloom.edge.wire.openai_messages import AllowedToolsChoice, FunctionDefinition, NamedTool
from thaloom.edge.wire.openai_requests import ChatRequest
from thaloom.work.runtime.types import Tool, ToolUse


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolWish:
    tools: tuple[Tool, ...] = ()
    use: ToolUse = "auto"
    forced: str | None = None
    parallel: bool = True
    as_functions: bool = False
    """The client knows one `function_call` and no `tool_calls`."""

    @property
    def may_call(self) -> bool:
        return bool(self.tools) and self.use != "none"


def tool_wish(fields: ChatRequest) -> ToolWish:
    """Raises BadParameter."""
    if fields.functions is not None or fields.function_call is not None:
        return _functions(fields)
    tools = tools_of([tool.function for tool in fields.tools or ()])
    parallel = fields.parallel_tool_calls is not False
    choice = fields.tool_choice
    if isinstance(choice, NamedTool):
        name = choice.function.name
        _check_known(name, tools, "tool_choice.function.name", "tools")
        return ToolWish(tools=tools, use="required", forced=name, parallel=parallel)
    if isinstance(choice, AllowedToolsChoice):
        allowed = {tool.function.name for tool in choice.allowed_tools.tools}
        for index, tool in enumerate(choice.allowed_tools.tools):
            where = f"tool_choice.allowed_tools.tools[{index}].function.name"
            _check_known(tool.function.name, tools, where, "tools")
        tools = tuple(tool for tool in tools if tool.name in allowed)
        return ToolWish(tools=tools, use=choice.allowed_tools.mode, parallel=parallel)
    if choice == "required" and not tools:
        raise BadParameter("tool_choice: a tool must be called, and there are none in tools", param="tool_choice")
    return ToolWish(tools=tools, use=choice or "auto", parallel=parallel)


def _functions(fields: ChatRequest) -> ToolWish:
    if fields.tools is not None or fields.tool_choice is not None:
        param = "functions" if fields.functions is not None else "function_call"
        raise BadParameter(f"{param} is the older word for tools; only one of both may be given", param=param)
    tools = tools_of(fields.functions or ())
    choice = fields.function_call
    if choice is None or isinstance(choice, str):
        return ToolWish(tools=tools, use=choice or "auto", parallel=False, as_functions=True)
    _check_known(choice.name, tools, "function_call.name", "functions")
    return ToolWish(tools=tools, use="required", forced=choice.name, parallel=False, as_functions=True)


def tools_of(functions: Sequence[FunctionDefinition]) -> tuple[Tool, ...]:
    return tuple(
        Tool(
            name=function.name,
            description=function.description,
            parameters=function.parameters or {},
            strict=bool(function.strict),
        )
        for function in functions
    )


def _check_known(name: str, tools: Sequence[Tool], param: str, where: str) -> None:
    if all(tool.name != name for tool in tools):
        raise BadParameter(f"{param}: there is no {name!r} in {where}", param=param)
