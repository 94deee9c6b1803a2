"""Whose turn it is: people's requests always, what nobody waits for as far as those leave room."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

ALONE = 4
"""Answers that nobody waits for, at once, while nobody asks for others: enough that a step of the engine is shared."""
BESIDE_OTHERS = 1
"""While somebody does: one sequence more in a step costs the others little, and a batch still moves."""


class Turns:
    """For one event loop. Counts what this door does; other doors count their own."""

    def __init__(self, *, alone: int = ALONE, beside_others: int = BESIDE_OTHERS) -> None:
        self._alone = alone
        self._beside_others = beside_others
        self.num_interactive = 0
        self.num_patient = 0
        self._changed = asyncio.Event()

    @contextmanager
    def interactive(self) -> Iterator[None]:
        """Somebody waits for this. It never waits itself."""
        self.num_interactive += 1
        try:
            yield
        finally:
            self.num_interactive -= 1
            self._changed.set()

    @contextmanager
    def given_up(self) -> Iterator[None]:
        """Within `interactive`: what somebody still listens to is made in the background, in its own turn."""
        assert self.num_interactive, "within `interactive`"
        self.num_interactive -= 1
        self._changed.set()
        try:
            yield
        finally:
            self.num_interactive += 1

    @asynccontextmanager
    async def patient(self) -> AsyncIterator[None]:
        """Nobody waits for this: a line of a batch, a response in the background. It waits for its turn."""
        while self.num_patient >= (self._beside_others if self.num_interactive else self._alone):
            self._changed.clear()
            await self._changed.wait()
        self.num_patient += 1
        try:
            yield
        finally:
            self.num_patient -= 1
            self._changed.set()
