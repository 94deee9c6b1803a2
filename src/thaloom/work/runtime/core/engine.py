"""The engine: continuous batching over one Executable. Requests in, tokens out; one `step` is one forward pass.

Synchronous and without a clock of its own. `step` is called by one thread; `submit`, `cancel` and the figures may
be called from others meanwhile, because the lock is not held while the device computes or tokens are chosen.

Same tokens whatever else runs: what a step computes for a sequence depends on the sequence alone if the Executable
is `exact`, and so does the choice of its next token. Preemption throws keys and values away, never tokens. Guessed
tokens are kept only where they are what would have been chosen anyway.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from collections.abc import Sequence as Sequence_

import numpy as np
from numpy.typing import NDArray

from thaloom.base.errors import DeviceLost, InternalError, QueueFull, ThaloomError
from thaloom.base.events import Emit
from thaloom.hal.draws import Drawn
from thaloom.hal.driver import Executable, MovesBlocks
from thaloom.hal.ops import Step
from thaloom.kernel.memory.pages import root_key
from thaloom.work.runtime.core.admission import EngineConfig, admit, as_generate
from thaloom.work.runtime.core.batch import Work, lay_out
from thaloom.work.runtime.core.choosing import Chooser
from thaloom.work.runtime.core.counters import EngineCounters, EngineLoad
from thaloom.work.runtime.core.grammars import Matcher
from thaloom.work.runtime.core.pace import Pace
from thaloom.work.runtime.core.results import Chosen, Found, results_of, rows_of
from thaloom.work.runtime.core.roster import Roster
from thaloom.work.runtime.core.sequence import Sequence, Ticket
from thaloom.work.runtime.events import StepFailed
from thaloom.work.runtime.kv.memory import FixedKv, KvMemory
from thaloom.work.runtime.kv.tiers import BlockStore, KvTiers
from thaloom.work.runtime.messages import (
    Embed,
    Failed,
    Finished,
    Generate,
    PromptLogprobs,
    State,
    Tokens,
)
from thaloom.work.runtime.turns.turns import NoTurns, Turns
from thaloom.work.runtime.types import FinishReason, Pooling

Emission = tuple[Ticket, PromptLogprobs | Tokens | Finished | State | Failed]
"""News of one request. After Finished, State or Failed there is no more."""


class Engine:
    """Owns nothing of the device: the Executable, its pool bound, is lent for the engine's life."""

    def __init__(
        self,
        executable: Executable,
        config: EngineConfig,
        *,
        monotonic: Callable[[], float],
        emit: Emit,
        memory: KvMemory | None = None,
        store: BlockStore | None = None,
        turns: Turns | None = None,
    ) -> None:
        """`memory`: behind the blocks of the pool; for all of them, if none is named. `store`: where what the pool
        gives away is kept, if the executable can move blocks. `turns`: at the device, lent for the engine's life as
        well."""
        self.counters = EngineCounters()
        self.lost: DeviceLost | None = None
        """Set when the device went away: this engine is of no further use."""
        self._executable = executable
        self._config = config
        self._monotonic = monotonic
        self._emit = emit
        self._root = root_key(config.salt)
        self._lock = threading.Lock()  # guards all below, and the counters
        self._tickets = itertools.count(1)
        self.tiers: KvTiers | None = None
        """Below the pool. Its counters grow."""
        if store is not None and isinstance(executable, MovesBlocks):
            chunk_tokens, num_bytes = config.limits.chunk_tokens, executable.block_bytes
            self.tiers = KvTiers(store, executable, num_bytes, chunk_tokens=chunk_tokens, monotonic=monotonic)
        self._roster = Roster(config, self.counters, memory or FixedKv(config.num_blocks), self.tiers)
        self._pace = Pace()
        self._turns = turns or NoTurns()

    @property
    def busy(self) -> bool:
        """Whether there is anything to do."""
        return len(self._roster) > 0

    def load(self) -> EngineLoad:
        with self._lock:
            self._roster.pass_to(self._monotonic())
            return self._roster.load()

    def submit(self, request: Generate | Embed, matcher: Matcher | None = None) -> tuple[Ticket, int]:
        """Put a request in the queue: its ticket, and how many wait before it. `matcher`: of its grammar, compiled.

        Raises BadParameter, PromptTooLong or QueueFull (with when to come back), and then keeps nothing.
        """
        pooling: Pooling | None = None
        if isinstance(request, Embed):
            request, pooling = as_generate(request)
        sampling = admit(request, self._config)
        chooser = Chooser(request, sampling, vocab_size=self._config.vocab_size, matcher=matcher)
        root = root_key(self._root + request.cache_salt.encode()) if request.cache_salt else self._root
        sequence = Sequence(request, chooser, root=root, now=self._monotonic(), pooling=pooling)
        if self._config.prefix_reuse:
            sequence.reusable_keys()  # hashed here, in the caller's time, not under the lock
        with self._lock:
            if len(self._roster) >= self._config.limits.max_sequences + self._config.max_queue:
                raise self._queue_full()
            waiting = self._roster.load().waiting
            sequence.ticket = Ticket(next(self._tickets))
            self._roster.add(sequence)
            self.counters.requests += 1
            return sequence.ticket, waiting

    def _queue_full(self) -> QueueFull:
        load = self._roster.load()
        return QueueFull(
            f"the queue is full: {load.running} requests run and {load.waiting} wait",
            retry_after_s=self._pace.next_place_s(self._roster.progress()),
            running=load.running,
            waiting=load.waiting,
        )

    def cancel(self, ticket: Ticket) -> bool:
        """Forget a request at once, wherever it is; its blocks are free when this returns. False if it had ended.

        A step that is just computing it goes on, and nothing of it is kept: blocks are given away between steps only.
        """
        with self._lock:
            sequence = self._roster.find(ticket)
            if sequence is None:
                return False
            self._roster.end(sequence)
            self.counters.cancelled += 1
            return True

    def fail_all(self, error: ThaloomError) -> list[Emission]:
        """End every request with this error."""
        with self._lock:
            return [self._fail(sequence, error) for sequence in self._roster.everybody()]

    def check(self) -> None:
        """Prove the invariants (AssertionError otherwise). Cheap enough for whenever there is nothing to do."""
        with self._lock:
            self._roster.check()

    def rest(self) -> None:
        """There has been nothing to do for a while. Called by the thread that calls `step`."""
        with self._lock:
            self._roster.give_back()
        self._turns.rest()  # also where the last one was cancelled after its step had ended

    def step(self) -> list[Emission]:
        """What there is to do next, and the news of it. Nothing to do: no news.

        One forward pass, or two where some want tokens and others states. A pass that raises fails the requests in it
        and nobody else. DeviceLost fails all and sets `lost`.
        """
        with self._lock:  # once for all: whoever is cancelled from here on takes its blocks from no step
            passes = [(work, lay_out(work)) for work in _passes(self._roster.next_work(self._monotonic()))]
        news: list[Emission] = []
        for work, step in passes:
            news += self._pass(work, step)
            if self.lost is not None:
                break
        if not self.busy:
            self._turns.rest()
        return news

    def _pass(self, work: list[Work], step: Step) -> list[Emission]:
        decodes = any(item.sequence.first_token_at is not None for item in work)
        taken = self._turns.take(decodes, self._roster.expected_s(work))
        started = self._monotonic()
        completed = False
        try:
            found = results_of(self._executable, work, self._executable.run(step))
            seconds = self._monotonic() - started
            completed = True
        except Exception as error:  # noqa: BLE001 - supervisor of the device: whatever it raised, the others go on
            return self._fail_step(work, error)
        finally:
            self._turns.give(completed)
        with self._lock:
            self.counters.steps += 1
            self.counters.step_seconds += seconds
            self.counters.turn_wait_seconds += taken.waited_s
            self.counters.missed_turns += taken.missed is not None
            self._pace.stepped(taken.waited_s + seconds)
            self._roster.took(work, seconds)
            return [news for item, each in zip(work, found, strict=True) for news in self._advance(item, each)]

    def _advance(self, item: Work, found: Found) -> list[Emission]:
        """Take what was found, and tell it."""
        sequence = item.sequence
        if sequence.state == "ended":  # cancelled while it was being computed
            return []
        if isinstance(found, np.ndarray):
            return self._add_states(item, found)
        told, chosen = found
        news: list[Emission] = []
        if told:
            sequence.num_told = item.reported.stop
            news.append((sequence.ticket, PromptLogprobs(rows=told)))
        return news + self._add_tokens(item, chosen)

    def _add_states(self, item: Work, states: NDArray[np.float32]) -> list[Emission]:
        """(rows reported, D)"""
        sequence = item.sequence
        self._roster.computed(item, 0)
        if len(states):
            total = states.sum(axis=0, dtype=np.float64)
            sequence.pooled = total if sequence.pooled is None or item.start == 0 else sequence.pooled + total
        if item.end < len(sequence.tokens) or sequence.pooled is None:
            return []
        self._roster.end(sequence)
        count = len(sequence.tokens) if sequence.pooling == "mean" else 1
        return [(sequence.ticket, State(values=(sequence.pooled / count).astype("<f4").tobytes()))]

    def _add_tokens(self, item: Work, chosen: Chosen) -> list[Emission]:
        """All but the last of them were guessed rightly."""
        sequence = item.sequence
        num_accepted = max(0, len(chosen) - 1)
        self.counters.drafted_tokens += len(item.draft)
        self.counters.accepted_tokens += num_accepted
        failure = chosen[-1] if chosen and isinstance(chosen[-1], ThaloomError) else None
        choices = [choice for choice in chosen if isinstance(choice, Drawn)]
        if sequence.request.max_tokens == 0:  # only its prompt was of interest
            choices = []
        stopped = bool(choices) and choices[-1].token in sequence.stop_tokens
        taken = choices[:-1] if stopped else choices
        sequence.tokens += [choice.token for choice in taken]
        self._roster.computed(item, num_accepted)
        news = self._tell(sequence, taken) if choices else []
        self.counters.completion_tokens += len(choices)
        failure = failure or (None if stopped else _told(sequence.chooser, choices))
        if failure is not None:
            news.append(self._fail(sequence, failure))
        elif stopped:
            found = choices[-1].token
            news.append(self._finish(sequence, "stop", completion_tokens=sequence.num_generated + 1, stop_token=found))
        elif sequence.chooser.complete:
            news.append(self._finish(sequence, "stop", completion_tokens=sequence.num_generated))
        elif item.wants_token and sequence.num_generated == sequence.request.max_tokens:
            news.append(self._finish(sequence, "length", completion_tokens=sequence.num_generated))
        return news

    def _tell(self, sequence: Sequence, taken: list[Drawn]) -> list[Emission]:
        """These were its next tokens (none, if its first one was a stop token), and what it computed is pinned by now:
        that is told with the first of them."""
        started = sequence.begin_answer(self._monotonic()) if sequence.first_token_at is None else None
        if not taken:
            return []
        tokens = [choice.token for choice in taken]
        return [(sequence.ticket, Tokens(tokens=tokens, logprobs=rows_of(taken), started=started))]

    def _finish(
        self, sequence: Sequence, reason: FinishReason, *, completion_tokens: int, stop_token: int | None = None
    ) -> Emission:
        self._roster.end(sequence)
        self._pace.answered(completion_tokens)
        account = sequence.finished(
            reason, completion_tokens=completion_tokens, stop_token=stop_token, now=self._monotonic()
        )
        return sequence.ticket, account

    def _fail(self, sequence: Sequence, error: ThaloomError) -> Emission:
        self._roster.end(sequence)
        self.counters.failed += 1
        return sequence.ticket, Failed(error=error.to_dict())

    def _fail_step(self, work: Sequence_[Work], error: Exception) -> list[Emission]:
        failure = _typed(error)
        requests = tuple(item.sequence.request.id for item in work)
        self._emit(StepFailed(code=failure.code, message=failure.message, requests=requests))
        self.counters.failed_steps += 1
        if isinstance(failure, DeviceLost):
            self.lost = failure
            return self.fail_all(failure)
        with self._lock:
            return [self._fail(item.sequence, failure) for item in work if item.sequence.state != "ended"]


def _typed(error: Exception) -> ThaloomError:
    if isinstance(error, ThaloomError):
        return error
    return InternalError(f"a forward pass failed: {type(error).__name__}: {error}")


def _passes(work: list[Work]) -> list[list[Work]]:
    """What wants tokens, and what wants states: one step can give either."""
    parts = [
        [item for item in work if item.sequence.pooling is None],
        [item for item in work if item.sequence.pooling is not None],
    ]
    return [part for part in parts if part]


def _told(chooser: Chooser, choices: list[Drawn]) -> ThaloomError | None:
    """Tell the chooser what was chosen; why it cannot go on from there, if it cannot."""
    try:
        chooser.take(choice.token for choice in choices)
    except ThaloomError as error:
        return error
    return None
