"""How many pages of one device each service should hold: floors first, the rest by demand.

A *floor* is never lent away: pages up to it are kept free for their owner even while it holds none. What is left over
the floors goes to whoever wants pages, higher priority first, among equals so that the least is as much as can be
(max-min fair), up to each one's ceiling. What nobody wants stays with those that hold it: no page moves without need.

A floor that was just promised, and a pool that was just made smaller, cannot hold at once while the pages are lent
out. Then `secured` is what of a floor nobody else can take so far, and it rises as others give back. At all times

    sum over shares of max(held, secured) <= num_pages                                        (no oversell)
    sum over shares of floor <= what num_pages will be                                        (promises can be kept)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from thaloom.base.errors import OutOfMemory

ENDLESS = 1 << 62
"""The ceiling of who has none."""


class Share(NamedTuple):
    """All in pages but the priority, of which more goes first. A tuple: it is made anew for each page that moves."""

    floor: int
    secured: int
    ceiling: int
    priority: int
    held: int
    wanted: int
    owner: str = ""


def targets(shares: Sequence[Share], num_pages: int) -> list[int]:
    """How many pages each should hold: whoever holds more is to give back, whoever holds less may take.

    Never above a ceiling, and above what is wanted only where it is held already and nobody else wants it. Where the
    floors fit into `num_pages`, so do the targets, each with what of its floor is above it.

    What somebody wants depends on nobody's holding. So who takes up to its target, or gives back down to it, changes no
    target, and they need not be computed again for that.
    """
    spare, wishes = num_pages, []
    for floor, _, ceiling, _, _, wanted, _ in shares:
        spare -= floor
        wish = (wanted if wanted < ceiling else ceiling) - floor
        wishes.append(wish if wish > 0 else 0)
    unwanted = spare - sum(wishes)
    more = _by_priority(shares, wishes, spare) if unwanted < 0 else _and_what_is_held(shares, wishes, unwanted)
    return [
        (floor if wanted >= floor or held >= floor else max(wanted, held)) + pages
        for (floor, _, _, _, held, wanted, _), pages in zip(shares, more, strict=True)
    ]


def _and_what_is_held(shares: Sequence[Share], wishes: list[int], unwanted: int) -> list[int]:
    """All wishes, and of the pages that nobody wants those that somebody has."""
    held = [max(0, min(s.held, s.ceiling) - s.floor - wish) for s, wish in zip(shares, wishes, strict=True)]
    kept = held if sum(held) <= unwanted else _by_priority(shares, held, unwanted)
    return [wish + pages for wish, pages in zip(wishes, kept, strict=True)]


def _by_priority(shares: Sequence[Share], wishes: Sequence[int], budget: int) -> list[int]:
    """Of `budget` pages, which all the wishes together exceed, how many each gets."""
    granted = [0] * len(shares)
    groups: dict[int, list[int]] = {}
    for at, wish in enumerate(wishes):
        if wish:
            groups.setdefault(shares[at].priority, []).append(at)
    for _, equals in sorted(groups.items(), reverse=True):
        budget -= _share_out(equals, wishes, max(0, budget), granted)
    return granted


def _share_out(equals: Sequence[int], wishes: Sequence[int], budget: int, granted: list[int]) -> int:
    """Max-min fair: all get the same, but nobody more than it wishes; odd pages go to the first. How many went."""
    left, num_left = budget, len(equals)
    for at in sorted(equals, key=wishes.__getitem__):
        if wishes[at] * num_left > left:
            break
        granted[at] = wishes[at]
        left -= wishes[at]
        num_left -= 1
    if num_left:
        level, odd = divmod(left, num_left)
        for at in equals:
            if wishes[at] > level:
                granted[at] = level + (odd > 0)
                odd -= odd > 0
        left = 0
    return budget - left


def room(shares: Sequence[Share], num_pages: int) -> int:
    """Pages that are neither held nor kept for a floor."""
    return num_pages - sum([max(share.held, share.secured) for share in shares])


def settled(shares: Sequence[Share], num_pages: int, goal: int) -> tuple[int, list[int]]:
    """What pages that are free now are for, before anybody may take them: first the pool comes as near to `goal` as it
    can, then floors are secured, in the order of priority. Gives the pages of the pool and what of each floor is."""
    num_free = room(shares, num_pages)
    num_pages = max(goal, num_pages - num_free)
    secured = [share.secured for share in shares]
    if all(share.secured == share.floor for share in shares):
        return num_pages, secured
    num_free = room(shares, num_pages)
    for at in sorted(range(len(shares)), key=lambda at: -shares[at].priority):
        share = shares[at]
        own = max(share.held, share.secured)
        more = min(max(0, share.floor - own), num_free)
        secured[at] = min(share.floor, own + more)
        num_free -= more
    return num_pages, secured


def admit(owner: str, floor: int, others: Sequence[Share], num_pages: int) -> None:
    """Raises OutOfMemory if a floor cannot be promised beside those of the others, with all that would have to change.
    What others hold above their floors does not stand in its way: it is reclaimed."""
    free = num_pages - sum(share.floor for share in others)
    if floor <= free:
        return
    floors = {share.owner: share.floor for share in others if share.floor}
    raise OutOfMemory(
        f"{owner} needs a floor of {floor} pages, {max(0, free)} of {num_pages} are promised to nobody"
        + (f"; floors of others: {_told(floors)}" if floors else ""),
        needed_pages=floor,
        free_pages=free,
        num_pages=num_pages,
        floors=floors,
    )


def admit_size(num_pages: int, shares: Sequence[Share]) -> None:
    """Raises OutOfMemory if a pool of `num_pages` could not keep the floors that are promised."""
    floors = {share.owner: share.floor for share in shares if share.floor}
    needed = sum(floors.values())
    if needed > num_pages:
        raise OutOfMemory(
            f"{needed} pages are promised as floors, a pool of {num_pages} cannot keep that: {_told(floors)}",
            needed_pages=needed,
            num_pages=num_pages,
            floors=floors,
        )


def reclaims(shares: Sequence[Share], num_pages: int) -> dict[str, int]:
    """Who is to give back how many pages: what stands between now and every promise kept."""
    aims = targets(shares, num_pages)
    return {s.owner: s.held - aim for s, aim in zip(shares, aims, strict=True) if s.held > aim}


def _told(floors: dict[str, int]) -> str:
    shown = sorted(floors.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{owner} {pages}" for owner, pages in shown[:5]) + (" ..." if len(shown) > 5 else "")
