from __future__ import annotations

import pytest

from thaloom.base.errors import OutOfMemory
from thaloom.kernel.memory.states.planning import Array, Use, plan
from thaloom.kernel.memory.tiers.types import UNIT_BYTES

ARRAYS = {name: Array((UNIT_BYTES // 4,)) for name in "abcd"} | {"large": Array((4, UNIT_BYTES // 4))}
ROUND = [
    Use(name="first", reads=("a",), updates=("b",)),
    Use(name="second", writes=("c",), takes=("d",)),
    Use(name="third", updates=("large",)),
]


def units(count: int) -> int:
    return count * UNIT_BYTES


def test_a_use_needs_what_its_arrays_take_in_whole_units() -> None:
    arrays = {"a": Array((1,)), "b": Array((UNIT_BYTES,), "u1"), "c": Array((UNIT_BYTES + 1,), "u1")}
    found = plan(
        arrays, [Use(name="all", reads=("a", "b", "c"))], slice_bytes=1 << 20, host_bytes=1 << 20, disk_bytes=0
    )
    assert found.need_bytes == {"all": units(4)}


def test_a_use_that_does_not_fit_the_slice_is_refused_by_how_much() -> None:
    with pytest.raises(OutOfMemory, match=r"needs 16.0 KiB, the slice can hold 12.0 KiB: 4.0 KiB too much") as refused:
        plan(ARRAYS, ROUND, slice_bytes=units(3), host_bytes=units(100), disk_bytes=0)
    assert refused.value.details == {"needed_bytes": units(4), "free_bytes": units(3)}
    plan(ARRAYS, ROUND, slice_bytes=units(4), host_bytes=units(100), disk_bytes=0)


@pytest.mark.parametrize(
    ("host", "disk", "fits"),
    [(8, 0, True), (7, 0, False), (8, 8, True), (8, 7, False), (10, 6, True), (11, 5, True), (11, 4, False)],
)
def test_all_arrays_must_fit_the_tiers_beside_what_is_on_its_way(host: int, disk: int, fits: bool) -> None:
    """Eight units in all, the largest array four of them: twice that is on its way where there is a disk."""
    if fits:
        plan(ARRAYS, ROUND, slice_bytes=units(9), host_bytes=units(host), disk_bytes=units(disk))
    else:
        with pytest.raises(OutOfMemory, match="the tiers can hold") as refused:
            plan(ARRAYS, ROUND, slice_bytes=units(9), host_bytes=units(host), disk_bytes=units(disk))
        assert refused.value.details["needed_bytes"] == units(8)
        assert refused.value.details["free_bytes"] < units(8)


def test_host_memory_is_too_small_for_what_is_on_its_way() -> None:
    with pytest.raises(OutOfMemory):
        plan(ARRAYS, ROUND, slice_bytes=units(9), host_bytes=units(7), disk_bytes=units(100))


def test_what_moves_most_stays_in_host_memory() -> None:
    found = plan(ARRAYS, ROUND, slice_bytes=units(9), host_bytes=units(9), disk_bytes=units(100))
    assert found.worth["b"] > 0
    assert [name for name, worth in found.worth.items() if worth] == ["b"]


@pytest.mark.parametrize(
    ("schedule", "wrong"),
    [
        ([], "without uses"),
        ([Use(name="x", reads=("a",)), Use(name="x")], "two of one name"),
        ([Use(name="x", reads=("unknown",))], "not declared"),
        ([Use(name="x", reads=("a",), writes=("a",))], "twice"),
    ],
)
def test_a_schedule_that_cannot_be_is_an_error_of_its_writer(schedule: list[Use], wrong: str) -> None:
    with pytest.raises(ValueError, match=wrong):
        plan(ARRAYS, schedule, slice_bytes=1 << 20, host_bytes=1 << 20, disk_bytes=0)
