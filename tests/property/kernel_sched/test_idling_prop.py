"""Whom to unload for what is to start: enough or nobody, never who is pinned or asked, and no one without need."""

from __future__ import annotations

import dataclasses

from hypothesis import given
from hypothesis import strategies as st

from thaloom.base.ids import DeviceId, ServiceName
from thaloom.kernel.sched.idling import SETTLED_S, Loaded, room_for, room_in_s, would_make_room

SERVICES = st.lists(
    st.builds(
        Loaded,
        service=st.sampled_from([ServiceName(name) for name in "abcdefgh"]),
        device=st.just(DeviceId("cpu")),
        num_bytes=st.integers(0, 100),
        idle_s=st.none() | st.floats(0, 1000),
        keep_alive_s=st.sampled_from([-1.0, 0.0, 300.0]),
        priority=st.sampled_from(["high", "normal", "low"]),
    ),
    max_size=8,
    unique_by=lambda one: one.service,
)
NEEDED = st.integers(0, 500)
FREE = st.integers(-50, 200)
RANK = {"low": 0, "normal": 1, "high": 2}


def freed(chosen: tuple[Loaded, ...]) -> int:
    return sum(one.num_bytes for one in chosen)


@given(NEEDED, FREE, SERVICES)
def test_it_is_enough_or_nobody_is_unloaded(needed: int, free: int, loaded: list[Loaded]) -> None:
    chosen = room_for(needed, free, loaded)
    able = [one for one in loaded if one.keep_alive_s >= 0 and one.idle_s is not None and one.idle_s >= SETTLED_S]
    if chosen is None:
        assert free + freed(tuple(able)) < needed
        return
    assert free + freed(chosen) >= needed
    assert set(chosen) <= set(able)


@given(NEEDED, FREE, SERVICES)
def test_nobody_is_unloaded_without_need(needed: int, free: int, loaded: list[Loaded]) -> None:
    for chosen in (room_for(needed, free, loaded), would_make_room(needed, free, loaded)):
        for one in chosen or ():
            assert free + freed(chosen or ()) - one.num_bytes < needed


@given(NEEDED, FREE, SERVICES, st.randoms())
def test_the_order_they_are_told_in_changes_nothing(
    needed: int, free: int, loaded: list[Loaded], random: object
) -> None:
    shuffled = list(loaded)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert room_for(needed, free, loaded) == room_for(needed, free, shuffled)


@given(NEEDED, FREE, SERVICES)
def test_a_low_priority_goes_first_and_of_equals_the_longest_idle_for_its_bytes(
    needed: int, free: int, loaded: list[Loaded]
) -> None:
    """Where one would have been enough by itself, nobody dearer than the cheapest such one is chosen."""
    alike = [dataclasses.replace(one, num_bytes=10) for one in loaded]
    chosen = room_for(needed, free, alike) or ()
    spared = [one for one in alike if one.may_make_room and one not in chosen]
    for gone in chosen:
        for stays in spared:
            assert (RANK[gone.priority], -(gone.idle_s or 0)) <= (RANK[stays.priority], -(stays.idle_s or 0))


@given(NEEDED, FREE, SERVICES)
def test_what_would_make_room_is_told_whenever_anything_would(needed: int, free: int, loaded: list[Loaded]) -> None:
    found = would_make_room(needed, free, loaded)
    assert (found is None) == (free + freed(tuple(loaded)) < needed)
    if found and any(one.idle_s is None for one in found):
        idle = [one for one in loaded if one.idle_s is not None]
        assert free + freed(tuple(idle)) < needed, "who is in use goes last"


@given(NEEDED, FREE, SERVICES)
def test_waiting_helps_where_nobody_who_is_needed_is_pinned(needed: int, free: int, loaded: list[Loaded]) -> None:
    """Those that answer now, too: a request waits for them rather than being refused for good."""
    unpinned = sum(one.num_bytes for one in loaded if not one.pinned)
    wait_s = room_in_s(needed, free, loaded)
    assert (wait_s is None) == (free + unpinned < needed)
    if wait_s is not None and room_for(needed, free, loaded) is None:
        assert 0 < wait_s <= SETTLED_S
        later = [dataclasses.replace(one, idle_s=(one.idle_s or 0.0) + wait_s + 0.001) for one in loaded]
        assert room_for(needed, free, later) is not None
