"""From a worker's tokens to what a client may see: text, thoughts, calls, stop strings, log-probabilities."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from thaloom.work.runtime.dialects.hearing import Hearing
from thaloom.work.runtime.dialects.told import Heard
from thaloom.work.runtime.messages import LogprobRow, PromptLogprobs, Tokens
from thaloom.work.runtime.text.stops import StopStrings
from thaloom.work.runtime.text.tokenizer import Tokenizer
from thaloom.work.runtime.types import Delta, PositionLogprobs, TokenLogprob

_NOTHING = Heard()


class AnswerText:
    """One answer in the making. A token's log-probabilities are given out with the first character it took part in,
    so they neither run ahead of the text nor cover what a stop string cut off.

    Stop strings are looked for in all that the model writes, its thoughts and calls too; what is left is sorted by
    `hearing`, if there is one. `echoed` is the prompt, where it is told before the answer.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        stop: Sequence[str],
        stop_tokens: frozenset[int] = frozenset(),
        at_start: bool,
        include_stop: bool = False,
        special: bool = False,
        shown: frozenset[int] = frozenset(),
        hearing: Hearing | None = None,
        one_call: bool = False,
        echoed: Sequence[int] = (),
        with_logprobs: bool = False,
    ) -> None:
        """`special`: with special tokens as they are written; else only those `shown`, for the hearing. `one_call`: the
        first call that is whole ends the answer. `with_logprobs`: of what is echoed too."""
        self._tokenizer = tokenizer
        self._detokeniser = tokenizer.detokeniser(at_start=at_start or bool(echoed), special=special, shown=shown)
        self._stops = StopStrings(stop, include=include_stop)
        self.stop_tokens = stop_tokens
        """Those of the request."""
        self._hearing = hearing
        self._one_call = one_call
        self._echoed = echoed
        self._with_logprobs = with_logprobs
        self._num_echoed = 0
        self._num_decoded = 0
        self._num_shown = 0
        self._pending: deque[tuple[int, PositionLogprobs]] = deque()
        self.num_tokens = 0
        self.num_reasoning = 0
        """Tokens of the thoughts, their marks among them."""
        self.num_calls = 0
        """Calls that are whole."""

    @property
    def stopped(self) -> bool:
        """Whether a stop string is complete, or the one call; what comes after it is not looked at."""
        return self._stops.found is not None or (self._one_call and self.num_calls > 0)

    @property
    def stop_found(self) -> str | None:
        return self._stops.found

    @property
    def _thinking(self) -> bool:
        return self._hearing is not None and self._hearing.thinking

    def feed(self, message: Tokens) -> Delta:
        if message.logprobs is None and not self._stops and self._hearing is None:  # nothing to look at between tokens
            self.num_tokens += len(message.tokens)
            return Delta(text=self._detokeniser.feed(message.tokens), num_tokens=len(message.tokens))
        parts: list[Heard] = []
        num_before = self.num_tokens
        for index, token in enumerate(message.tokens):
            if self.stopped:
                break
            if message.logprobs is not None:
                self._pending.append((self._num_decoded, self._position(token, message.logprobs[index])))
            self.num_tokens += 1
            thinking = self._thinking
            parts.append(self._show(self._detokeniser.feed((token,))))
            if thinking or self._thinking:  # thoughts come first
                self.num_reasoning = self.num_tokens
        return self._delta(parts, num_tokens=self.num_tokens - num_before)

    def finish(self) -> Delta:
        """What was held back, when the model has come to its own end."""
        parts = [self._show(self._detokeniser.finish())]
        if not self.stopped:
            parts.append(self._hear(self._stops.finish()))
            parts.append(self._end_of_hearing())
        delta = self._delta(parts, num_tokens=0, all_due=not self.stopped)
        self._pending.clear()
        return delta

    def of_prompt(self, message: PromptLogprobs) -> Delta:
        """Some more of the prompt's own tokens, told before the answer. The first token of all has no probability."""
        told = [] if self._num_echoed else [PositionLogprobs(chosen=self._logprob(self._echoed[0], None), top=())]
        start = self._num_echoed + len(told)
        tokens = self._echoed[start : start + len(message.rows)]
        told += [self._position(token, row) for token, row in zip(tokens, message.rows, strict=True)]
        return Delta(text=self._echo(start + len(tokens)), num_tokens=0, logprobs=tuple(told))

    def rest_of_prompt(self) -> Delta | None:
        """What of the prompt is to be told and was not, when the answer begins: all of it, where no log-probabilities
        are wanted; a first token with nothing behind it, where they are."""
        if self._num_echoed == len(self._echoed):
            return None
        if self._with_logprobs:
            return self.of_prompt(PromptLogprobs(rows=[]))
        return Delta(text=self._echo(len(self._echoed)), num_tokens=0)

    def _echo(self, end: int) -> str:
        start, self._num_echoed = self._num_echoed, end
        return self._detokeniser.feed(self._echoed[start:end])

    def _show(self, text: str) -> Heard:
        self._num_decoded += len(text)
        heard = self._hear(self._stops.feed(text))
        return _joined([heard, self._end_of_hearing()]) if self.stopped else heard

    def _hear(self, text: str) -> Heard:
        self._num_shown += len(text)
        hearing = self._hearing
        if hearing is None:
            return Heard(text=text)
        heard = hearing.feed(text)
        self.num_calls = hearing.num_whole_calls
        if hearing.over:
            self._hearing = None
        return heard

    def _end_of_hearing(self) -> Heard:
        if self._hearing is None:
            return _NOTHING
        heard = self._hearing.finish()
        self.num_calls = self._hearing.num_whole_calls
        self._hearing = None
        return heard

    def _delta(self, parts: Sequence[Heard], *, num_tokens: int, all_due: bool = False) -> Delta:
        heard = _joined(parts)
        due = tuple(entry for _, entry in self._pending) if all_due else self._due()
        return Delta(
            text=heard.text,
            num_tokens=num_tokens,
            logprobs=due,
            reasoning=heard.reasoning,
            tool_calls=heard.tool_calls,
        )

    def _due(self) -> tuple[PositionLogprobs, ...]:
        num_told = self._num_shown - (0 if self._hearing is None else self._hearing.num_held)
        due: list[PositionLogprobs] = []
        while self._pending and self._pending[0][0] < num_told:
            due.append(self._pending.popleft()[1])
        return tuple(due)

    def _position(self, token: int, row: LogprobRow) -> PositionLogprobs:
        top = tuple(self._logprob(*pair) for pair in zip(row.top_tokens, row.top_logprobs, strict=True))
        return PositionLogprobs(chosen=self._logprob(token, row.chosen), top=top)

    def _logprob(self, token: int, logprob: float | None) -> TokenLogprob:
        data = self._tokenizer.token_bytes(token)
        return TokenLogprob(token=token, text=data.decode(errors="replace"), data=data, logprob=logprob)


def _joined(parts: Sequence[Heard]) -> Heard:
    if len(parts) == 1:
        return parts[0]
    return Heard(
        text="".join(part.text for part in parts),
        reasoning="".join(part.reasoning for part in parts),
        tool_calls=tuple(piece for part in parts for piece in part.tool_calls),
    )
