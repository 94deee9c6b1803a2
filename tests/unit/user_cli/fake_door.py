"""A door of facts: answers are written down beforehand, questions are remembered."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from thaloom.base.errors import ThaloomError


class FakeDoor:
    """Streams `pieces` as the real door would. `fail_after`: raise `error` after so many pieces."""

    def __init__(self, *pieces: str) -> None:
        self.pieces = pieces or ("The ", "socket ", "option")
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.error: BaseException | None = None
        self.fail_after = 0
        self.finish = True
        self.open = 0
        self.closed = False

    @contextmanager
    def stream(self, path: str, body: Mapping[str, Any]) -> Iterator[Iterator[dict[str, Any]]]:
        self.asked.append((path, dict(body)))
        if isinstance(self.error, ThaloomError) and self.fail_after == 0:
            raise self.error
        self.open += 1
        try:
            yield self._chunks("chat" in path)
        finally:
            self.open -= 1

    def close(self) -> None:
        self.closed = True

    def _chunks(self, chat: bool) -> Iterator[dict[str, Any]]:
        if chat:
            yield self._chunk({"delta": {"role": "assistant", "content": ""}})
        for index, piece in enumerate(self.pieces):
            if self.error is not None and index == self.fail_after:
                raise self.error
            yield self._chunk({"delta": {"content": piece}} if chat else {"text": piece})
        if self.finish:
            yield self._chunk({"delta": {}} if chat else {"text": ""}, "length")
            usage = {"prompt_tokens": 3, "completion_tokens": len(self.pieces)}
            yield {"choices": [], "usage": usage}

    def _chunk(self, content: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
        return {"choices": [{"index": 0, "finish_reason": reason, **content}], "usage": None}
