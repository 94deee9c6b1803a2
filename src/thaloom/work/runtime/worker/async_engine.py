"""The engine as the event loop sees it: requests go in, news come from its thread into each client's outbox."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from thaloom.base.errors import DeadlineExceeded, ThaloomError
from thaloom.base.events import Emit
from thaloom.work.runtime.core.engine import Emission, Engine
from thaloom.work.runtime.core.grammars import Matcher
from thaloom.work.runtime.core.sequence import Ticket
from thaloom.work.runtime.events import ReaderLeftBehind
from thaloom.work.runtime.messages import Embed, Failed, Generate
from thaloom.work.runtime.outbox import Outbox
from thaloom.work.runtime.worker.runner import EngineRunner


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """A request that was taken: what it is called by the engine, how many wait before it, where its answer comes."""

    ticket: Ticket
    waiting: int
    outbox: Outbox


class AsyncEngine:
    """Public methods are for the event loop's thread. `broken` is called there once the engine is of no further use."""

    def __init__(
        self,
        engine: Engine,
        *,
        broken: Callable[[ThaloomError], None],
        emit: Emit,
        max_tokens_behind: int,
        rung: Callable[[float], bool] | None = None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._broken = broken
        self._engine = engine
        self._emit = emit
        self._max_tokens_behind = max_tokens_behind
        self._outboxes: dict[Ticket, tuple[Generate | Embed, Outbox]] = {}
        self._runner = EngineRunner(engine, deliver=self._deliver, broken=self._tell_broken, rung=rung)

    def _deliver(self, news: list[Emission]) -> None:
        """On the engine's thread."""
        self._loop.call_soon_threadsafe(self._hand_out, news)

    def _tell_broken(self, error: ThaloomError) -> None:
        """On the engine's thread."""
        self._loop.call_soon_threadsafe(self._broken, error)

    def start(self) -> None:
        self._runner.start()

    async def stop(self, timeout_s: float) -> bool:
        """End the engine's thread after the step that is running; False if that does not end in time. News of it may
        still be handed out."""
        return await asyncio.to_thread(self._runner.stop, timeout_s)

    def submit(self, request: Generate | Embed, matcher: Matcher | None) -> Submission:
        """Raises what Engine.submit raises."""
        ticket, waiting = self._engine.submit(request, matcher)
        outbox = Outbox(self._max_tokens_behind)
        self._outboxes[ticket] = (request, outbox)  # before any news of it: they come by this very loop
        self._runner.wake()
        return Submission(ticket=ticket, waiting=waiting, outbox=outbox)

    def cancel(self, ticket: Ticket) -> None:
        """Nobody waits for this answer any more. Harmless if it has ended."""
        self._outboxes.pop(ticket, None)
        self._engine.cancel(ticket)

    def fail_all(self, error: ThaloomError) -> None:
        """End every answer with this error."""
        self._hand_out(self._engine.fail_all(error))

    def _hand_out(self, news: list[Emission]) -> None:
        for ticket, reply in news:
            if ticket not in self._outboxes:  # cancelled after the step began
                continue
            request, outbox = self._outboxes[ticket]
            if not outbox.put(reply):
                self._leave_behind(ticket, request, outbox)
            elif outbox.ended:
                del self._outboxes[ticket]

    def _leave_behind(self, ticket: Ticket, request: Generate | Embed, outbox: Outbox) -> None:
        self._emit(ReaderLeftBehind(request=request.id, tokens_behind=outbox.num_tokens))
        error = DeadlineExceeded(
            f"the reader is {outbox.num_tokens} tokens behind; the answer was cut off so that others go on",
            tokens_behind=outbox.num_tokens,
        )
        outbox.put(Failed(error=error.to_dict()))
        self.cancel(ticket)
