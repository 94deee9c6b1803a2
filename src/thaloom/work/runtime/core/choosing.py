"""What one sequence's own text changes of how its next token is chosen: penalties, biases, its constraint."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from thaloom.hal.draws import EDIT, Allowed, Draw, Drawn, Edits
from thaloom.work.runtime.core.grammars import Matcher
from thaloom.work.runtime.core.sampling import wish
from thaloom.work.runtime.messages import Generate
from thaloom.work.runtime.types import Sampling


class Chooser:
    """Changed by its engine only: `take` every token that was chosen, in order."""

    def __init__(self, request: Generate, sampling: Sampling, *, vocab_size: int, matcher: Matcher | None) -> None:
        self._request = request
        self._sampling = sampling
        self._matcher = matcher
        self._report = tuple(request.report)
        self._num_taken = 0
        self._biases = dict(sampling.logit_bias)
        self._counts: dict[int, int] = {}
        """Of tokens in the answer."""
        self._penal = (sampling.frequency_penalty, sampling.presence_penalty) != (0.0, 0.0)
        self._places: dict[int, int] = {}
        """Where in `_edits` a token stands."""
        self._edits: Edits = np.zeros(16, EDIT)
        self._held: Allowed | None = _all_but(request.stop_tokens, vocab_size) if request.min_tokens else None
        """Of an answer that may not end yet."""
        self._prompt = frozenset(request.prompt if sampling.repetition_penalty != 1.0 else ())
        for token in self._prompt.union(self._biases):
            self._edit(token)

    @property
    def looks_back(self) -> bool:
        """Whether a token changes how those after it are chosen: then nothing can be guessed ahead."""
        repeats = self._sampling.repetition_penalty != 1.0
        return self._penal or repeats or self._matcher is not None or self._num_taken < self._request.min_tokens

    @property
    def is_greedy(self) -> bool:
        """Whether every draw of the next step's is (`Draw.is_greedy`)."""
        is_held = self._held is not None and self._num_taken < self._request.min_tokens
        is_plain = self._matcher is None and not self._places and not self._penal and not is_held
        return is_plain and self._sampling.temperature == 0.0 and self._request.logprobs is None

    @property
    def complete(self) -> bool:
        """The constraint lets nothing follow any more."""
        return self._matcher is not None and self._matcher.complete

    def wish(self, position: int) -> Draw:
        """The draw of the token at `position`; `permitted` says what becomes of it. Its arrays are good until the next
        `take`. Raises BadParameter where the constraint has become too complex."""
        if self._draws_freely:
            return self._wish(position, None, spares=True)
        return self._wish(position, self._allowed())

    def permitted(self, position: int, drawn: Drawn) -> Drawn | Draw:
        """Of what `wish` gave the first that the constraint lets follow; if none, the draw that decides instead. Raises
        as `wish`.

        Most tokens a model writes by itself are right, and asking about one costs far less than asking which of all
        are. The answer is as likely as if what is not allowed had been left out at once: what is kept is as likely as
        by the model, what is not is shared out by numbers of its own as the model would among those allowed. The
        likeliest token of all, if it is allowed, is the likeliest of those allowed. Filters (top-k, top-p, min-p) count
        what the model itself would say; only where all that they left is refused do they count what is allowed.
        Source: rejection sampling, von Neumann 1951, with as many rejections as there are tokens drawn; with filters
        this is llama.cpp's order too.
        """
        if not self._draws_freely or drawn.token < 0 or self._matcher is None:
            return drawn
        for each in drawn.each():
            if self._matcher.permits(each.token):
                return each
        return self._wish(position, self._allowed(), again=True)

    @property
    def _draws_freely(self) -> bool:
        """Whether the constraint is asked after the draw: not where the answer may not end yet."""
        return self._matcher is not None and self._num_taken >= self._request.min_tokens

    def _wish(self, position: int, allowed: Allowed | None, *, again: bool = False, spares: bool = False) -> Draw:
        return wish(
            self._sampling,
            position=position,
            num_top=self._request.logprobs,
            report=self._report,
            edits=self._edits[: len(self._places)] if self._places else None,
            allowed=allowed,
            again=again,
            spares=spares,
        )

    def take(self, tokens: Iterable[int]) -> None:
        """Raises BadParameter as `wish` does."""
        for token in tokens:
            self._num_taken += 1
            if self._penal or self._sampling.repetition_penalty != 1.0:
                self._counts[token] = self._counts.get(token, 0) + 1
                self._edit(token)
            if self._matcher is not None:
                self._matcher.take(token)

    def _allowed(self) -> Allowed | None:
        held = self._held if self._num_taken < self._request.min_tokens else None
        if self._matcher is None:
            return held
        allowed = self._matcher.allowed()
        if held is not None and (allowed & held).any():  # an answer that can only end may end
            allowed &= held
        return allowed

    def _edit(self, token: int) -> None:
        """Bring a token's edit to where the text stands."""
        place = self._places.setdefault(token, len(self._places))
        if place == len(self._edits):
            self._edits = np.concatenate([self._edits, np.zeros_like(self._edits)])
        count = self._counts.get(token, 0)
        add = self._biases.get(token, 0.0) - self._sampling.frequency_penalty * count
        if count:
            add -= self._sampling.presence_penalty
        repeats = self._sampling.repetition_penalty != 1.0 and (count > 0 or token in self._prompt)
        self._edits[place] = (token, self._sampling.repetition_penalty if repeats else 1.0, add)


def _all_but(tokens: Iterable[int], vocab_size: int) -> Allowed:
    allowed: Allowed = np.full((vocab_size + 31) // 32, 0xFFFFFFFF, np.uint32)
    for token in tokens:
        if 0 <= token < vocab_size:
            allowed[token // 32] &= np.uint32(~(1 << token % 32) & 0xFFFFFFFF)
    return allowed
