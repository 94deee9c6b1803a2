"""Who is next, case by case."""

from __future__ import annotations

import pytest

from thaloom.kernel.sched import turns
from thaloom.kernel.sched.turns import NORMAL, PROMPTS_WAIT, SLACK_NS, Turn, due_ns, next_turn, rejoined, served


@pytest.fixture
def _equals_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "EQUALS_WAIT", True)


def turn(
    *,
    weight: int = NORMAL,
    width: int = 2,
    deadline_ns: int = 0,
    service_ns: int = 0,
    length_ns: int = 0,
    holds: bool = False,
) -> Turn:
    return Turn(weight, width, deadline_ns, service_ns, length_ns, holds)


def test_nobody_waits_nobody_is_next() -> None:
    assert next_turn([], 2) is None
    assert next_turn([turn(holds=True)], 2) is None


def test_the_earliest_deadline_goes_first() -> None:
    assert next_turn([turn(deadline_ns=30), turn(deadline_ns=10), turn(deadline_ns=20)], 2) == 1


def test_who_has_had_more_than_its_share_waits_whatever_its_deadline() -> None:
    assert next_turn([turn(deadline_ns=1, service_ns=SLACK_NS), turn(deadline_ns=2)], 2) == 0
    assert next_turn([turn(deadline_ns=1, service_ns=SLACK_NS + 1), turn(deadline_ns=2)], 2) == 1


def test_who_has_had_too_much_goes_if_nobody_else_waits() -> None:
    assert next_turn([turn(service_ns=10**12)], 2) == 0


@pytest.mark.usefixtures("_equals_wait")
def test_a_device_holds_as_many_as_it_is_wide() -> None:
    assert next_turn([turn(holds=True), turn()], 2) is None
    assert next_turn([turn(width=1, holds=True), turn(width=1)], 2) == 1
    assert next_turn([turn(width=1, holds=True), turn(width=2)], 2) is None
    assert next_turn([turn(width=9)], 2) == 0, "wider than the device: alone"


@pytest.mark.usefixtures("_equals_wait")
def test_a_wide_one_is_not_kept_out_by_narrow_ones() -> None:
    waiting = [turn(width=1, holds=True), turn(width=2, deadline_ns=1), turn(width=1, deadline_ns=2)]
    assert next_turn(waiting, 2) is None


@pytest.mark.usefixtures("_equals_wait")
def test_who_answers_somebody_does_not_wait_for_who_can_wait() -> None:
    assert next_turn([turn(weight=10, holds=True), turn(weight=300)], 2) == 1
    assert next_turn([turn(weight=300, holds=True), turn(weight=10)], 2) is None
    assert next_turn([turn(weight=100, holds=True), turn(weight=300)], 2) is None


@pytest.mark.usefixtures("_equals_wait")
def test_a_token_does_not_wait_for_a_prompt() -> None:
    token, prompt = turn(length_ns=4), turn(length_ns=40)
    assert next_turn([prompt._replace(holds=True), token], 2) == 1
    assert next_turn([token._replace(holds=True), prompt], 2) is None
    assert next_turn([turn(length_ns=39, holds=True), token], 2) is None
    assert next_turn([turn(length_ns=0, holds=True), token], 2) is None, "what nobody knows is waited for"
    assert next_turn([turn(weight=10, length_ns=4, holds=True), turn(weight=300, length_ns=40)], 2) is None


def test_only_the_lighter_waits_unless_equals_do() -> None:
    assert next_turn([turn(holds=True), turn()], 2) == 1
    assert next_turn([turn(holds=True), turn(weight=NORMAL + 1)], 2) == 1
    assert next_turn([turn(holds=True), turn(weight=NORMAL - 1)], 2) is None


def test_service_is_time_over_weight() -> None:
    assert served(5, 300, 300) == 105
    assert served(5, 300, 10) == 3005
    assert served(5, -1, 0) == 5, "nonsense in a file harms nobody"


def test_who_comes_back_is_owed_nothing_and_owes_little() -> None:
    assert rejoined(0, [700, 500]) == 500
    assert rejoined(600, [700, 500]) == 600
    assert rejoined(10**12, [700, 500]) == 500 + SLACK_NS
    assert rejoined(7, []) == 7


def test_prompts_are_due_later_than_tokens() -> None:
    assert due_ns(100, 0.05, decodes=True) == 100 + 50_000_000
    assert due_ns(100, 0.05, decodes=False) == 100 + PROMPTS_WAIT * 50_000_000
