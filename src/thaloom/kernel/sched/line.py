"""Where a newcomer stands in a line of those who wait: behind its equals, before those who are less urgent.

Somebody less urgent is overtaken only so often, and then stands firm: so nobody starves, whatever else comes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

MAX_OVERTAKEN = 64
"""Some batches of others: long enough to matter, and an end."""


class Waiting(NamedTuple):
    rank: int
    """The lower, the more urgent."""
    num_overtaken: int


def place(line: Sequence[Waiting], rank: int) -> int:
    """The index at which the newcomer joins; those from there on are overtaken."""
    index = len(line)
    while index and line[index - 1].rank > rank and line[index - 1].num_overtaken < MAX_OVERTAKEN:
        index -= 1
    return index
