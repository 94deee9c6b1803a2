"""What must be true of targets, whatever the shares."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from thaloom.kernel.memory.sharing import Share, settled, targets


@st.composite
def pools(draw: st.DrawFn) -> tuple[list[Share], int]:
    """Shares that no rule was broken for, and the pages there are."""
    num_pages = draw(st.integers(0, 60))
    left_to_promise = left_to_hold = num_pages
    shares = []
    for number in range(draw(st.integers(1, 6))):
        floor = draw(st.integers(0, left_to_promise))
        left_to_promise -= floor
        own = draw(st.integers(0, left_to_hold))
        held = draw(st.integers(0, own))
        left_to_hold -= own
        ceiling = floor + draw(st.integers(0, 60))
        wanted = draw(st.integers(0, 80))
        priority = draw(st.integers(-1, 1))
        shares.append(Share(floor, min(floor, own), ceiling, priority, held, wanted, str(number)))
    return shares, num_pages


def own(share: Share) -> int:
    """What it wants and may have."""
    return min(share.wanted, share.ceiling)


@given(pools())
def test_targets_fit_and_floors_and_ceilings_hold(pool: tuple[list[Share], int]) -> None:
    shares, num_pages = pool
    aims = targets(shares, num_pages)
    assert sum(max(aim, share.floor) for aim, share in zip(aims, shares, strict=True)) <= num_pages
    for aim, share in zip(aims, shares, strict=True):
        assert min(share.floor, share.wanted) <= aim <= share.ceiling
        assert aim <= max(share.wanted, share.held)


@given(pools())
def test_whoever_goes_short_does_so_for_a_reason(pool: tuple[list[Share], int]) -> None:
    """Every page is in use or kept for a floor, nobody of lower priority has more than its floor, and no equal has more
    above its floor, but for an odd page."""
    shares, num_pages = pool
    aims = targets(shares, num_pages)
    above = [max(0, aim - share.floor) for aim, share in zip(aims, shares, strict=True)]
    for aim, share, mine in zip(aims, shares, above, strict=True):
        if aim < own(share):
            assert sum(max(a, s.floor) for a, s in zip(aims, shares, strict=True)) == num_pages
            for other, theirs in zip(shares, above, strict=True):
                assert other.priority > share.priority or theirs <= (mine + 1) * (other.priority == share.priority)


@given(pools())
def test_nothing_moves_without_need(pool: tuple[list[Share], int]) -> None:
    shares, num_pages = pool
    aims = targets(shares, num_pages)
    asked = sum(max(0, min(s.held, s.ceiling) - aim) for aim, s in zip(aims, shares, strict=True))
    kept = [max(own(share), min(share.held, share.ceiling), share.floor) for share in shares]
    assert asked <= max(0, sum(kept) - num_pages)


@given(pools(), st.data())
def test_moves_towards_targets_change_no_target(pool: tuple[list[Share], int], data: st.DataObject) -> None:
    """What kernel.memory.board relies on: it does not compute them again for such a move."""
    shares, num_pages = pool
    aims = targets(shares, num_pages)
    at = data.draw(st.integers(0, len(shares) - 1))
    low, high = sorted((shares[at].held, aims[at]))
    shares[at] = shares[at]._replace(held=data.draw(st.integers(low, high)))
    assert targets(shares, num_pages) == aims


@given(pools(), st.integers(0, 80))
def test_what_is_secured_is_never_taken_from_anybody(pool: tuple[list[Share], int], goal: int) -> None:
    shares, num_pages = pool
    goal = max(goal, sum(share.floor for share in shares))
    pages, secured = settled(shares, num_pages, goal)
    taken = sum(max(share.held, more) for share, more in zip(shares, secured, strict=True))
    assert taken <= pages
    assert pages >= goal
    for share, more in zip(shares, secured, strict=True):
        assert share.secured <= more <= share.floor
    if pages > goal or any(more < share.floor for share, more in zip(shares, secured, strict=True)):
        assert taken == pages, "pages are free while something is owed"
    assert settled([s._replace(secured=m) for s, m in zip(shares, secured, strict=True)], pages, goal) == (
        pages,
        secured,
    )
