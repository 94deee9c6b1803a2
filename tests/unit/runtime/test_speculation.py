"""Guessed tokens in the engine: the same answers in fewer steps, and nothing left behind."""

from __future__ import annotations

import pytest

from tests.unit.runtime.doubles import Bench, Cost, HistoryExecutable, ask, greedy, habitual, line, make_bench
from thaloom.hal.ops import BLOCK_TOKENS
from thaloom.work.runtime.core.sequence import Ticket
from thaloom.work.runtime.messages import Generate, Tokens

HABIT = 6.0
"""Answers that repeat themselves nearly always."""
FREE = line(1e-2, 1e-5)
FAIR = line(1e-2, 1e-3)
DEAR = line(1e-5, 1e-2)
PROMPT = [3, 1, 4, 1, 5, 9, 2, 6] * 4


def bench(
    habit: float = HABIT,
    *,
    draft_rows: int = 16,
    cost: Cost = FREE,
    num_blocks: int = 64,
    **settings: int | bool | Cost,
) -> tuple[Bench, HistoryExecutable]:
    executable = HistoryExecutable(num_blocks, habit)
    found = make_bench(executable, num_blocks=num_blocks, draft_rows=draft_rows, cost=cost, **settings)  # type: ignore[arg-type]
    return found, executable


def answered(request: Generate, habit: float = HABIT, *, draft_rows: int = 16, **settings: int | bool | Cost) -> Bench:
    found, _ = bench(habit, draft_rows=draft_rows, **settings)
    found.submit(request)
    found.run()
    assert found.engine.load().free_blocks == 64
    return found


def tokens(found: Bench) -> list[int]:
    (ticket,) = found.news
    return found.tokens(ticket)


def test_a_repetitive_answer_takes_far_fewer_steps_and_is_the_same() -> None:
    found = answered(ask(PROMPT, 120))
    counters = found.engine.counters
    assert tokens(found) == greedy(PROMPT, 120, HABIT)
    assert counters.steps < 60
    assert counters.drafted_tokens >= counters.accepted_tokens > 60
    assert counters.completion_tokens == 120


def test_switched_off_nothing_is_guessed() -> None:
    found = answered(ask(PROMPT, 60), draft_rows=0)
    assert tokens(found) == greedy(PROMPT, 60, HABIT)
    assert found.engine.counters.drafted_tokens == 0


def test_nothing_is_guessed_where_rows_cost_what_they_bring() -> None:
    found = answered(ask(PROMPT, 60), cost=DEAR)
    assert tokens(found) == greedy(PROMPT, 60, HABIT)
    assert found.engine.counters.drafted_tokens == 0


def test_answers_without_repetition_are_soon_left_alone() -> None:
    found = answered(ask(PROMPT, 200), habit=0.0, cost=FAIR)
    counters = found.engine.counters
    assert tokens(found) == greedy(PROMPT, 200)
    assert counters.drafted_tokens < 20


def seconds_and_gaps(draft_rows: int, requests: list[Generate], habit: float) -> tuple[float, list[float]]:
    """Of all requests at once on a device whose rows are far from free, and between tokens of those that are drawn."""
    found, _ = bench(habit, draft_rows=draft_rows, cost=FAIR, num_blocks=400, max_sequences=16, chunk_tokens=64)
    drawn = {found.submit(request) for request in requests if request.temperature}
    for request in requests:
        if not request.temperature:
            found.submit(request)
    latest: dict[Ticket, float] = {}
    gaps = []
    while found.engine.busy:
        news = found.step()
        now = found.engine.counters.step_seconds
        for ticket, reply in news:
            if ticket in drawn and isinstance(reply, Tokens):
                if ticket in latest:
                    gaps.append(now - latest[ticket])
                latest[ticket] = now
    return found.engine.counters.step_seconds, sorted(gaps)


def test_neighbours_for_whom_nothing_is_guessed_do_not_wait_for_others_guesses() -> None:
    drawn = [ask([number, 7, 9], 60, temperature=1.5, seed=number) for number in range(6)]
    requests = drawn + [ask([*PROMPT, number], 60) for number in range(6)]
    plain, guessed = (seconds_and_gaps(draft_rows, requests, HABIT) for draft_rows in (0, 16))
    p99 = [gaps[int(0.99 * len(gaps))] for _, gaps in (plain, guessed)]
    assert p99[1] <= 1.1 * p99[0]
    assert guessed[0] < plain[0]


def test_answers_without_repetition_cost_no_more_time() -> None:
    requests = [ask([*PROMPT, number], 60) for number in range(8)]
    plain, guessed = (seconds_and_gaps(draft_rows, requests, 0.0)[0] for draft_rows in (0, 16))
    assert guessed <= 1.02 * plain


