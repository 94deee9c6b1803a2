"""Stop strings in a stream: nothing is shown that may turn out to be the beginning of one."""

from __future__ import annotations

from collections.abc import Sequence


class StopStrings:
    """Lets text through up to the first stop string, which is not shown itself unless `include` says so.

    The text ends at the stop string that is complete first; of several complete at the same place, at the one that
    began first. So how the text was cut into pieces makes no difference.
    """

    def __init__(self, stops: Sequence[str], *, include: bool = False) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._include = include
        self._held = ""
        self.found: str | None = None
        """The stop string that ended the text."""

    @property
    def hit(self) -> bool:
        return self.found is not None

    def __bool__(self) -> bool:
        return bool(self._stops)

    def feed(self, text: str) -> str:
        """What may be shown now. Once `hit`, nothing more."""
        if self.found is not None:
            return ""
        if not self._stops:
            return text
        text = self._held + text
        first = self._first_stop(text)
        if first is not None:
            end, begin, self.found = first
            self._held = ""
            return text[: end if self._include else begin]
        shown = len(text) - self._num_doubtful(text)
        self._held = text[shown:]
        return text[:shown]

    def finish(self) -> str:
        """What was held back, when no more comes."""
        held, self._held = self._held, ""
        return held

    def _first_stop(self, text: str) -> tuple[int, int, str] | None:
        """Where it ends and begins, and which it is."""
        return min(((at + len(stop), at, stop) for stop in self._stops if (at := text.find(stop)) >= 0), default=None)

    def _num_doubtful(self, text: str) -> int:
        """Length of the longest end of `text` that begins some stop string."""
        longest = min(len(text), max(map(len, self._stops)) - 1)
        for length in range(longest, 0, -1):
            if any(stop.startswith(text[-length:]) for stop in self._stops if len(stop) > length):
                return length
        return 0
