"""A line of those who wait: the urgent come first, equals in order of arrival, and nobody waits for ever."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from thaloom.kernel.sched.line import MAX_OVERTAKEN, Waiting, place


def test_urgent_ones_stand_before_others_and_behind_their_equals() -> None:
    line = [Waiting(0, 0), Waiting(1, 0), Waiting(1, 0), Waiting(2, 0)]
    assert [place(line, rank) for rank in (0, 1, 2)] == [1, 3, 4]
    assert place([], 2) == 0


def test_who_was_overtaken_often_enough_stands_firm() -> None:
    assert place([Waiting(2, MAX_OVERTAKEN - 1)], 0) == 0
    assert place([Waiting(2, MAX_OVERTAKEN)], 0) == 1


@given(st.lists(st.one_of(st.integers(0, 2), st.just(-1)), max_size=400))
def test_equals_stay_in_order_and_nobody_is_overtaken_more_often(comings: list[int]) -> None:
    """-1: the first in line goes."""
    line: list[list[int]] = []  # [rank, times overtaken, number]
    for number, rank in enumerate(comings):
        if rank < 0:
            del line[:1]
            continue
        index = place([Waiting(one[0], one[1]) for one in line], rank)
        for one in line[index:]:
            assert one[0] > rank, "only those less urgent are overtaken"
            one[1] += 1
        line.insert(index, [rank, 0, number])
        assert all(one[1] <= MAX_OVERTAKEN for one in line)
        for each in range(3):
            numbers = [one[2] for one in line if one[0] == each]
            assert numbers == sorted(numbers)
