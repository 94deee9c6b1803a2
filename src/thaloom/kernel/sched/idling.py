"""Which services give their memory back: pure.

A service that nobody has asked anything for as long as it is kept is unloaded. Where another is to start and memory is
short, idle ones make room before their time: those of a low priority first, and of equals those that have been idle
longest for what they hold. What a service costs when it is gone is the chance that it is asked again times the bytes
to be loaded then, and who has not been asked for twice as long is about half as likely to be asked next.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from thaloom.base.errors import BadParameter
from thaloom.base.ids import DeviceId, ServiceName
from thaloom.kernel.state.types import Priority, check_keep_alive

SETTLED_S = 5.0
"""Idle for less, a service does not make room for another: who asked it may be about to ask again."""
_RANK: dict[Priority, int] = {"low": 0, "normal": 1, "high": 2}


@dataclass(frozen=True, slots=True, kw_only=True)
class IdleConfig:
    """`[idle]` of config.toml."""

    keep_alive_s: float = 300.0
    """For how long a service stays loaded when nobody asks it anything, unless it or a request says otherwise; below 0:
    always. Default: Ollama's."""
    wake_limit_s: float = 300.0
    """How long a request waits at most for a service that was idle. Default: Ollama's OLLAMA_LOAD_TIMEOUT. The door
    reads it when it opens."""

    def __post_init__(self) -> None:
        check_keep_alive(self.keep_alive_s)
        if not 0 < self.wake_limit_s <= 3600:
            raise BadParameter("wake_limit_s must be above 0 and at most 3600", param="wake_limit_s")


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """A service that has workers."""

    service: ServiceName
    device: DeviceId
    num_bytes: int
    """What its workers hold there."""
    idle_s: float | None
    """For how long nobody has asked it anything; None: it is answering, or getting ready."""
    keep_alive_s: float
    priority: Priority = "normal"

    @property
    def pinned(self) -> bool:
        return self.keep_alive_s < 0

    @property
    def due_in_s(self) -> float | None:
        """When it is to be unloaded if nobody asks it anything; not above 0: now. None: not by the passing of time."""
        return None if self.pinned or self.idle_s is None else self.keep_alive_s - self.idle_s

    @property
    def may_make_room(self) -> bool:
        return not self.pinned and self.idle_s is not None and self.idle_s >= SETTLED_S


def room_for(needed_bytes: int, free_bytes: int, loaded: Iterable[Loaded]) -> tuple[Loaded, ...] | None:
    """Whom to unload so that so much is free; None: not even all that may be unloaded would be enough."""
    return _enough(needed_bytes - free_bytes, sorted(filter(lambda one: one.may_make_room, loaded), key=_order))


def room_in_s(needed_bytes: int, free_bytes: int, loaded: Iterable[Loaded]) -> float | None:
    """Where `room_for` finds no room and waiting helps: when it may, at the earliest. Who is answering will have
    answered by then. None: it does not help."""
    settled = [replace(one, idle_s=(one.idle_s or 0.0) + SETTLED_S) for one in loaded]
    chosen = room_for(needed_bytes, free_bytes, settled)
    if chosen is None:
        return None
    return round(max((2 * SETTLED_S - (one.idle_s or 0.0) for one in chosen), default=0.0), 3)


def would_make_room(needed_bytes: int, free_bytes: int, loaded: Iterable[Loaded]) -> tuple[Loaded, ...] | None:
    """As `room_for`, whatever keeps them: those that answer last of all."""
    return _enough(needed_bytes - free_bytes, sorted(loaded, key=_order))


def _order(one: Loaded) -> tuple[bool, int, float, str]:
    idle_s = one.idle_s or 0.0
    return one.idle_s is None, _RANK[one.priority], -idle_s / max(1, one.num_bytes), one.service


def _enough(missing_bytes: int, ordered: Sequence[Loaded]) -> tuple[Loaded, ...] | None:
    """The first of them that are enough, without those that the later ones made needless."""
    chosen: list[Loaded] = []
    left = missing_bytes
    for one in ordered:
        if left <= 0:
            break
        chosen.append(one)
        left -= one.num_bytes
    if left > 0:
        return None
    for one in reversed(chosen):
        if left + one.num_bytes <= 0:
            chosen.remove(one)
            left += one.num_bytes
    return tuple(chosen)
