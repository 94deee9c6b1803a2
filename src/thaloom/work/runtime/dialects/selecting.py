"""Which dialect a model speaks: pure, from its files and from what its template writes for a call."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from thaloom.base.errors import NotServable
from thaloom.base.plugins import Registry
from thaloom.work.runtime.dialects import GENERIC, Dialect
from thaloom.work.runtime.dialects.hearing import Hearing
from thaloom.work.runtime.text.abilities import ARGUMENTS, CALLED, Abilities
from thaloom.work.runtime.types import Tool

CONFIG_KEY = "thaloom_dialect"


def select(
    dialects: Registry[Dialect],
    abilities: Abilities,
    *,
    template: str | None,
    tokens: Sequence[str],
    configs: Sequence[Mapping[str, Any]],
) -> Dialect:
    """The dialect of a model. Its files may name it: `thaloom_dialect` in config.json or tokenizer_config.json. Else it
    is one whose marks stand in the chat template or among the added tokens, and whose parser hears the call that the
    template writes, if it writes any; of several the one with the most marks. A template that tells of no tools, or
    whose calls nobody here understands, is never used for them: then it is the generic one.

    Raises NotServable naming what there is, if the files name a dialect that is not here.
    """
    for config in configs:
        if (name := config.get(CONFIG_KEY)) is not None:
            if name not in dialects.names():
                raise NotServable(f"no dialect {name!r} here (there are: {', '.join(dialects.names())})")
            return dialects.create(name) if abilities.tools else dialects.create(GENERIC)
    known = "\n".join([template or "", *tokens])
    marks = {name: dialects.manifest(name).provides for name in dialects.names()}
    matching = [name for name, all_marks in marks.items() if all_marks and all(mark in known for mark in all_marks)]
    for name in sorted(matching, key=lambda name: (len(marks[name]), sum(map(len, marks[name]))), reverse=True):
        dialect = dialects.create(name)
        samples = abilities.samples
        if abilities.tools and (not samples or any(hears(dialect, sample) for sample in samples)):
            return dialect
    return dialects.create(GENERIC)


def hears(dialect: Dialect, sample: str) -> bool:
    """Whether this is one call to `CALLED` with `ARGUMENTS`, in this dialect."""
    hearing = Hearing(dialect=dialect, tools={CALLED: Tool(name=CALLED)}, thoughts=None, new_id=lambda: "")
    pieces = (*hearing.feed(sample).tool_calls, *hearing.finish().tool_calls)
    try:
        arguments = json.loads("".join(piece.arguments for piece in pieces))
    except ValueError:
        return False
    return arguments == ARGUMENTS and hearing.num_whole_calls == 1
