"""What is on its way to one client: bounded, so that a slow reader costs a fixed amount and holds nobody back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from thaloom.work.runtime.messages import (
    Embedded,
    Ended,
    Failed,
    Finished,
    InferDone,
    LogprobRow,
    PaintDone,
    Piece,
    Reply,
    Spoken,
    State,
    Tokens,
    Transcribed,
)

MAX_TOKENS_BEHIND = 4096
_LAST = (Finished, State, Ended, Embedded, InferDone, Transcribed, Spoken, PaintDone, Failed)


class Outbox:
    """Filled and emptied on the event loop's thread. A piece of text counts as a token. After the last reply
    nothing more goes in."""

    def __init__(self, max_tokens: int = MAX_TOKENS_BEHIND) -> None:
        self._max_tokens = max_tokens
        self._replies: list[Reply] = []
        self._filled = asyncio.Event()
        self._straight: Callable[[Reply], bool] | None = None
        self.num_tokens = 0
        self.ended = False

    def put(self, reply: Reply) -> bool:
        """False, and nothing kept, if the reader is too many tokens behind."""
        if self.ended:
            return True
        added = len(reply.tokens) if isinstance(reply, Tokens) else isinstance(reply, Piece)
        if self.num_tokens + added > self._max_tokens:
            return False
        self.ended = isinstance(reply, _LAST)
        kept = self._straight is None or bool(self._replies) or not self._straight(reply)
        if kept:
            self.num_tokens += added
            self._replies.append(reply)
        if kept or self.ended:
            self._filled.set()
        return True

    @property
    def over(self) -> bool:
        """Whether it has ended and all of it is out."""
        return self.ended and not self._replies

    async def take(self, straight: Callable[[Reply], bool] | None = None) -> list[Reply]:
        """All there is; tokens that waited together become one message.

        While there is nothing, what comes is first offered to `straight`, which says whether it took it: a token then
        costs no change of tasks. Only if the end went that way too is the list empty.
        """
        self._straight = straight
        try:
            await self._filled.wait()
        finally:
            self._straight = None
        self._filled.clear()
        replies, self._replies, self.num_tokens = self._replies, [], 0
        return merge(replies)


def merge(replies: list[Reply]) -> list[Reply]:
    """Runs of Tokens as one."""
    merged: list[Reply] = []
    for reply in replies:
        last = merged[-1] if merged else None
        if isinstance(reply, Tokens) and isinstance(last, Tokens):
            logprobs = _joined(last.logprobs, reply.logprobs)
            merged[-1] = Tokens(tokens=last.tokens + reply.tokens, logprobs=logprobs, started=last.started)
        else:
            merged.append(reply)
    return merged


def _joined(first: list[LogprobRow] | None, second: list[LogprobRow] | None) -> list[LogprobRow] | None:
    return None if first is None or second is None else first + second
