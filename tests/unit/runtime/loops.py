"""Closed loops of clients on made-up time: whoever has an answer asks again, at once or after a pause."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tests.unit.runtime.doubles import Cost, Timed, ask
from thaloom.hal.driver import Buffer
from thaloom.hal.ops import Step
from thaloom.kernel.sched.chunks import StepTargets
from thaloom.kernel.sched.steps import StepLimits
from thaloom.work.runtime.core.admission import EngineConfig
from thaloom.work.runtime.core.engine import Engine
from thaloom.work.runtime.core.sequence import Ticket
from thaloom.work.runtime.messages import Finished, Tokens

VOCAB = 17


class Counting:
    """driver.Executable that computes nothing: only time matters here."""

    block_bytes = weight_bytes = scratch_bytes = 0

    def bind_pool(self, pool: Buffer, num_blocks: int) -> None:
        pass

    def run(self, step: Step) -> NDArray[np.float32]:
        logits = np.zeros((len(step.outputs), VOCAB), dtype=np.float32)
        last = step.outputs
        logits[np.arange(len(last)), (step.tokens[last] * 7 + step.positions[last] ** 2) % VOCAB] = 1.0
        return logits

    def copy_block(self, source: int, target: int) -> None:
        pass

    def close(self) -> None:
        pass


@dataclass(frozen=True, kw_only=True)
class Result:
    """`gaps_s`: between two tokens of one answer. Rates over the whole run."""

    seconds: float
    gaps_s: NDArray[np.float64]
    first_s: NDArray[np.float64]
    output_tokens_per_s: float
    tokens_per_s: float

    def gap_s(self, percentile: float) -> float:
        return float(np.percentile(self.gaps_s, percentile))


def lengths(seed: int, *, prompt: float, answer: float, most: int = 4000) -> Iterator[tuple[int, int]]:
    """(prompt tokens, answer tokens), log-normal with these means, as the public traces of language services are."""
    random = np.random.default_rng(seed)
    spread = 0.8
    while True:
        drawn = np.exp(random.normal(-spread * spread / 2, spread, size=2)) * (prompt, answer)
        yield int(np.clip(drawn[0], 8, most)), int(np.clip(drawn[1], 4, 1000))


def play(
    cost: Cost,
    requests: Iterator[tuple[int, int]],
    *,
    clients: int,
    num_requests: int,
    targets: StepTargets,
    chunk_tokens: int = 512,
    think_s: float = 0.0,
) -> Result:
    """`think_s`: what a client waits between an answer and its next question."""
    timed = Timed(Counting(), cost)
    engine = Engine(
        timed,
        EngineConfig(
            vocab_size=VOCAB,
            context_length=8192,
            num_blocks=16 * 512,
            limits=StepLimits(max_sequences=16, chunk_tokens=chunk_tokens),
            max_queue=64,
            prefix_reuse=False,
            targets=targets,
        ),
        monotonic=lambda: timed.now_s,
        emit=lambda event: None,
    )
    due = [think_s * client / clients for client in range(clients)]
    asked: dict[Ticket, float] = {}
    latest: dict[Ticket, float] = {}
    gaps: list[float] = []
    first: list[float] = []
    num_asked = num_tokens = num_prompt = 0
    while engine.busy or (due and num_asked < num_requests):
        if not engine.busy:
            timed.now_s = max(timed.now_s, min(due))
        for at in sorted(due):
            if at <= timed.now_s and num_asked < num_requests:
                due.remove(at)
                prompt, answer = next(requests)
                ticket, _ = engine.submit(ask([1] * prompt, answer))
                asked[ticket] = timed.now_s
                num_asked += 1
                num_prompt += prompt
        for ticket, reply in engine.step():
            if isinstance(reply, Tokens):
                num_tokens += len(reply.tokens)
                if ticket in latest:
                    gaps += [timed.now_s - latest[ticket]] + [0.0] * (len(reply.tokens) - 1)
                else:
                    first.append(timed.now_s - asked[ticket])
                latest[ticket] = timed.now_s
            elif isinstance(reply, Finished):
                due.append(timed.now_s + think_s)
    return Result(
        seconds=timed.now_s,
        gaps_s=np.array(gaps),
        first_s=np.array(first),
        output_tokens_per_s=num_tokens / timed.now_s,
        tokens_per_s=(num_tokens + num_prompt) / timed.now_s,
    )
