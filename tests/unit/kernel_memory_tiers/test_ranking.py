from __future__ import annotations

from dataclasses import dataclass

from thaloom.kernel.memory.tiers.ranking import Rank, Ranking, leaving


@dataclass(frozen=True)
class One:
    rank: Rank
    taken_bytes: int
    is_kept: bool = False


def ranking(*ones: One, loses: bool = True) -> Ranking[One]:
    made: Ranking[One] = Ranking(loses=loses)
    for one in ones:
        made.add(one)
    made.check()
    return made


SMALL, OLD, NEW, DEAR = One((0.0, 3), 1), One((1.0, 1), 4), One((1.0, 2), 4), One((9.0, 4), 4)


def test_what_is_worth_least_goes_first_and_of_these_the_oldest() -> None:
    order = ranking(DEAR, NEW, SMALL, OLD)
    assert order.lowest() is SMALL
    assert leaving([order], 5, (2.0, 9)) == [SMALL, OLD]
    assert leaving([order], 9, (2.0, 9)) == [SMALL, OLD, NEW]


def test_nobody_leaves_for_what_is_worth_no_more() -> None:
    order = ranking(DEAR, NEW, SMALL, OLD)
    assert leaving([order], 10, (2.0, 9)) is None
    assert leaving([order], 1, (0.0, 3)) is None


def test_who_turns_out_not_to_be_needed_stays() -> None:
    assert leaving([ranking(SMALL, OLD)], 4, (2.0, 9)) == [OLD]


def test_those_whose_leaving_costs_nothing_go_before_others() -> None:
    loose, sole = ranking(DEAR, loses=False), ranking(SMALL, OLD)
    assert leaving([loose, sole], 4, (9.0, 9)) == [DEAR]
    assert leaving([loose, sole], 5, (9.0, 9)) == [DEAR, SMALL]


def test_what_is_kept_is_never_lost_but_may_move() -> None:
    kept = One((0.0, 1), 4, is_kept=True)
    assert leaving([ranking(kept)], 1, (1.0, 9)) is None
    assert leaving([ranking(kept, NEW)], 4, (2.0, 9)) == [NEW]
    assert leaving([ranking(kept, loses=False)], 1, (1.0, 9)) == [kept]


def test_who_is_not_there_is_discarded_in_vain() -> None:
    order = ranking(OLD)
    order.discard(NEW)
    order.discard(One(OLD.rank, 4))
    assert len(order) == 1
    order.discard(OLD)
    assert len(order) == 0
    assert order.lowest() is None
