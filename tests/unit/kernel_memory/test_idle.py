"""What is kept in case somebody comes back: the longest idle goes first, and never more than has to."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from thaloom.kernel.memory.idle import IDLE_S, Idle, to_drop

IDLES = st.lists(st.tuples(st.integers(0, 1000), st.floats(0, 1000))).map(
    lambda facts: [Idle(name=f"{i}", num_bytes=size, since=since) for i, (size, since) in enumerate(facts)]
)


def idle(*facts: tuple[str, int, float]) -> list[Idle]:
    return [Idle(name=name, num_bytes=num_bytes, since=since) for name, num_bytes, since in facts]


def test_nothing_goes_while_there_is_room_and_time() -> None:
    assert to_drop(idle(("a", 10, 0.0), ("b", 10, 5.0)), now=6.0, max_bytes=20) == []
    assert to_drop([], now=6.0, max_bytes=0, needed_bytes=7) == []


def test_what_was_idle_for_too_long_goes() -> None:
    assert to_drop(idle(("a", 10, 0.0), ("b", 10, 5.0)), now=IDLE_S, max_bytes=100) == ["a"]


def test_beyond_the_bound_the_longest_idle_goes_first() -> None:
    assert to_drop(idle(("new", 10, 5.0), ("old", 10, 0.0)), now=6.0, max_bytes=19) == ["old"]


def test_as_many_go_as_make_what_is_needed() -> None:
    kept = idle(("a", 10, 0.0), ("b", 10, 1.0), ("c", 10, 2.0))
    assert to_drop(kept, now=6.0, max_bytes=100, needed_bytes=11) == ["a", "b"]
    assert to_drop(kept, now=6.0, max_bytes=100, needed_bytes=10**9) == ["a", "b", "c"]


@given(IDLES, st.integers(0, 3000), st.integers(0, 3000), st.floats(0, 2000))
def test_bounds_hold_and_the_last_to_go_had_to(kept: list[Idle], most: int, needed: int, now: float) -> None:
    dropped = to_drop(kept, now=now, max_bytes=most, needed_bytes=needed)
    by_name = {each.name: each for each in kept}
    left = [each for each in kept if each.name not in dropped]
    given_back = sum(by_name[name].num_bytes for name in dropped)
    assert len(set(dropped)) == len(dropped)
    assert sum(each.num_bytes for each in left) <= most
    assert all(now - each.since < IDLE_S for each in left)
    assert given_back >= needed or not left
    assert all(by_name[name].since <= each.since for name in dropped for each in left)
    if dropped:
        last = by_name[dropped[-1]]
        without = sum(each.num_bytes for each in left) + last.num_bytes
        assert now - last.since >= IDLE_S or without > most or given_back - last.num_bytes < needed
