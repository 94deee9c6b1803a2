"""All dialects as pyproject.toml lists them (whatever is installed), what models write in them, and how to hear it."""

from __future__ import annotations

import importlib
import itertools
import json
import tomllib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from thaloom.base.plugins import Registry
from thaloom.work.runtime.dialects import Dialect
from thaloom.work.runtime.dialects.hearing import Hearing
from thaloom.work.runtime.dialects.thinking import Thoughts
from thaloom.work.runtime.dialects.told import Heard
from thaloom.work.runtime.types import Tool

WEATHER = Tool(
    name="get_weather",
    description="How the weather will be.",
    parameters={
        "type": "object",
        "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
        "required": ["city"],
        "additionalProperties": False,
    },
    strict=True,
)
NOW = Tool(name="now", parameters={"type": "object", "properties": {}, "additionalProperties": False})
TOOLS = (WEATHER, NOW)


def registry() -> Registry[Dialect]:
    listed = tomllib.loads(Path("pyproject.toml").read_text("utf-8"))["project"]["entry-points"]["thaloom.dialects"]
    found: Registry[Dialect] = Registry("dialect")
    for name, target in listed.items():
        module, attribute = target.split(":")
        plugin = getattr(importlib.import_module(module), attribute)
        assert plugin.manifest.name == name
        found.add(plugin)
    return found


DIALECTS = registry()
PARIS, NOTHING = {"city": 'Paris, <b>"x"</b>\n{}', "days": 3}, dict[str, Any]()
_PARIS = json.dumps(PARIS)
_CODER = PARIS["city"]

ONE: dict[str, str] = {
    "hermes": f'<tool_call>\n{{"name": "get_weather", "arguments": {_PARIS}}}\n</tool_call>',
    "generic": f'<tool_call>\n{{"name": "get_weather", "arguments": {_PARIS}}}\n</tool_call>',
    "qwen3-coder": f"<tool_call>\n<function=get_weather>\n<parameter=city>\n{_CODER}\n</parameter>\n"
    "<parameter=days>\n3\n</parameter>\n</function>\n</tool_call>",
    "glm": f"<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>{_CODER}</arg_value>\n"
    "<arg_key>days</arg_key>\n<arg_value>3</arg_value>\n</tool_call>",
    "minimax": f'<minimax:tool_call>\n<invoke name="get_weather">\n<parameter name="city">{_CODER}</parameter>\n'
    '<parameter name="days">3</parameter>\n</invoke>\n</minimax:tool_call>',
    "seed-oss": f"<seed:tool_call>\n<function=get_weather>\n<parameter=city>{_CODER}</parameter>\n"
    "<parameter=days>3</parameter>\n</function>\n</seed:tool_call>",
    "tool-calls": f'<tool_calls>[{{"name": "get_weather", "arguments": {_PARIS}}}]</tool_calls>',
    "llama": f'{{"name": "get_weather", "parameters": {_PARIS}}}',
    "granite3": f'<|tool_call|>[{{"name": "get_weather", "arguments": {_PARIS}}}]',
    "phi4-mini": f'<|tool_call|>{{"name": "get_weather", "arguments": {_PARIS}}}<|/tool_call|>',
    "nemotron": f'<TOOLCALL>[{{"name": "get_weather", "arguments": {_PARIS}}}]</TOOLCALL>',
    "mistral": f'[TOOL_CALLS] [{{"name": "get_weather", "arguments": {_PARIS}}}]',
    "mistral-named": f"[TOOL_CALLS]get_weather[ARGS]{_PARIS}",
    "pythonic": f"[get_weather(city={PARIS['city']!r}, days=3)]",
    "lfm2": f"<|tool_call_start|>[get_weather(city={PARIS['city']!r}, days=3)]<|tool_call_end|>",
    "olmo3": f"<function_calls>\nget_weather(city={PARIS['city']!r}, days=3)\n</function_calls>",
    "deepseek": "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>get_weather\n```json\n"
    f"{_PARIS}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
    "deepseek-v3.1": "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>get_weather<｜tool▁sep｜>"
    f"{_PARIS}<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
    "kimi-k2": "<|tool_calls_section_begin|><|tool_call_begin|>functions.get_weather:0<|tool_call_argument_begin|>"
    f"{_PARIS}<|tool_call_end|><|tool_calls_section_end|>",
}
"""One call, as each dialect's models write it."""

