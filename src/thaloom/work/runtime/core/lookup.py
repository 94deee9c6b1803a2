"""Guessing the next tokens of a sequence from its own: what came last has often come before, and what followed then
may follow now.

Answers repeat what the prompt says (code that is edited, documents that are quoted, fields of a form) and themselves.
A guess costs one dictionary entry a token to keep ready and is checked by the model (`engine`), so a wrong one changes
nothing but time. How often guesses would have been right is measured on every token, whether anyone acts on them or
not: that costs no row, and is how the engine knows when to begin and when to stop.

Source: prompt lookup decoding, A. Saxena 2023; LLMA, arXiv 2304.04487 (copying from a reference, verified in parallel).
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass

MATCH_TOKENS = 2
"""The shortest ending that must have come before: single tokens repeat all the time and foretell nothing."""
CANDIDATES = 8
"""Earlier places that are looked at for the longest match, the latest first."""
LONGEST_MATCH = 16
"""Compared tokens at each: beyond that, longer says nothing more."""
_KEEP = 1 - 1 / 32
"""Weight a trial keeps when the next one comes: the latest 32 or so count."""


@dataclass(slots=True)
class Rate:
    """How often something came true lately. Starts as a belief worth `weight` trials."""

    hits: float
    trials: float

    @classmethod
    def believed(cls, value: float, weight: float) -> Rate:
        return cls(value * weight, weight)

    @property
    def value(self) -> float:
        return self.hits / self.trials

    def add(self, hit: bool) -> None:
        self.hits = self.hits * _KEEP + hit
        self.trials = self.trials * _KEEP + 1


@dataclass(slots=True)
class Rates:
    """Of guesses: `fresh` the first after a match was found, `going` those after one that was right."""

    fresh: Rate
    going: Rate

    def add(self, hit: bool, *, going: bool) -> None:
        (self.going if going else self.fresh).add(hit)

    def as_belief(self, weight: float) -> Rates:
        """For a new sequence: what others taught, to be overruled by what it does itself."""
        return Rates(Rate.believed(self.fresh.value, weight), Rate.believed(self.going.value, weight))


def first_belief() -> Rates:
    """Before anything was seen: low enough that a busy step takes no guess, high enough that an idle one tries."""
    return Rates(Rate.believed(0.2, 4.0), Rate.believed(0.7, 4.0))


class Lookup:
    """Follows one sequence. `read` takes what is new of its tokens; `guess` says how they may go on.

    Latest places of each pair of tokens, and for each place the one before it with the same pair: constant time a
    token, whatever the length.
    """

    def __init__(self, rates: Rates, shared: Rates) -> None:
        """`rates` are the sequence's own; `shared` learns from all."""
        self.rates = rates
        self._shared = shared
        self._latest: dict[tuple[int, int], int] = {}
        self._earlier = array("i")
        """[i]: the place before i with the same pair of tokens ending there; -1: none."""
        self._next: int | None = None
        """Place of the token that is guessed to come next."""
        self._going = False

    @property
    def chances(self) -> tuple[float, float]:
        """Of the next guess being right, and of each further one if those before it are."""
        return (self.rates.going if self._going else self.rates.fresh).value, self.rates.going.value

    def read(self, tokens: list[int], num_prompt: int) -> None:
        """All tokens there are; those read before are not looked at again. Guesses about the prompt do not count:
        people write otherwise than models do."""
        latest, earlier = self._latest, self._earlier
        for place in range(len(earlier), len(tokens)):
            if place >= num_prompt:
                self._compare(tokens, place)
            before = -1
            if place:
                pair = (tokens[place - 1], tokens[place])
                before = latest.get(pair, -1)
                latest[pair] = place
            earlier.append(before)
        if self._next is None and tokens:
            self._next = self._find(tokens, len(tokens) - 1)

    def guess(self, tokens: list[int], count: int) -> list[int]:
        """The next `count` tokens, as they went on before; where they had not gone on so far yet, round again."""
        if self._next is None:
            return []
        found = tokens[self._next : self._next + count]
        period = len(tokens) - self._next
        while len(found) < count:
            found.append(found[-period])
        return found

    @property
    def ready(self) -> bool:
        """Whether there is anything to guess."""
        return self._next is not None

    def _compare(self, tokens: list[int], place: int) -> None:
        """The guess about the token at `place`, if there was one, against what it is."""
        if self._next is None:
            self._next = self._find(tokens, place - 1)
        if self._next is None:
            return
        hit = tokens[self._next] == tokens[place]
        self.rates.add(hit, going=self._going)
        self._shared.add(hit, going=self._going)
        self._going = hit
        self._next = self._next + 1 if hit else None

    def _find(self, tokens: list[int], last: int) -> int | None:
        """The place after the earlier ending that agrees longest with the one at `last`; the latest of equals."""
        best, longest = None, 0
        place = self._earlier[last]
        for _ in range(CANDIDATES):
            if place < 0:
                break
            length = _agreement(tokens, place, last)
            if length > longest:
                best, longest = place + 1, length
            place = self._earlier[place]
        return best


def _agreement(tokens: list[int], place: int, last: int) -> int:
    """Tokens that the endings at `place` and `last` have in common."""
    length = MATCH_TOKENS
    while length < LONGEST_MATCH and length <= place and tokens[place - length] == tokens[last - length]:
        length += 1
    return length
