"""What process one remembers of its own efforts: losses, last words, wishes on hold. Lost with it, and no harm."""

from __future__ import annotations

from collections.abc import Iterable

from thaloom.base.ids import ServiceName
from thaloom.init.rounds.actions import Hold
from thaloom.init.rounds.backoff import Backoff
from thaloom.init.rounds.last_words import LastWords

Owner = ServiceName | None
"""A service, or None for the door."""
_NO_BACKOFF, _NO_WORDS = Backoff(), LastWords()


class Records:
    """By service, or None for the door."""

    def __init__(self) -> None:
        self._backoffs: dict[Owner, Backoff] = {}
        self._last_words: dict[Owner, LastWords] = {}
        self._restarts: dict[Owner, int] = {}
        self._holds: dict[ServiceName, Hold] = {}

    def backoff(self, owner: Owner) -> Backoff:
        return self._backoffs.get(owner, _NO_BACKOFF)

    def last_words(self, owner: Owner) -> LastWords:
        return self._last_words.get(owner, _NO_WORDS)

    def restarts(self, owner: Owner) -> int:
        """Processes lost since it was first wished for."""
        return self._restarts.get(owner, 0)

    def hold(self, service: ServiceName) -> Hold | None:
        return self._holds.get(service)

    def lost(self, owner: Owner, last_words: LastWords, *, now: float, ready_since: float | None) -> Backoff:
        """A process ended unasked; the back-off that follows."""
        self._restarts[owner] = self.restarts(owner) + 1
        return self.failed(owner, last_words, now=now, ready_since=ready_since)

    def failed(self, owner: Owner, last_words: LastWords, *, now: float, ready_since: float | None = None) -> Backoff:
        """As `lost`, but there was no process yet."""
        backoff = self.backoff(owner).lost(
            now, ready_since=ready_since, hopeless=last_words.hopeless, short=last_words.short
        )
        self._backoffs[owner] = backoff
        self._last_words[owner] = last_words
        return backoff

    def keep_holds(self, holds: Iterable[Hold]) -> list[Hold]:
        """These wishes are on hold now and no others; returns those that were not, or for another reason.

        One that says nearly the same as before stays that very one, so that nothing is told anew for a few bytes."""
        before, now, news = self._holds, {}, []
        for hold in holds:
            known = before.get(hold.service)
            if known is None or known.reason != hold.reason:
                news.append(hold)
            elif known.says_nearly(hold):
                hold = known
            now[hold.service] = hold
        self._holds = now
        return news

    def renew(self, service: ServiceName) -> None:
        """The wish changed, or somebody insists: earlier losses no longer count."""
        self._backoffs.pop(service, None)
        self._last_words.pop(service, None)
        self._holds.pop(service, None)

    def remove(self, service: ServiceName) -> None:
        """Nobody wishes for it any more."""
        self.renew(service)
        self._restarts.pop(service, None)