TWO: dict[str, str] = {
    "hermes": ONE["hermes"] + '\n<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>',
    "generic": ONE["generic"] + '\n<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>',
    "qwen3-coder": ONE["qwen3-coder"] + "\n<tool_call>\n<function=now>\n</function>\n</tool_call>",
    "glm": ONE["glm"] + "\n<tool_call>now\n</tool_call>",
    "minimax": ONE["minimax"] + '\n<minimax:tool_call>\n<invoke name="now">\n</invoke>\n</minimax:tool_call>',
    "seed-oss": ONE["seed-oss"] + "\n<seed:tool_call>\n<function=now>\n</function>\n</seed:tool_call>",
    "tool-calls": f'<tool_calls>\n{{"name": "get_weather", "arguments": {_PARIS}}}\n'
    '{"name": "now", "arguments": {}}\n</tool_calls>',
    "llama": ONE["llama"] + '; {"name": "now", "parameters": {}}',
    "granite3": ONE["granite3"][:-1] + ', {"name": "now", "arguments": {}}]',
    "phi4-mini": ONE["phi4-mini"] + '<|tool_call|>{"name": "now", "arguments": {}}<|/tool_call|>',
    "nemotron": ONE["nemotron"].replace("]<", ', {"name": "now", "arguments": {}}]<'),
    "mistral": ONE["mistral"][:-1] + ', {"name": "now", "arguments": {}}]',
    "mistral-named": ONE["mistral-named"] + "[TOOL_CALLS]now[ARGS]{}",
    "pythonic": ONE["pythonic"][:-1] + ", now()]",
    "lfm2": ONE["lfm2"].replace("]<", ", now()]<"),
    "olmo3": ONE["olmo3"].replace("\n</f", "\nnow()\n</f"),
    "deepseek": ONE["deepseek"].replace(
        "<｜tool▁calls▁end｜>",
        "\n<｜tool▁call▁begin｜>function<｜tool▁sep｜>now\n```json\n{}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
    ),
    "deepseek-v3.1": ONE["deepseek-v3.1"].replace(
        "<｜tool▁calls▁end｜>", "<｜tool▁call▁begin｜>now<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>"
    ),
    "kimi-k2": ONE["kimi-k2"].replace(
        "<|tool_calls_section_end|>",
        "<|tool_call_begin|>functions.now:1<|tool_call_argument_begin|>{}<|tool_call_end|><|tool_calls_section_end|>",
    ),
}
"""The same, and a second call."""


def numbered() -> Any:
    """An id source that counts."""
    numbers = itertools.count()
    return lambda: f"call_{next(numbers)}"


def hearing(name: str | None, *, tools: Sequence[Tool] = TOOLS, thoughts: Thoughts | None = None) -> Hearing:
    dialect = None if name is None else DIALECTS.create(name)
    return Hearing(dialect=dialect, tools={tool.name: tool for tool in tools}, thoughts=thoughts, new_id=numbered())


def hear(heard: Hearing, pieces: Iterable[str]) -> tuple[str, str, list[tuple[str | None, str]]]:
    """Text, thoughts, and calls as (name, arguments), all joined."""
    parts = [heard.feed(piece) for piece in pieces]
    return joined([*parts, heard.finish()])


def joined(parts: Sequence[Heard]) -> tuple[str, str, list[tuple[str | None, str]]]:
    calls: list[tuple[str | None, str]] = []
    for piece in (piece for part in parts for piece in part.tool_calls):
        if piece.index == len(calls):
            assert piece.id == f"call_{piece.index}"
            calls.append((piece.name, ""))
        else:
            assert piece.id is None
            assert piece.name is None
        name, arguments = calls[piece.index]
        calls[piece.index] = (name, arguments + piece.arguments)
    return "".join(part.text for part in parts), "".join(part.reasoning for part in parts), calls
