"""Who may come in at the door, and how much of their limits they have left: keys and counts at hand, pure decisions."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from thaloom.base.clock import Clock
from thaloom.base.errors import Forbidden, RateLimited, Unauthorized
from thaloom.kernel.sched import quotas
from thaloom.kernel.sched.quotas import Refusal, Usage
from thaloom.kernel.state.shared_rows import Row, SharedRows
from thaloom.kernel.state.types import AccessKey, Allowance, Keys, Priority
from thaloom.kernel.trust.keys import KeyRing

_WORDS = {"requests": "requests a minute", "tokens": "tokens a minute", "concurrent": "requests at the same time"}


class KeySource(Protocol):
    """The keys last published, cheap to ask for; kernel.state.keys has the real one."""

    def current(self) -> Keys: ...


class Doorkeeper:
    """Implements edge.api.entrance.visits.Doorkeeper. Of one thread; doors of one node count in the same rows."""

    def __init__(self, keys: KeySource, rows: SharedRows, clock: Clock, *, always: bool = False) -> None:
        """`always`: nobody comes in without a key, whatever the node says and even while there are none. So it is
        beyond loopback."""
        self._source = keys
        self._always = always
        self._rows = rows
        self._clock = clock
        self._keys = Keys(version=0, published_at=0.0, require_keys=False)
        self._ring: KeyRing[AccessKey] = KeyRing(())

    def enter(self, shown: Sequence[str]) -> KeyVisit | None:
        """Let one request in, which showed these keys. None: nobody asks for a key, or none is required.

        Raises Unauthorized for a key that is required and not there, not known, or expired.
        """
        self._look()
        if not self._keys.keys and not self._always:
            return None  # a client always sends some key; here it means nothing
        key = next((key for one in shown if (key := self._ring.find(one)) is not None), None)
        if key is None:
            if not self._required:
                return None
            raise Unauthorized("this key is not known here" if shown else "a key is required here, and none was sent")
        return self._visit(key)

    def enter_as(self, name: str) -> KeyVisit | None:
        """Let in what the holder of this key asked for earlier, under the limits the key has now. None: nobody asks
        for a key any more. Raises Unauthorized if the key is gone or has expired."""
        self._look()
        if not self._keys.keys and not self._always:
            return None
        key = next((key for key in self._keys.keys if key.name == name), None)
        if key is None:
            raise Unauthorized(f"the key {name!r}, which this was asked with, is not known here any more")
        return self._visit(key)

    def _visit(self, key: AccessKey) -> KeyVisit:
        if key.expires_at is not None and self._clock.now() >= key.expires_at:
            raise Unauthorized(f"the key {key.name!r} has expired")
        return KeyVisit(key, self._rows, self._clock)

    @property
    def asks_for_keys(self) -> bool:
        """Whether somebody without a key is turned away."""
        self._look()
        return self._always or (bool(self._keys.keys) and self._keys.require_keys)

    @property
    def _required(self) -> bool:
        return self._always or self._keys.require_keys

    def _look(self) -> None:
        keys = self._source.current()
        if keys is not self._keys:
            self._keys, self._ring = keys, KeyRing(keys.keys)


class KeyVisit:
    """One request of the holder of a key. It counts against the limits from its first answer until `end`."""

    def __init__(self, key: AccessKey, rows: SharedRows, clock: Clock) -> None:
        self.key = key.name
        self.priority: Priority = key.limits.priority
        self._record = key
        self._limits = key.limits
        self._rows = rows
        self._clock = clock
        self._begun_at: float | None = None

    def allow(self, model: str) -> None:
        """Raises Forbidden for a model the key is not for."""
        allowed = self._limits.models
        if allowed is not None and model.removesuffix(":latest") not in allowed:
            raise Forbidden(f"the key {self.key!r} is not for model {model!r}", param="model")

    def reserve(self, num_tokens: int) -> None:
        """Take a part in the limits for one answer. Raises RateLimited; nothing is taken then."""
        now = self._clock.monotonic()
        with self._turn(now) as row:
            after = self._decide(_usage(row), num_tokens, now)
            if isinstance(after, Refusal) and after.of == "concurrent":
                self._rows.forget_the_dead(row)  # a door that was killed may have held some
                after = self._decide(_usage(row), num_tokens, now)
            if isinstance(after, Refusal):
                raise self._refused(after)
            _keep(row, after)
        self._begun_at = now if self._begun_at is None else self._begun_at

    def settle(self, *, reserved: int, used: int) -> None:
        """What one answer took, in place of what was reserved for it."""
        now = self._clock.monotonic()
        with self._turn(now) as row:
            _keep(row, quotas.settle(_usage(row), self._limits, reserved=reserved, used=used, now=now))

    def allowances(self) -> tuple[Allowance, ...]:
        now = self._clock.monotonic()
        with self._turn(now) as row:
            return quotas.allowances(_usage(row), self._limits, now)

    def end(self) -> None:
        """The request is over. Harmless when repeated."""
        if self._begun_at is None:
            return
        now = self._clock.monotonic()
        with self._turn(now) as row:
            _keep(row, quotas.end(_usage(row), now - self._begun_at))
        self._begun_at = None

    def again(self) -> KeyVisit:
        """Another request of the same holder."""
        return KeyVisit(self._record, self._rows, self._clock)

    def _decide(self, usage: Usage, num_tokens: int, now: float) -> Usage | Refusal:
        after: Usage | Refusal = usage if self._begun_at is not None else quotas.begin(usage, self._limits, now)
        return after if isinstance(after, Refusal) else quotas.reserve(after, self._limits, num_tokens, now)

    def _turn(self, now: float) -> AbstractContextManager[Row]:
        unused = quotas.unused(self._limits, now)
        return self._rows.turn(self._record.id, [unused.requests, unused.tokens, unused.mean_s, unused.at])

    def _refused(self, refusal: Refusal) -> RateLimited:
        return RateLimited(
            f"the key {self.key!r} may have {refusal.limit} {_WORDS[refusal.of]}, and has them",
            retry_after_s=round(refusal.retry_after_s, 3),
            limit_of=refusal.of,
            limit=refusal.limit,
        )


def _usage(row: Row) -> Usage:
    requests, tokens, mean_s, at = row.numbers
    return Usage(requests=requests, tokens=tokens, mean_s=mean_s, at=at, running=sum(row.counts))


def _keep(row: Row, usage: Usage) -> None:
    row.numbers = [usage.requests, usage.tokens, usage.mean_s, usage.at]
    row.own = max(0, row.own + usage.running - sum(row.counts))
