"""From a worker's tokens to what a client may see: text, stop strings, log-probabilities."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from thaloom.work.runtime.messages import LogprobRow, PromptLogprobs, Tokens
from thaloom.work.runtime.stops import StopStrings
from thaloom.work.runtime.text import Tokenizer
from thaloom.work.runtime.types import Delta, PositionLogprobs, TokenLogprob


class AnswerText:
    """One answer in the making. A token's log-probabilities are given out with the first character it took part in,
    so they neither run ahead of the text nor cover what a stop string cut off."""

    def __init__(self, tokenizer: Tokenizer, *, stop: Sequence[str], at_start: bool) -> None:
        self._tokenizer = tokenizer
        self._detokeniser = tokenizer.detokeniser(at_start=at_start)
        self._stops = StopStrings(stop)
        self._num_decoded = 0
        self._num_shown = 0
        self._pending: deque[tuple[int, PositionLogprobs]] = deque()
        self.num_tokens = 0

    @property
    def stopped(self) -> bool:
        """Whether a stop string is complete; what comes after it is not looked at."""
        return self._stops.hit

    def feed(self, message: Tokens) -> Delta:
        if message.logprobs is None and not self._stops:  # nothing to look at between two tokens
            self.num_tokens += len(message.tokens)
            return Delta(text=self._detokeniser.feed(message.tokens), num_tokens=len(message.tokens))
        shown, num_before = "", self.num_tokens
        for index, token in enumerate(message.tokens):
            if self.stopped:
                break
            if message.logprobs is not None:
                self._pending.append((self._num_decoded, self._position(token, message.logprobs[index])))
            self.num_tokens += 1
            shown += self._show(self._detokeniser.feed((token,)))
        return Delta(text=shown, num_tokens=self.num_tokens - num_before, logprobs=self._due())

    def finish(self) -> Delta:
        """What was held back, when the model has come to its own end."""
        shown = self._show(self._detokeniser.finish())
        if not self.stopped:
            rest = self._stops.finish()
            self._num_shown += len(rest)
            shown += rest
        due = self._due() if self.stopped else self._due() + tuple(entry for _, entry in self._pending)
        self._pending.clear()
        return Delta(text=shown, num_tokens=0, logprobs=due)

    def of_prompt(self, message: PromptLogprobs) -> Delta:
        """The prompt's own tokens, told before the answer."""
        raise NotImplementedError

    def _show(self, text: str) -> str:
        self._num_decoded += len(text)
        shown = self._stops.feed(text)
        self._num_shown += len(shown)
        return shown

    def _due(self) -> tuple[PositionLogprobs, ...]:
        due: list[PositionLogprobs] = []
        while self._pending and self._pending[0][0] < self._num_shown:
            due.append(self._pending.popleft()[1])
        return tuple(due)

    def _position(self, token: int, row: LogprobRow) -> PositionLogprobs:
        top = tuple(self._logprob(*pair) for pair in zip(row.top_tokens, row.top_logprobs, strict=True))
        return PositionLogprobs(chosen=self._logprob(token, row.chosen), top=top)

    def _logprob(self, token: int, logprob: float) -> TokenLogprob:
        data = self._tokenizer.token_bytes(token)
        return TokenLogprob(token=token, text=data.decode(errors="replace"), data=data, logprob=logprob)
