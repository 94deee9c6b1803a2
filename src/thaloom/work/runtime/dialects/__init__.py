"""How each family of models says that it calls tools: read from its answers, and written as a grammar.

A dialect is a plugin (`thaloom.dialects`). Its manifest's `provides` lists the marks by which a model is known to speak
it: all of them stand in its chat template or among its added tokens. Of several dialects the one with the most marks
is meant. A model may also name its dialect: `thaloom_dialect` in its config.json or tokenizer_config.json.

A dialect reads from a `tape.Tape` and tells what it finds to a `told.Told`. Whatever only looked like a call is told
as text, whole and unchanged; how the text came in pieces makes no difference.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

from thaloom.base.errors import NotServable
from thaloom.base.plugins import Registry
from thaloom.work.runtime.dialects.lark import Lark
from thaloom.work.runtime.dialects.tape import Reading, Tape
from thaloom.work.runtime.dialects.told import Told
from thaloom.work.runtime.types import Tool

GENERIC = "generic"
"""The dialect of models whose template knows nothing of tools: it is taught to them in the prompt."""
CONFIG_KEY = "thaloom_dialect"


@dataclass(frozen=True, slots=True, kw_only=True)
class CallGrammar:
    """A dialect's calls in llguidance's Lark: expressions over rules that the dialect has added."""

    begin: str
    """The mark that begins a block of calls, as plain text. Empty: the call itself, at the start of the answer."""
    block: str
    """What follows the mark, to the end of the block."""
    separator: str | None
    """As a Lark expression, what stands between two blocks; None: there is only one, and it holds all calls."""
    bare_start: str = ""
    """Where `begin` is empty: characters (of a regular expression's class) that only a call may begin with."""


class Dialect(Protocol):
    """One family's way. Stateless."""

    @property
    def name(self) -> str: ...

    @property
    def marks(self) -> tuple[str, ...]:
        """Tokens its parser must see, though the tokenizer may call them special and hide them from the text."""
        ...

    def read(self, tape: Tape, told: Told) -> Reading[None]:
        """Read the answer, from the end of its thoughts to its own end."""
        ...

    def grammar(self, lark: Lark, tools: Sequence[Tool], *, parallel: bool) -> CallGrammar:
        """What a block of calls to these tools looks like, as `read` understands it and the model is used to.

        Raises BadParameter for a schema this dialect cannot hold an answer to.
        """
        ...


@cache
def registry() -> Registry[Dialect]:
    """All installed dialects, and the one that is there in any case."""
    from thaloom.work.runtime.dialects.hermes import TAUGHT  # it imports this module

    found: Registry[Dialect] = Registry("dialect")
    found.add(TAUGHT)
    found.discover()
    return found


def select(
    dialects: Registry[Dialect], *, template: str | None, tokens: Sequence[str], configs: Sequence[Mapping[str, Any]]
) -> Dialect:
    """The dialect of a model, from its chat template, its added tokens, and what its config files say.

    Raises NotServable naming what there is, if they name a dialect that is not here.
    """
    for config in configs:
        if (name := config.get(CONFIG_KEY)) is not None:
            if name not in dialects.names():
                raise NotServable(f"no dialect {name!r} here (there are: {', '.join(dialects.names())})")
            return dialects.create(name)
    known = "\n".join([template or "", *tokens])
    marks = {name: dialects.manifest(name).provides for name in dialects.names()}
    matching = [name for name, all_marks in marks.items() if all_marks and all(mark in known for mark in all_marks)]
    best = max(matching, key=lambda name: (len(marks[name]), sum(map(len, marks[name]))), default=GENERIC)
    return dialects.create(best)
