from __future__ import annotations

import pytest

from thaloom.kernel.sched.steps import Rows, Running, Snapshot, StepLimits, StepPlan, Waiting, plan_step

LIMITS = StepLimits(max_sequences=4, chunk_tokens=32)


def running(id: int, num_tokens: int, pending: int = 1, num_blocks: int | None = None) -> Running:
    blocks = -(-num_tokens // 16) if num_blocks is None else num_blocks
    return Running(id=id, num_tokens=num_tokens, num_computed=num_tokens - pending, num_blocks=blocks)


def waiting(id: int, num_tokens: int, reused_tokens: int = 0) -> Waiting:
    return Waiting(
        id=id,
        num_tokens=num_tokens,
        reused_tokens=reused_tokens,
        new_blocks=-(-num_tokens // 16) - reused_tokens // 16,
    )


def plan(*sequences: Running | Waiting, free_blocks: int = 100, limits: StepLimits = LIMITS) -> StepPlan:
    return plan_step(
        Snapshot(
            running=tuple(s for s in sequences if isinstance(s, Running)),
            waiting=tuple(s for s in sequences if isinstance(s, Waiting)),
            free_blocks=free_blocks,
            limits=limits,
        )
    )


def rows(*pairs: tuple[int, int]) -> tuple[Rows, ...]:
    return tuple(Rows(id=id, count=count) for id, count in pairs)


def test_nothing_to_do_is_an_empty_plan() -> None:
    assert plan() == StepPlan()


def test_decoding_comes_before_prefill_whatever_the_age() -> None:
    assert plan(running(1, 100, pending=60), running(2, 20)).rows == rows((2, 1), (1, 32))


def test_prefill_shares_the_chunk_oldest_first() -> None:
    assert plan(running(1, 40, pending=20), running(2, 60, pending=60), waiting(3, 5)).rows == rows((1, 20), (2, 12))


def test_decoding_rows_do_not_count_against_the_chunk() -> None:
    assert plan(running(1, 5), running(2, 6), waiting(3, 40)).rows == rows((1, 1), (2, 1), (3, 32))


def test_arrivals_come_in_order_while_there_are_places() -> None:
    limits = StepLimits(max_sequences=2, chunk_tokens=32)
    found = plan(running(1, 5), waiting(2, 4), waiting(3, 4), limits=limits)
    assert (found.admit, found.rows) == ((2,), rows((1, 1), (2, 4)))


def test_nobody_overtakes_one_that_does_not_fit() -> None:
    assert plan(waiting(1, 40), waiting(2, 4), free_blocks=2) == StepPlan()
    assert plan(waiting(1, 16), waiting(2, 40), waiting(3, 4), free_blocks=3).admit == (1,)


def test_blocks_for_decoding_are_set_aside_before_anyone_is_admitted() -> None:
    assert plan(running(1, 17, num_blocks=1), waiting(2, 16), free_blocks=1).rows == rows((1, 1))


def test_a_reused_prefix_saves_rows_and_blocks() -> None:
    found = plan(waiting(1, 40, reused_tokens=32), free_blocks=1)
    assert found.rows == rows((1, 8))


def test_the_youngest_makes_room_and_nothing_else_happens() -> None:
    full = [running(id, 33, num_blocks=2) for id in (1, 2, 3)]
    assert plan(*full, waiting(4, 1), free_blocks=2) == StepPlan(preempt=3)
    assert plan(*full[:2], waiting(3, 33), free_blocks=4).rows[:2] == rows((1, 1), (2, 1))


@pytest.mark.parametrize("field", ["max_sequences", "chunk_tokens"])
def test_limits_are_positive(field: str) -> None:
    with pytest.raises(ValueError):
        StepLimits(**{"max_sequences": 1, "chunk_tokens": 1, field: 0})
