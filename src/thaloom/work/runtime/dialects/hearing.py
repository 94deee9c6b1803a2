"""One answer heard as it comes: thoughts first, then text and calls."""

from __future__ import annotations

from collections.abc import Mapping

from thaloom.work.runtime.dialects import Dialect
from thaloom.work.runtime.dialects.tape import Reading, Tape
from thaloom.work.runtime.dialects.thinking import Thoughts
from thaloom.work.runtime.dialects.told import Heard, NewId, Told
from thaloom.work.runtime.types import Tool


class Hearing:
    """Fed an answer's text in any cutting. Belongs to one answer."""

    def __init__(
        self, *, dialect: Dialect | None, tools: Mapping[str, Tool], thoughts: Thoughts | None, new_id: NewId
    ) -> None:
        """`dialect`: None where no call is looked for."""
        self._dialect = dialect
        self._thoughts = thoughts
        self._tape = Tape()
        self._told = Told(self._tape, tools, new_id)
        self._reading: Reading[None] | None = self._read()

    @property
    def thinking(self) -> bool:
        """Whether the answer is in the middle of its thoughts."""
        return self._thoughts is not None and self._thoughts.open

    @property
    def num_whole_calls(self) -> int:
        return self._told.num_whole

    @property
    def num_held(self) -> int:
        """Characters that are heard and not told yet."""
        return self._tape.end - self._tape.settled + self._told.num_waiting

    @property
    def over(self) -> bool:
        """Whether nothing is looked for any more, and nothing held: what comes is text."""
        return self._reading is None and not self.num_held

    def feed(self, text: str) -> Heard:
        if self._reading is None:
            self._told.text(text)
            return self._told.take()
        self._tape.add(text)
        self._go_on()
        return self._told.take()

    def finish(self) -> Heard:
        """What was held back, when no more comes."""
        self._tape.ended = True
        self._go_on()
        self._told.finish()
        return self._told.take()

    def _go_on(self) -> None:
        if self._reading is None:
            return
        try:
            next(self._reading)
        except StopIteration:
            self._reading = None
            self._tape.at = self._tape.end
            self._told.text_here()

    def _read(self) -> Reading[None]:
        if self._thoughts is not None:
            yield from self._thoughts.read(self._tape, self._told)
        if self._dialect is not None:
            yield from self._dialect.read(self._tape, self._told)
