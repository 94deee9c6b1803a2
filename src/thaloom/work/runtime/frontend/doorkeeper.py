"""Who may come in at the door, and how much of their limits they have left: keys and counts at hand, pure decisions."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple, Protocol

from thaloom.base.access import Role, Scope, rank, seen_name
from thaloom.base.clock import Clock
from thaloom.base.errors import Forbidden, RateLimited, Unauthorized
from thaloom.kernel.sched import quotas
from thaloom.kernel.sched.guesses import Guesses
from thaloom.kernel.sched.quotas import Refusal, Usage
from thaloom.kernel.state.shared_rows import Row, SharedRows
from thaloom.kernel.state.types import AccessKey, Allowance, KeyLimits, Keys, Priority, Quota
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
        self._by_id: dict[str, AccessKey] = {}
        self._quotas: dict[str, Quota] = {}
        self._guesses = Guesses()

    def enter(self, shown: Sequence[str], address: str = "") -> KeyVisit | None:
        """Let one request in, which showed these keys. None: nobody asks for a key, or none is required.

        Raises Unauthorized for a key that is required and not there, not known, or expired; RateLimited where too many
        that are none came from that address, or from all: then no key is looked at but one that was right lately.
        """
        self._look()
        if not self._keys.keys and not self._always:
            return None  # a client always sends some key; here it means nothing
        if not shown:
            if not self._required:
                return None
            raise Unauthorized("a key is required here, and none was sent")
        now = self._clock.monotonic()
        if self._required and (wait_s := self._guesses.wait_s(address, shown, now)) > 0:
            raise RateLimited(
                "too many keys that are none were shown", retry_after_s=round(wait_s, 3), limit_of="guesses"
            )
        for one in shown:
            if (key := self._ring.find(one)) is not None:
                self._guesses.proved(one)
                return self._visit(key)
        if not self._required:
            return None
        self._guesses.failed(address, now)
        raise Unauthorized("this key is not known here")

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
        return KeyVisit(key, self._first(key).id, self._accounts(key), self._rows, self._clock)

    def _first(self, key: AccessKey) -> AccessKey:
        """Of which it was narrowed, in as many steps as it took; itself, if it was not."""
        while (parent := self._by_id.get(key.parent or "")) is not None:
            key = parent
        return key

    def _accounts(self, key: AccessKey) -> list[Account]:
        """The key's own, those of the keys it was narrowed from, and its tenant's."""
        found = [Account(f"the key {key.name!r}", key.id, key.limits)]
        parent = self._by_id.get(key.parent or "")
        while parent is not None:
            found.append(
                Account(f"the key {parent.name!r}, which this one was narrowed from,", parent.id, parent.limits)
            )
            parent = self._by_id.get(parent.parent or "")
        quota = self._quotas.get(key.tenant or "")
        if quota is not None:
            limits = KeyLimits(
                requests_per_minute=quota.requests_per_minute,
                tokens_per_minute=quota.tokens_per_minute,
                concurrent=quota.concurrent,
            )
            found.append(Account(f"the tenant {key.tenant!r}", f"tenant {key.tenant}", limits))
        return found

    @property
    def has_tenants(self) -> bool:
        self._look()
        return bool(self._quotas)

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
            self._by_id = {key.id: key for key in keys.keys}
            self._quotas = {tenant.name: tenant.quota for tenant in keys.tenants}


class Account(NamedTuple):
    """What a request counts against. `row`: its name among the rows that doors share."""

    whose: str
    row: str
    limits: KeyLimits


class KeyVisit:
    """One request of the holder of a key. It counts against the limits of all its accounts from its first answer until
    `end`; what one of them refuses is counted in none."""

    def __init__(self, key: AccessKey, owner: str, accounts: Sequence[Account], rows: SharedRows, clock: Clock) -> None:
        self.key = key.name
        self.owner = owner
        self.tenant = key.tenant
        self.priority: Priority = key.limits.priority
        self._record = key
        self._accounts = tuple(accounts)
        self._rows = rows
        self._clock = clock
        self._begun_at: float | None = None

    def may(self, scope: Scope) -> bool:
        """Whether the key is for that, and its role allows it."""
        least: Role = "user" if scope == "infer" else "viewer"
        return rank(self._record.role) >= rank(least) and (self._record.scopes is None or scope in self._record.scopes)

    def is_for(self, model: str) -> bool:
        allowed = self._record.limits.models
        plain = model.removesuffix(":latest")
        return allowed is None or not {plain, seen_name(plain, self.tenant)}.isdisjoint(allowed)

    def allow(self, model: str) -> None:
        """Raises Forbidden for a model the key is not for."""
        if not self.may("infer"):
            raise Forbidden(f"the key {self.key!r} is not for asking models (role user, scope 'infer')", param="model")
        if not self.is_for(model):
            raise Forbidden(f"the key {self.key!r} is not for model {model!r}", param="model")

    def reserve(self, num_tokens: int) -> None:
        """Take a part in the limits for one answer. Raises RateLimited; nothing is taken then."""
        now = self._clock.monotonic()
        taken: list[Account] = []
        for account in self._accounts:
            with self._turn(account, now) as row:
                before = _usage(row)
                after = self._decide(before, account.limits, num_tokens, now)
                if isinstance(after, Refusal) and after.of == "concurrent":
                    self._rows.forget_the_dead(row)  # a door that was killed may have held some
                    after = self._decide(_usage(row), account.limits, num_tokens, now)
                if not isinstance(after, Refusal):
                    _keep(row, after)
                    taken.append(account)
            if isinstance(after, Refusal):
                self._give_back(taken, num_tokens, now)
                raise _refused(account, after)
        self._begun_at = now if self._begun_at is None else self._begun_at

    def settle(self, *, reserved: int, used: int) -> None:
        """What one answer took, in place of what was reserved for it."""
        now = self._clock.monotonic()
        for account in self._accounts:
            with self._turn(account, now) as row:
                _keep(row, quotas.settle(_usage(row), account.limits, reserved=reserved, used=used, now=now))

    def allowances(self) -> tuple[Allowance, ...]:
        """Of each limit, that of the account with the least left."""
        now = self._clock.monotonic()
        least: dict[str, Allowance] = {}
        for account in self._accounts:
            with self._turn(account, now) as row:
                found = quotas.allowances(_usage(row), account.limits, now)
            for allowance in found:
                if allowance.of not in least or allowance.remaining < least[allowance.of].remaining:
                    least[allowance.of] = allowance
        return tuple(least.values())

    def end(self) -> None:
        """The request is over. Harmless when repeated."""
        if self._begun_at is None:
            return
        now = self._clock.monotonic()
        for account in self._accounts:
            with self._turn(account, now) as row:
                _keep(row, quotas.end(_usage(row), now - self._begun_at))
        self._begun_at = None

    def again(self) -> KeyVisit:
        """Another request of the same holder."""
        return KeyVisit(self._record, self.owner, self._accounts, self._rows, self._clock)

    def _decide(self, usage: Usage, limits: KeyLimits, num_tokens: int, now: float) -> Usage | Refusal:
        after: Usage | Refusal = usage if self._begun_at is not None else quotas.begin(usage, limits, now)
        return after if isinstance(after, Refusal) else quotas.reserve(after, limits, num_tokens, now)

    def _give_back(self, taken: Sequence[Account], num_tokens: int, now: float) -> None:
        for account in taken:
            with self._turn(account, now) as row:
                usage = quotas.settle(_usage(row), account.limits, reserved=num_tokens, used=0, now=now)
                _keep(row, usage if self._begun_at is not None else quotas.take_back(usage, account.limits))

    def _turn(self, account: Account, now: float) -> AbstractContextManager[Row]:
        unused = quotas.unused(account.limits, now)
        return self._rows.turn(account.row, [unused.requests, unused.tokens, unused.mean_s, unused.at])


def _refused(account: Account, refusal: Refusal) -> RateLimited:
    return RateLimited(
        f"{account.whose} may have {refusal.limit} {_WORDS[refusal.of]}, and has them",
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
