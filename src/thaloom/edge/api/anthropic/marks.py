"""What of a prompt is to stay in the cache of prefixes, as its marks say.

Marks are counted as the protocol does: of tools, of what the system is told, of messages, and one of the whole. A mark
on a tool keeps what the system is told as well, which templates write before the tools or behind them.
Source: Anthropic's guide "Prompt caching".
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

from thaloom.base.errors import BadParameter
from thaloom.edge.api.anthropic.turns import Marked, system_text
from thaloom.edge.wire.anthropic import MAX_MARKS, CacheControl, Prompt
from thaloom.work.runtime.types import ChatMessage, Mark, Pin

_SECONDS = {"5m": 300.0, "1h": 3600.0}


def pins(fields: Prompt, turns: Sequence[ChatMessage], marks: Sequence[Marked]) -> tuple[Pin, ...]:
    """`marks`: of the messages, which are the last of `turns`; before them is what the system is told, if anything.
    Raises BadParameter."""
    num_before = 1 if fields.system and system_text(fields.system) else 0
    found = [_pin(control, mark) for control, mark in (*_of_tools(fields, turns), *_of_system(fields))]
    found += [
        _pin(control, dataclasses.replace(mark, num_messages=mark.num_messages + num_before)) for control, mark in marks
    ]
    if fields.cache_control is not None:
        found.append(_pin(fields.cache_control, None))
    if len(found) > MAX_MARKS:
        raise BadParameter(
            f"cache_control: at most {MAX_MARKS} places may be marked, not {len(found)}", param="cache_control"
        )
    return tuple(found)


def _pin(control: CacheControl, mark: Mark | None) -> Pin:
    return Pin(seconds=_SECONDS[control.ttl or "5m"], mark=mark)


def _of_tools(fields: Prompt, turns: Sequence[ChatMessage]) -> Iterator[Marked]:
    num_told = next((index for index, turn in enumerate(turns) if turn.role != "system"), len(turns))
    for index, tool in enumerate(fields.tools or ()):
        if tool.cache_control is not None:
            yield tool.cache_control, Mark(num_tools=index + 1, num_messages=num_told)


def _of_system(fields: Prompt) -> Iterator[Marked]:
    blocks = () if fields.system is None or isinstance(fields.system, str) else fields.system
    for index, block in enumerate(blocks):
        if block.cache_control is not None:
            yield block.cache_control, Mark(num_characters=len(system_text(blocks[: index + 1])))
