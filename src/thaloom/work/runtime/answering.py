"""A worker's answer followed at the door: its text, its end, and a second worker where the first was lost in time."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator

from thaloom.base.clock import Clock
from thaloom.base.errors import ThaloomError, WorkerLost
from thaloom.work.runtime.answers import AnswerText
from thaloom.work.runtime.messages import Finished, Generate, PromptLogprobs, Started, Tokens
from thaloom.work.runtime.types import Delta, Done, FinishReason
from thaloom.work.runtime.workers import Placed, Workers


class Answer(AsyncIterator[Delta | Done]):
    """One answer, and its connection. A class and not a generator: closing it works before the first item too."""

    def __init__(
        self,
        workers: Workers,
        placed: Placed,
        message: Generate,
        text: AnswerText,
        clock: Clock,
    ) -> None:
        self.degraded: str | None = None
        self._workers = workers
        self._placed = placed
        self._call = placed.call
        self._message = message
        self._text = text
        self._clock = clock
        self._accepted_at = clock.monotonic()
        self._first_at: float | None = None
        self._started: Started | None = None
        self._last: Done | None = None
        self._ended = False

    async def __anext__(self) -> Delta | Done:
        if self._ended:
            raise StopAsyncIteration
        if self._last is not None:
            self._end()
            return self._last
        try:
            reply = await self._next_reply()
            return self._take(reply)
        except BaseException:
            self._end()
            raise

    async def aclose(self) -> None:
        self._end()

    async def _next_reply(self) -> Tokens | PromptLogprobs | Finished:
        try:
            return await self._call.next()
        except WorkerLost as lost:
            if self._first_at is not None:
                raise
            self._call.close()  # nothing was shown: whoever serves the model by now may answer instead
            try:
                lost_one = self._placed.socket
                self._placed = await self._workers.begin(self._placed.service, self._message, tried=[lost_one])
            except ThaloomError as refusal:
                raise lost from refusal
            self._call = self._placed.call
            return await self._call.next()

    def _take(self, reply: Tokens | PromptLogprobs | Finished) -> Delta | Done:
        if isinstance(reply, Tokens):
            first = self._first_at is None
            if first:
                self._first_at, self._started = self._clock.monotonic(), reply.started
            delta = self._text.feed(reply)
            if first:
                delta = dataclasses.replace(delta, prompt_tokens=len(self._message.prompt))
            if self._text.stopped:
                self._call.close()
                self._last = self._cut_short()
            return delta
        if isinstance(reply, PromptLogprobs):
            return self._text.of_prompt(reply)
        rest = self._text.finish()
        self._call.close()
        self._last = self._done(reply)
        if rest.text or rest.logprobs:
            return rest
        self._end()
        return self._last

    def _done(self, finished: Finished) -> Done:
        reason: FinishReason = "length" if finished.reason == "length" and not self._text.stopped else "stop"
        return Done(
            reason=reason,
            prompt_tokens=finished.prompt_tokens,
            completion_tokens=finished.completion_tokens,
            cached_tokens=finished.cached_tokens,
            queue_s=finished.queue_s,
            prefill_s=finished.prefill_s,
            decode_s=finished.decode_s,
            degraded=self.degraded,
        )

    def _cut_short(self) -> Done:
        """The account of an answer the worker was not let finish."""
        first_at = self._first_at if self._first_at is not None else self._accepted_at
        started = self._started or Started(cached_tokens=0, queue_s=0.0, prefill_s=first_at - self._accepted_at)
        return Done(
            reason="stop",
            prompt_tokens=len(self._message.prompt),
            completion_tokens=self._text.num_tokens,
            cached_tokens=started.cached_tokens,
            queue_s=started.queue_s,
            prefill_s=started.prefill_s,
            decode_s=self._clock.monotonic() - first_at,
            degraded=self.degraded,
        )

    def _end(self) -> None:
        self._ended = True
        self._call.close()
