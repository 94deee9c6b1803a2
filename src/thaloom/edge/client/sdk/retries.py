"""Whether a refused call may be sent again, and when: the error says so, and the call says whether that is safe."""

from __future__ import annotations

from dataclasses import dataclass

from thaloom.base.errors import DeadlineExceeded, NodeNotRunning, ThaloomError, Unavailable


@dataclass(frozen=True, slots=True, kw_only=True)
class Retries:
    """How often and how long a client waits for what will be possible later."""

    max_retries: int = 2
    first_pause_s: float = 0.5
    """Where the error does not say how long; doubled each time, and shortened by up to a half at random, so that many
    clients do not come back at once."""
    max_pause_s: float = 30.0
    """An error that asks for more is raised: its caller knows better what to do meanwhile."""

    def pause_s(
        self, error: ThaloomError, *, num_done: int, repeatable: bool, was_sent: bool, random: float
    ) -> float | None:
        """How long to wait before the call is sent again; None: never.

        `num_done`: retries so far. `repeatable`: done twice, the call does no more than done once. `random`: 0 to 1.
        """
        if num_done >= self.max_retries or not error.retryable or not _is_safe(error, repeatable, was_sent):
            return None
        if error.retry_after_s is not None:
            return error.retry_after_s if error.retry_after_s <= self.max_pause_s else None
        return float(min(self.max_pause_s, self.first_pause_s * 2**num_done) * (1 - random / 2))


def _is_safe(error: ThaloomError, repeatable: bool, was_sent: bool) -> bool:
    if not was_sent:
        return True
    if isinstance(error, DeadlineExceeded):
        return False  # the caller's patience is at its end, not the node's
    if isinstance(error, Unavailable) and not isinstance(error, NodeNotRunning):
        return True  # refused at the entrance: nothing of it was begun
    return repeatable
