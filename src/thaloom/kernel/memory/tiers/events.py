"""What a store of tiers tells."""

from __future__ import annotations

from dataclasses import dataclass

from thaloom.base.events import Event, at_level


@at_level("warning")
@dataclass(frozen=True, slots=True, kw_only=True)
class DiskTierShort(Event):
    """The disk took no more: until there is room again less is kept there, and what would have gone there is given up
    when host memory is short. Told once until something could be written."""

    folder: str
    reason: str
    held_bytes: int


@at_level("warning")
@dataclass(frozen=True, slots=True, kw_only=True)
class TierObjectLost(Event):
    """What lay in the disk tier was gone, or not what had been written there. It was not used: whoever wanted it makes
    it again."""

    file: str
    reason: str
    num_bytes: int
