"""An answer's text as its tokens come: whole characters only, held back where a stop string may have begun. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence

_BROKEN = "\ufffd"
_MOST_BROKEN = 8
"""Tokens of one character that does not get whole: then it is told as it is."""


class Writing:
    """Feed it tokens. `stopped`: a stop string came; `text` told by then is all there is."""

    def __init__(
        self,
        decode: Callable[[Sequence[int]], str],
        stops: Sequence[str],
        *,
        keep_stop: bool,
        prompt: Sequence[int] = (),
    ) -> None:
        self.stopped: str | None = None
        self._decode = decode
        self._stops = tuple(stops)
        self._keep_stop = keep_stop
        self._tokens = list(prompt[-_MOST_BROKEN:])  # what comes before decides on spaces
        self._begin = 0
        self._told = len(self._tokens)
        self._held = ""

    def feed(self, token: int) -> str:
        """What can be told now. Source of the two windows: vLLM, "detokenizer_utils.py"."""
        self._tokens.append(token)
        before = self._decode(self._tokens[self._begin : self._told])
        after = self._decode(self._tokens[self._begin :])
        if after.endswith(_BROKEN) and len(self._tokens) - self._told < _MOST_BROKEN:
            return ""
        self._begin, self._told = self._told, len(self._tokens)
        return self._tell(after[len(before) :])

    def finish(self) -> str:
        """What was held back, at the end of an answer."""
        before = self._decode(self._tokens[self._begin : self._told])
        text = self._held + self._decode(self._tokens[self._begin :])[len(before) :]
        self._held = ""
        return "" if self.stopped is not None else text

    def _tell(self, text: str) -> str:
        text = self._held + text
        found = [(place, stop) for stop in self._stops if (place := text.find(stop)) >= 0]
        if found:
            place, self.stopped = min(found)
            self._held = ""
            return text[: place + len(self.stopped)] if self._keep_stop else text[:place]
        held = max((_overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]


def _overlap(text: str, stop: str) -> int:
    """How much of the end of `text` may be the beginning of `stop`."""
    return next((size for size in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:size])), 0)
