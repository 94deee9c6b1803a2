"""An action that is being done, or waits for its turn: who hears how far it is, and what comes of it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

from thaloom.init.acting.kinds import Aid, Done
from thaloom.init.errands.progress import OnProgress


@dataclass(slots=True)
class Running:
    """Changed by the Performer alone."""

    kind: str
    given: Any
    aid: Aid
    ended: asyncio.Future[Done]
    begun: bool = False
    """Whether its intent is in the journal."""
    latest: tuple[str, int, int | None] | None = None
    """Stage, bytes done, bytes in all."""
    followers: list[OnProgress] = field(default_factory=list)

    def tell(self, stage: str, done_bytes: int, total_bytes: int | None) -> None:
        self.latest = (stage, done_bytes, total_bytes)
        for follower in (self.aid.progress, *self.followers):
            follower(stage, done_bytes, total_bytes)

    async def follow(self, aid: Aid) -> Done:
        """Be told how far it is, and what comes of it. Raises what it raises."""
        if self.latest is not None:
            aid.progress(*self.latest)
        self.followers.append(aid.progress)
        try:
            return await asyncio.shield(self.ended)
        finally:
            self.followers.remove(aid.progress)