@pytest.mark.parametrize("temperature", [0.3, 1.0])
def test_drawn_answers_are_the_same_too(temperature: float) -> None:
    request = ask(PROMPT, 120, temperature=temperature, top_k=20, top_p=0.9, seed=5, logprobs=2)
    plain, guessed = answered(request, draft_rows=0), answered(request)
    rows = [
        [row for reply in next(iter(found.news.values())) if isinstance(reply, Tokens) for row in reply.logprobs or []]
        for found in (plain, guessed)
    ]
    assert tokens(plain) == tokens(guessed)
    assert rows[0] == rows[1]
    assert len(rows[0]) == 120
    assert guessed.engine.counters.drafted_tokens > 0


def test_a_stop_token_among_right_guesses_ends_the_answer_there() -> None:
    answer = greedy(PROMPT, 120, HABIT)
    for stop in set(answer[20:]) - set(answer[:20]) | {answer[-1], answer[70]}:
        at = answer.index(stop)
        found = answered(ask(PROMPT, 120, stop_tokens=[stop]))
        (ticket,) = found.news
        assert found.tokens(ticket) == answer[:at]
        assert found.finished(ticket).reason == "stop"
        assert found.finished(ticket).completion_tokens == at + 1 == found.engine.counters.completion_tokens


def test_no_pin_breaks_for_a_guess() -> None:
    found, _ = bench(num_blocks=16, pin_share=1)
    kept = 6 * BLOCK_TOKENS
    for salt in ("mine", "theirs"):
        found.submit(ask([1] * kept, 2, pins=[(kept, 60.0)], cache_salt=salt))
    found.run()
    drafted = found.engine.counters.drafted_tokens
    ticket = found.submit(ask(PROMPT, 100))
    left = (16 - 2 * 6) * BLOCK_TOKENS
    while len(PROMPT) + len(found.tokens(ticket)) <= left:
        found.step()
        assert found.engine.load().num_broken_pins == 0
    assert found.engine.counters.drafted_tokens > drafted
    found.run()
    assert found.tokens(ticket) == greedy(PROMPT, 100, HABIT)
    assert found.engine.load().num_broken_pins == 5, "for tokens of the answer"


@pytest.mark.parametrize("max_tokens", [1, 2, 3, 17, 50])
def test_never_more_tokens_than_asked_for_and_never_a_row_beyond_the_context(max_tokens: int) -> None:
    found, executable = bench(context_length=len(PROMPT) + max_tokens)
    ticket = found.submit(ask(PROMPT, max_tokens))
    found.run()
    assert found.tokens(ticket) == greedy(PROMPT, max_tokens, HABIT)
    last = max(int(step.positions.max()) for step in executable.steps)
    assert last <= len(PROMPT) + max_tokens - 2, "the last token is never computed"


def test_wrong_guesses_leave_nothing_behind_that_others_could_find() -> None:
    found, _ = bench(habit=1.2)
    first = found.submit(ask(PROMPT, 100))
    found.run()
    assert found.engine.counters.drafted_tokens > found.engine.counters.accepted_tokens > 0
    again = PROMPT + found.tokens(first)
    second = found.submit(ask(again, 20))
    found.run()
    assert found.finished(second).cached_tokens == (len(again) - 1) // BLOCK_TOKENS * BLOCK_TOKENS
    assert found.tokens(second) == greedy(again, 20, 1.2)


def test_guesses_take_no_block_that_a_neighbour_needs() -> None:
    """A pool that only just suffices: whoever would be preempted is preempted for tokens, not for guesses."""
    plain, _ = bench(draft_rows=0, num_blocks=12, max_sequences=3)
    guessed, _ = bench(num_blocks=12, max_sequences=3)
    for found in (plain, guessed):
        tickets = [found.submit(ask([*PROMPT, last], 60)) for last in range(3)]
        found.run()
        for last, ticket in enumerate(tickets):
            assert found.tokens(ticket) == greedy([*PROMPT, last], 60, HABIT)
        assert found.engine.load().free_blocks == 12
    assert guessed.engine.counters.accepted_tokens > 0
    assert guessed.engine.counters.preemptions <= plain.engine.counters.preemptions


def test_what_came_before_numbers_that_are_not_finite_is_still_told() -> None:
    answer = greedy(PROMPT, 120, HABIT)
    poison = answer[90]
    at = answer.index(poison)
    found, executable = bench()
    executable.poisoned = {poison}
    ticket = found.submit(ask([token for token in PROMPT if token != poison], 120))
    found.run()
    expected, history = [], [token for token in PROMPT if token != poison]
    while not expected or expected[-1] != poison:
        expected.append(int(habitual(history + expected, HABIT).argmax()))
    assert at >= 0
    assert found.tokens(ticket) == expected
    assert found.failed(ticket)["code"] == "internal_error"


def test_a_cancelled_request_takes_its_guesses_with_it() -> None:
    found, _ = bench()
    ticket = found.submit(ask(PROMPT, 100))
    while not found.engine.counters.accepted_tokens:
        found.step()
    assert found.engine.cancel(ticket)
    assert found.engine.load().free_blocks == 64
