"""An answer that is made again, held against what was told of it the first time: pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from thaloom.base.errors import WorkerLost
from thaloom.edge.api.openai.kept.responses.items import Item
from thaloom.work.runtime.types import Delta, ToolCallPiece


@dataclass(slots=True)
class _Told:
    """One item, and how far it is said again. `name`: of the function, if it is a call that has not begun."""

    kind: str
    name: str | None
    text: str
    num_logprobs: int
    """Still to come."""
    num_said: int = 0

    @property
    def is_said(self) -> bool:
        return self.name is None and self.num_said == len(self.text)


class Again:
    """Takes from every piece of the new answer what was told before, so that only news is left.

    The same request with the same seed gets the same tokens, but they need not come in the same pieces: the two are
    held together by their letters. `output`: the items that were told, of which the last may be still open.
    """

    def __init__(self, output: Sequence[Item]) -> None:
        self._told = [_told(item) for item in output]
        self._place = 0

    def rest(self, delta: Delta) -> Delta:
        """Raises WorkerLost if this is another answer."""
        if self._place == len(self._told):
            return delta
        reasoning = self._unsaid("reasoning", delta.reasoning)
        num_known = self._num_known(delta)
        text = self._unsaid("message", delta.text)
        calls = tuple(self._uncalled(piece) for piece in delta.tool_calls)
        logprobs = delta.logprobs[num_known:]
        return dataclasses.replace(delta, reasoning=reasoning, text=text, logprobs=logprobs, tool_calls=calls)

    def end(self) -> None:
        """The new answer is over. Raises WorkerLost if it is shorter."""
        if not all(told.is_said for told in self._told[self._place :]):
            raise _another()

    def _num_known(self, delta: Delta) -> int:
        """How many of its log-probabilities were told."""
        if not delta.text or not self._reach("message"):
            return 0
        now = self._told[self._place]
        num_known = min(now.num_logprobs, len(delta.logprobs))
        now.num_logprobs -= num_known
        return num_known

    def _uncalled(self, piece: ToolCallPiece) -> ToolCallPiece:
        if piece.name is not None and self._reach("function_call", piece.name):
            piece = dataclasses.replace(piece, id=None, name=None)
        return dataclasses.replace(piece, arguments=self._unsaid("function_call", piece.arguments))

    def _unsaid(self, kind: str, text: str) -> str:
        """`text` without what was told of it."""
        if not text or not self._reach(kind):
            return text
        now = self._told[self._place]
        num_known = min(len(now.text) - now.num_said, len(text))
        is_last = self._place == len(self._told) - 1
        if not now.text.startswith(text[:num_known], now.num_said) or (num_known < len(text) and not is_last):
            raise _another()  # other words, or more of them than there were before the next item
        now.num_said += num_known
        return text[num_known:]

    def _reach(self, kind: str, new_name: str | None = None) -> bool:
        """Whether an item of this kind is what was told here. Those before it must have been said again."""
        while self._place < len(self._told):
            now = self._told[self._place]
            if (now.kind, now.name) == (kind, new_name):
                now.name = None
                return True
            if not now.is_said:
                raise _another()
            self._place += 1
        return False


def _told(item: Item) -> _Told:
    if item["type"] == "function_call":
        return _Told("function_call", item["name"], item["arguments"], 0)
    parts = item["content"]
    return _Told(
        item["type"],
        None,
        "".join(part["text"] for part in parts),
        sum(len(part.get("logprobs", ())) for part in parts),
    )


def _another() -> WorkerLost:
    return WorkerLost(
        "the answer was cut off, and is not the same now that it is made again: what was told of it cannot be gone on"
        " with; ask for it anew"
    )
