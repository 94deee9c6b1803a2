"""How fast an engine has been lately, to tell those it turns away when to come back."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

UNMEASURED_S = 1.0
"""What is told before anything was measured: the shortest wait a Retry-After header can name."""


class Pace:
    """Means over the last 64 steps and the last 32 answers."""

    def __init__(self) -> None:
        self._step_s: deque[float] = deque(maxlen=64)
        self._answer_tokens: deque[int] = deque(maxlen=32)

    def stepped(self, seconds: float) -> None:
        self._step_s.append(seconds)

    def answered(self, num_tokens: int) -> None:
        self._answer_tokens.append(num_tokens)

    def next_place_s(self, running: Iterable[tuple[int, int]]) -> float:
        """Seconds until one of the running answers, each (tokens generated, tokens it may have), is likely to end.

        An answer is taken to be as long as the recent ones, if it may be; a token takes a step.
        """
        if not self._step_s:
            return UNMEASURED_S
        step_s = sum(self._step_s) / len(self._step_s)
        answers = self._answer_tokens
        usual = sum(answers) / len(answers) if answers else float("inf")
        left = [max(1.0, min(usual, most) - generated) for generated, most in running]
        return step_s * min(left, default=1.0)
