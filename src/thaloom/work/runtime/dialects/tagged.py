"""Families that write calls as tags: Qwen3-Coder, GLM 4.5 on, Seed-OSS, MiniMax M2.

Source: the chat templates of Qwen/Qwen3-Coder-480B-A35B-Instruct, zai-org/GLM-4.6, ByteDance-Seed/Seed-OSS-36B-Instruct
and MiniMaxAI/MiniMax-M2.
"""

from __future__ import annotations

from thaloom.base.plugins import Manifest, Plugin
from thaloom.work.runtime.dialects import Dialect
from thaloom.work.runtime.dialects.tag_calls import TaggedCalls, Tags


def _plugin(name: str, tags: Tags, summary: str, provides: tuple[str, ...]) -> Plugin[Dialect]:
    manifest = Manifest(kind="dialect", name=name, version="1", summary=summary, provides=provides)
    return Plugin(manifest=manifest, factory=lambda: TaggedCalls(name, tags))


QWEN3_CODER = _plugin(
    "qwen3-coder",
    Tags(
        begin="<tool_call>\n",
        name=("<function=", ">\n"),
        key=("<parameter=", ">\n"),
        value_end="\n</parameter>\n",
        end="</function>\n</tool_call>",
        bare_begin="<function=",
    ),
    "Qwen3-Coder: <function=name><parameter=key>value</parameter></function>",
    ("<tool_call>", "<function=", "<parameter="),
)
GLM = _plugin(
    "glm",
    Tags(
        begin="<tool_call>",
        name=("", "\n"),
        key=("<arg_key>", "</arg_key>\n<arg_value>"),
        value_end="</arg_value>\n",
        end="</tool_call>",
    ),
    "GLM 4.5 and 4.6: <arg_key> and <arg_value> in turn",
    ("<tool_call>", "<arg_key>"),
)
SEED = _plugin(
    "seed-oss",
    Tags(
        begin="<seed:tool_call>\n",
        name=("<function=", ">\n"),
        key=("<parameter=", ">"),
        value_end="</parameter>\n",
        end="</function>\n</seed:tool_call>",
    ),
    "Seed-OSS: as Qwen3-Coder, in <seed:tool_call>",
    ("<seed:tool_call>", "<function=", "<parameter="),
)
MINIMAX = _plugin(
    "minimax",
    Tags(
        begin="<minimax:tool_call>\n",
        name=('<invoke name="', '">\n'),
        key=('<parameter name="', '">'),
        value_end="</parameter>\n",
        end="</invoke>\n</minimax:tool_call>",
    ),
    "MiniMax M2: <invoke name=...><parameter name=...>",
    ("<minimax:tool_call>", "<invoke name="),
)
