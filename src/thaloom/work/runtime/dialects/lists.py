"""Calls as JSON objects between, or behind, marks of a family's own."""

from __future__ import annotations

from thaloom.base.plugins import Manifest, Plugin
from thaloom.work.runtime.dialects import Dialect
from thaloom.work.runtime.dialects.blocks import ObjectBlocks, ObjectForm

_PYTHON_TAG = "<|python_tag|>"


def _plugin(form: ObjectForm, summary: str, provides: tuple[str, ...]) -> Plugin[Dialect]:
    manifest = Manifest(kind="dialect", name=form.name, version="1", summary=summary, provides=provides)
    return Plugin(manifest=manifest, factory=lambda: ObjectBlocks(form))


LLAMA = _plugin(
    ObjectForm(name="llama", begins=(_PYTHON_TAG,), arguments="parameters", bare=True, between="; "),
    "Llama 3.1 to 3.3: the answer is a JSON object with name and parameters",
    ('"parameters": dictionary of argument name',),
)
"""Source: meta-llama/llama-models, models/llama3_1/prompt_format.md; the templates of 3.1 and 3.2."""

GRANITE3 = _plugin(
    ObjectForm(name="granite3", begins=("<|tool_call|>",), listed=True),
    "Granite 3: a JSON list behind <|tool_call|>",
    ("<|tool_call|>",),
)
"""Source: ibm-granite/granite-3.3-2b-instruct, chat template."""

PHI4_MINI = _plugin(
    ObjectForm(name="phi4-mini", begins=("<|tool_call|>",), end="<|/tool_call|>", blocks_between="<|tool_call|>"),
    "Phi-4-mini: JSON objects between <|tool_call|> marks",
    ("<|tool_call|>", "<|/tool_call|>"),
)
"""Source: ggml-org/llama.cpp, models/templates/llama-cpp-microsoft-Phi-4-mini-instruct.jinja."""

TOOL_CALLS = _plugin(
    ObjectForm(name="tool-calls", begins=("<tool_calls>",), end="</tool_calls>", listed=True),
    "Apriel, MiniMax M1: a JSON list, or objects on lines, between <tool_calls> marks",
    ("<tool_calls>",),
)
"""Source: Apriel 1.5 and 1.6, and MiniMaxAI/MiniMax-M1, chat templates."""

NEMOTRON = _plugin(
    ObjectForm(name="nemotron", begins=("<TOOLCALL>",), end="</TOOLCALL>", listed=True),
    "Nemotron: a JSON list between <TOOLCALL> marks",
    ("<TOOLCALL>",),
)
"""Source: nvidia/Llama-3_3-Nemotron-Super-49B-v1_5 and NVIDIA-Nemotron-Nano-v2, chat templates."""
