"""A worker's answer followed at the door: its text, its end, and a second worker where the first was lost in time."""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import AsyncIterator

from thaloom.base.clock import Clock
from thaloom.base.errors import ThaloomError, WorkerLost
from thaloom.work.runtime.frontend.answers import AnswerText
from thaloom.work.runtime.frontend.workers import Placed, Workers
from thaloom.work.runtime.messages import Finished, Generate, PromptLogprobs, Started, Tokens
from thaloom.work.runtime.types import Delta, Done, FinishReason


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
        self._ready: deque[Delta | Done] = deque()
        self._shown = False
        """Whether anything of this worker's answer was told."""
        self._ended = False

    async def __anext__(self) -> Delta | Done:
        if self._ended:
            raise StopAsyncIteration
        try:
            while not self._ready:
                self._take(await self._next_reply())
        except BaseException:
            self._end()
            raise
        item = self._ready.popleft()
        if isinstance(item, Done):
            self._end()
        return item

    async def aclose(self) -> None:
        self._end()

    async def _next_reply(self) -> Tokens | PromptLogprobs | Finished:
        try:
            return await self._call.next()
        except WorkerLost as lost:
            if self._shown:
                raise
            self._call.close()  # nothing was shown: whoever serves the model by now may answer instead
            try:
                lost_one = self._placed.socket
                self._placed = await self._workers.begin(self._placed.service, self._message, tried=[lost_one])
            except ThaloomError as refusal:
                raise lost from refusal
            self._call = self._placed.call
            return await self._call.next()

    def _take(self, reply: Tokens | PromptLogprobs | Finished) -> None:
        if isinstance(reply, PromptLogprobs):
            self._shown = True
            self._ready.append(self._text.of_prompt(reply))
            return
        if not self._shown:
            self._shown = True
            if (prompt := self._text.rest_of_prompt()) is not None:
                self._ready.append(prompt)
        if isinstance(reply, Tokens):
            first = self._first_at is None
            if first:
                self._first_at, self._started = self._clock.monotonic(), reply.started
            delta = self._text.feed(reply)
            if first:
                delta = dataclasses.replace(delta, prompt_tokens=len(self._message.prompt))
            self._ready.append(delta)
            if self._text.stopped:
                self._call.close()
                self._ready.append(self._cut_short())
            return
        rest = self._text.finish()
        self._call.close()
        if rest.text or rest.logprobs or rest.reasoning or rest.tool_calls:
            self._ready.append(rest)
        self._ready.append(self._done(reply))

    def _done(self, finished: Finished) -> Done:
        cut = finished.reason == "length" and not self._text.stopped
        wanted = finished.stop_token in self._text.stop_tokens
        return Done(
            reason="length" if cut else self._reason,
            prompt_tokens=finished.prompt_tokens,
            completion_tokens=finished.completion_tokens,
            cached_tokens=finished.cached_tokens,
            queue_s=finished.queue_s,
            prefill_s=finished.prefill_s,
            decode_s=finished.decode_s,
            degraded=self.degraded,
            stop=self._text.stop_found or (finished.stop_token if wanted else None),
            reasoning_tokens=self._text.num_reasoning,
            pinned_tokens=finished.pinned_tokens,
        )

    @property
    def _reason(self) -> FinishReason:
        return "tool_calls" if self._text.num_calls else "stop"

    def _cut_short(self) -> Done:
        """The account of an answer the worker was not let finish."""
        first_at = self._first_at if self._first_at is not None else self._accepted_at
        started = self._started or Started(cached_tokens=0, queue_s=0.0, prefill_s=first_at - self._accepted_at)
        return Done(
            reason=self._reason,
            prompt_tokens=len(self._message.prompt),
            completion_tokens=self._text.num_tokens,
            cached_tokens=started.cached_tokens,
            queue_s=started.queue_s,
            prefill_s=started.prefill_s,
            decode_s=self._clock.monotonic() - first_at,
            degraded=self.degraded,
            stop=self._text.stop_found,
            reasoning_tokens=self._text.num_reasoning,
            pinned_tokens=started.pinned_tokens,
        )

    def _end(self) -> None:
        self._ended = True
        self._call.close()
