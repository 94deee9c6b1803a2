"""How each family of models says that it calls tools: read from its answers, and written as a grammar.

A dialect is a plugin (`thaloom.dialects`). Its manifest's `provides` lists the marks by which a model is known to speak
it: all of them stand in its chat template or among its added tokens (`selecting`).

A dialect reads from a `tape.Tape` and tells what it finds to a `told.Told`. Whatever only looked like a call is told
as text, whole and unchanged; how the text came in pieces makes no difference.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

from thaloom.base.plugins import Registry
from thaloom.work.runtime.dialects.lark import Lark
from thaloom.work.runtime.dialects.tape import Reading, Tape
from thaloom.work.runtime.dialects.told import Told
from thaloom.work.runtime.types import Tool

GENERIC = "generic"
"""The dialect of models whose template knows nothing of tools: it is taught to them in the prompt."""


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

    def write(self, calls: Sequence[tuple[str, Any]]) -> str:
        """These calls, (name, arguments as an object), as a model would write them: for templates that lose them."""
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
