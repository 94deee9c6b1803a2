"""What a chat consists of, as the OpenAI protocol has it: turns, their parts, tools and which of them to call.

Source: OpenAI's API reference, `chat/completions`; of a turn `reasoning_content` as DeepSeek's API has it, `reasoning`
as vLLM has it.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, JsonValue

from thaloom.edge.wire.common import Ask

MAX_TOOLS = 128
FunctionName = Annotated[str, Field(min_length=1, max_length=64, pattern="^[a-zA-Z0-9_-]+$")]


class TextPart(Ask):
    type: Literal["text"]
    text: str


class RefusalPart(Ask):
    type: Literal["refusal"]
    refusal: str


class Turn(Ask):
    name: str | None = None


class SystemMessage(Turn):
    role: Literal["system", "developer"]
    content: str | list[TextPart]


class UserMessage(Turn):
    role: Literal["user"]
    content: str | list[TextPart]


class PastFunction(Ask):
    name: str = Field(min_length=1, max_length=256)
    arguments: str
    """JSON, as the model wrote it."""


class ToolCall(Ask):
    id: str
    type: Literal["function"] = "function"
    function: PastFunction


_ONE_OF_THESE: list[JsonValue] = [
    {"required": ["content"], "properties": {"content": {"type": ["string", "array"]}}},
    {"required": ["refusal"], "properties": {"refusal": {"type": "string"}}},
    {"required": ["tool_calls"], "properties": {"tool_calls": {"type": "array", "minItems": 1}}},
    {"required": ["function_call"], "properties": {"function_call": {"type": "object"}}},
]


class AssistantMessage(Turn):
    model_config = ConfigDict(json_schema_extra={"anyOf": _ONE_OF_THESE})
    role: Literal["assistant"]
    content: str | list[Annotated[TextPart | RefusalPart, Field(discriminator="type")]] | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[ToolCall] | None = Field(default=None, max_length=MAX_TOOLS)
    function_call: PastFunction | None = None


class ToolMessage(Turn):
    role: Literal["tool"]
    tool_call_id: str
    content: str | list[TextPart]


class FunctionMessage(Ask):
    """What a function said, before there were tools."""

    role: Literal["function"]
    name: str = Field(min_length=1, max_length=256)
    content: str | None


Message = Annotated[
    SystemMessage | UserMessage | AssistantMessage | ToolMessage | FunctionMessage, Field(discriminator="role")
]


class FunctionDefinition(Ask):
    name: FunctionName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    """JSON schema of an object; null: no arguments are described."""
    strict: bool | None = None
    """Arguments are held to the schema even where the model chooses by itself to call."""


class FunctionTool(Ask):
    type: Literal["function"]
    function: FunctionDefinition


class NamedFunction(Ask):
    name: str


class NamedTool(Ask):
    """This one must be called; in a list of allowed ones: this one may."""

    type: Literal["function"]
    function: NamedFunction


class AllowedTools(Ask):
    mode: Literal["auto", "required"]
    tools: list[NamedTool] = Field(min_length=1, max_length=MAX_TOOLS)


class AllowedToolsChoice(Ask):
    type: Literal["allowed_tools"]
    allowed_tools: AllowedTools


ToolChoice = (
    Literal["none", "auto", "required"] | Annotated[NamedTool | AllowedToolsChoice, Field(discriminator="type")]
)
FunctionChoice = Literal["none", "auto"] | NamedFunction
