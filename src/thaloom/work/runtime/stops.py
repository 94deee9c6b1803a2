"""Stop strings in a stream: nothing is shown that may turn out to be the beginning of one."""

from __future__ import annotations

from collections.abc import Sequence


class StopStrings:
    """Lets text through up to the first stop string, which is not shown itself.

    The text ends at the stop string that is complete first; of several complete at the same place, at the one that
    began first. So how the text was cut into pieces makes no difference.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._held = ""
        self.hit = False

    def __bool__(self) -> bool:
        return bool(self._stops)

    def feed(self, text: str) -> str:
        """What may be shown now. Once `hit`, nothing more."""
        if self.hit:
            return ""
        if not self._stops:
            return text
        text = self._held + text
        cut = self._first_stop(text)
        if cut is not None:
            self.hit, self._held = True, ""
            return text[:cut]
        shown = len(text) - self._num_doubtful(text)
        self._held = text[shown:]
        return text[:shown]

    def finish(self) -> str:
        """What was held back, when no more comes."""
        held, self._held = self._held, ""
        return held

    def _first_stop(self, text: str) -> int | None:
        found = [(at + len(stop), at) for stop in self._stops if (at := text.find(stop)) >= 0]
        return min(found)[1] if found else None

    def _num_doubtful(self, text: str) -> int:
        """Length of the longest end of `text` that begins some stop string."""
        longest = min(len(text), max(map(len, self._stops)) - 1)
        for length in range(longest, 0, -1):
            if any(stop.startswith(text[-length:]) for stop in self._stops if len(stop) > length):
                return length
        return 0
