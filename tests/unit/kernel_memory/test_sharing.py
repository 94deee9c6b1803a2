"""Who should hold how many pages: floors, demand, priorities, and no move without need."""

from __future__ import annotations

import pytest

from thaloom.base.errors import OutOfMemory
from thaloom.kernel.memory.sharing import ENDLESS, Share, admit, admit_size, reclaims, room, settled, targets


def share(
    *, floor: int = 0, ceiling: int = ENDLESS, priority: int = 0, held: int = 0, wanted: int = 0, owner: str = "x"
) -> Share:
    return Share(floor, floor, ceiling, priority, held, wanted, owner)


def test_who_wants_alone_gets_all_but_the_floors_of_others() -> None:
    assert targets([share(wanted=500), share(floor=20)], 100) == [80, 0]


def test_a_ceiling_holds_even_where_pages_are_left() -> None:
    assert targets([share(wanted=500, ceiling=30), share(held=50, wanted=50, ceiling=40)], 100) == [30, 40]


def test_equals_get_the_same_but_nobody_more_than_it_wants() -> None:
    assert targets([share(wanted=500), share(wanted=10), share(wanted=500)], 100) == [45, 10, 45]
    assert targets([share(wanted=500), share(wanted=500), share(wanted=500)], 100) == [34, 33, 33]


def test_a_floor_is_ones_own_and_the_rest_is_shared() -> None:
    assert targets([share(floor=40, wanted=500), share(wanted=500)], 100) == [70, 30]


def test_higher_priority_goes_first_and_floors_before_it() -> None:
    assert targets([share(wanted=70, priority=1), share(floor=10, wanted=50), share(wanted=90)], 100) == [70, 20, 10]


def test_what_nobody_wants_stays_where_it_is() -> None:
    assert targets([share(held=60), share(wanted=30)], 100) == [60, 30]


def test_of_what_nobody_wants_the_largest_heaps_go_first_and_the_low_in_priority() -> None:
    assert targets([share(held=50), share(held=20), share(wanted=50)], 100) == [30, 20, 50]
    assert targets([share(held=50, priority=1), share(held=40), share(wanted=50)], 100) == [50, 0, 50]


def test_within_its_floor_nobody_is_asked_for_anything() -> None:
    assert targets([share(floor=30, held=30), share(wanted=500)], 100) == [30, 70]


def test_room_leaves_out_what_is_kept_for_floors() -> None:
    assert room([share(floor=10, held=4), share(held=30)], 100) == 60


def test_a_floor_that_is_lent_out_is_secured_as_pages_come_back() -> None:
    lent = Share(0, 0, ENDLESS, 0, 90, 90)
    owed = Share(30, 0, ENDLESS, 0, 5, 5)
    assert settled([lent, owed], 100, 100) == (100, [0, 10])
    assert targets([lent, owed], 100) == [70, 5]
    assert settled([lent._replace(held=70), owed], 100, 100) == (100, [0, 30])


def test_higher_priority_is_secured_first() -> None:
    low, high = Share(30, 0, ENDLESS, 0, 0, 0), Share(30, 0, ENDLESS, 1, 0, 0)
    assert settled([low, high, share(held=60)], 100, 100) == (100, [10, 30, 0])


def test_a_pool_shrinks_before_floors_are_secured_and_grows_at_once() -> None:
    shares = [Share(30, 0, ENDLESS, 0, 0, 0), share(held=60)]
    assert settled(shares, 100, 50) == (60, [0, 0])
    assert settled(shares, 60, 80) == (80, [20, 0])


def test_a_floor_too_many_is_refused_with_who_has_the_others() -> None:
    others = [share(floor=60, owner="qwen"), share(floor=30, owner="llama"), share(held=10, owner="tiny")]
    admit("new", 10, others, 100)
    with pytest.raises(OutOfMemory, match=r"new needs a floor of 11 pages, 10 of 100 .* qwen 60, llama 30") as refused:
        admit("new", 11, others, 100)
    details = {"needed_pages": 11, "free_pages": 10, "num_pages": 100, "floors": {"qwen": 60, "llama": 30}}
    assert refused.value.details == details


def test_a_pool_below_its_floors_is_refused() -> None:
    shares = [share(floor=10, owner=str(number)) for number in range(7)]
    admit_size(70, shares)
    with pytest.raises(OutOfMemory, match=r"70 pages are promised as floors, a pool of 69 .* 4 10 \.\.\."):
        admit_size(69, shares)


def test_who_is_to_give_back_is_told_by_name() -> None:
    shares = [share(held=80, owner="idle"), share(wanted=50, owner="busy"), share(floor=10, owner="new")]
    assert reclaims(shares, 100) == {"idle": 40}
