"""`<tool_call>{"name": ..., "arguments": {...}}</tool_call>`: Hermes 2 and 3, Qwen 2.5, Qwen 3, and many after them.

Source: the models' chat templates; NousResearch/Hermes-Function-Calling.
"""

from __future__ import annotations

from thaloom.base.plugins import Manifest, Plugin
from thaloom.work.runtime.dialects import GENERIC, Dialect
from thaloom.work.runtime.dialects.blocks import ObjectBlocks, ObjectForm

BEGIN, END = "<tool_call>", "</tool_call>"


def _blocks(name: str) -> ObjectBlocks:
    return ObjectBlocks(
        ObjectForm(name=name, begins=(BEGIN,), end=END, before="\n", after="\n", blocks_between=f"\n{BEGIN}")
    )


HERMES: Plugin[Dialect] = Plugin(
    manifest=Manifest(
        kind="dialect", name="hermes", version="1", summary="JSON objects between <tool_call> marks", provides=(BEGIN,)
    ),
    factory=lambda: _blocks("hermes"),
)
TAUGHT: Plugin[Dialect] = Plugin(
    manifest=Manifest(
        kind="dialect",
        name=GENERIC,
        version="1",
        summary="as hermes, but taught in the prompt",
    ),
    factory=lambda: _blocks(GENERIC),
)
