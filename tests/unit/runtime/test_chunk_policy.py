"""What adaptive chunks are for, on a device with a stated cost: nobody's clock is asked."""

from __future__ import annotations

import functools
from typing import Literal

import pytest

from tests.unit.runtime.doubles import Cost, line
from tests.unit.runtime.loops import Result, lengths, play
from thaloom.kernel.sched.chunks import StepTargets

DEVICES: dict[str, Cost] = {
    "0.5 B": line(9.5e-3, 0.42e-3),
    "135 M": line(3e-3, 0.18e-3),
    "with a knee": lambda step: max(8e-3, 0.4e-3 * step.num_rows),
}
"""Of the size that the first two were measured at in 8 bits; the third computes while it waits for memory."""
MIXES = {"chat": (1150.0, 210.0), "code": (2000.0, 28.0), "short": (128.0, 32.0)}
"""Mean tokens of prompt and answer.
Source of the first two: Azure LLM inference traces of 2023 (Patel et al., Splitwise, ISCA 2024)."""
FIXED = StepTargets(stretch=1e9)
ADAPTIVE = StepTargets()
TIME_FIRST = StepTargets(keep_throughput=0.0)


@functools.cache
def loop(device: str, mix: str, policy: Literal["fixed", "adaptive", "time first"], think_s: float = 0.0) -> Result:
    """16 clients; 512 rows for prompts in a step."""
    targets = {"fixed": FIXED, "adaptive": ADAPTIVE, "time first": TIME_FIRST}[policy]
    prompt, answer = MIXES[mix]
    requests = lengths(3, prompt=prompt, answer=answer)
    num_requests = 50 if think_s else 100
    return play(DEVICES[device], requests, clients=16, num_requests=num_requests, targets=targets, think_s=think_s)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("mix", MIXES)
def test_a_saturated_loop_keeps_its_throughput(device: str, mix: str) -> None:
    assert loop(device, mix, "adaptive").tokens_per_s >= 0.95 * loop(device, mix, "fixed").tokens_per_s


@pytest.mark.parametrize("device", ["135 M", "with a knee"])
@pytest.mark.parametrize("mix", MIXES)
def test_and_the_time_per_token_where_both_can_be_had(device: str, mix: str) -> None:
    found = loop(device, mix, "adaptive")
    assert found.gap_s(99) <= 1.05 * ADAPTIVE.token_s
    assert found.gap_s(99) < 0.6 * loop(device, mix, "fixed").gap_s(99)


@pytest.mark.parametrize("mix", MIXES)
def test_where_they_pull_apart_throughput_is_kept_and_time_per_token_halved(mix: str) -> None:
    assert loop("0.5 B", mix, "adaptive").gap_s(99) < 0.5 * loop("0.5 B", mix, "fixed").gap_s(99)


@pytest.mark.parametrize("mix", MIXES)
def test_time_per_token_comes_first_for_those_who_say_so(mix: str) -> None:
    assert loop("0.5 B", mix, "time first").gap_s(99) <= 1.05 * TIME_FIRST.token_s


@pytest.mark.parametrize("device", DEVICES)
def test_with_pauses_between_questions_the_time_per_token_is_held_and_nobody_waits_longer(device: str) -> None:
    found, fixed = loop(device, "chat", "adaptive", 60.0), loop(device, "chat", "fixed", 60.0)
    assert found.gap_s(99) <= 1.2 * ADAPTIVE.token_s
    assert found.tokens_per_s >= 0.98 * fixed.tokens_per_s
