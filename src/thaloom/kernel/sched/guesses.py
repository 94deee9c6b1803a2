"""How fast tokens may be guessed: not at all fast, by one address or by all together. Pure, and bounded.

A bucket for each address and one for all: each token that is none takes one out, and they are refilled steadily.
Where a bucket is empty no token is looked at any more, right or wrong, so a guess learns nothing; but for those that
were right lately, so that nobody is locked out by a neighbour.

256 random bits cannot be guessed anyway: this keeps the log short and the machine free, and holds where a token leaked
in part.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections import OrderedDict
from collections.abc import Sequence

BURST, REFILL_S = 10, 6.0
"""Of one address: so many at once, then one each so often. A client with an old token tries a few times a minute."""
BURST_OF_ALL, REFILL_OF_ALL_S = 200, 0.1
"""Of all addresses: a hundred thousand machines do not get more than ten tries a second."""
MOST_ADDRESSES = 4096
MOST_PROVED = 1024
"""Remembered, the latest: as many tokens as a node keeps."""


class Guesses:
    """Moments are monotonic seconds. For one thread."""

    def __init__(self) -> None:
        self._of_each: OrderedDict[str, _Bucket] = OrderedDict()
        """The least lately used first."""
        self._of_all = _Bucket(BURST_OF_ALL, REFILL_OF_ALL_S)
        self._proved: OrderedDict[bytes, None] = OrderedDict()

    def wait_s(self, address: str, shown: Sequence[str], now: float) -> float:
        """How long no token shown from there is looked at; 0: they are. One that was right lately always is."""
        if any(_digest(token) in self._proved for token in shown):
            return 0.0
        own = self._of_each.get(network_of(address))
        return max(self._of_all.wait_s(now), 0.0 if own is None else own.wait_s(now))

    def failed(self, address: str, now: float) -> None:
        """None of those shown was one."""
        network = network_of(address)
        bucket = self._of_each.setdefault(network, _Bucket(BURST, REFILL_S))
        self._of_each.move_to_end(network)
        if len(self._of_each) > MOST_ADDRESSES:
            self._of_each.popitem(last=False)
        bucket.take(now)
        self._of_all.take(now)

    def proved(self, token: str) -> None:
        """It is one of ours."""
        digest = _digest(token)
        self._proved[digest] = None
        self._proved.move_to_end(digest)
        if len(self._proved) > MOST_PROVED:
            self._proved.popitem(last=False)


class _Bucket:
    __slots__ = ("_at", "_burst", "_left", "_refill_s")

    def __init__(self, burst: int, refill_s: float) -> None:
        self._burst = burst
        self._refill_s = refill_s
        self._left = float(burst)
        self._at = 0.0

    def wait_s(self, now: float) -> float:
        self._refill(now)
        return max(0.0, 1.0 - self._left) * self._refill_s

    def take(self, now: float) -> None:
        self._refill(now)
        self._left = max(0.0, self._left - 1.0)

    def _refill(self, now: float) -> None:
        self._left = min(float(self._burst), self._left + max(0.0, now - self._at) / self._refill_s)
        self._at = now


def network_of(address: str) -> str:
    """Of an IPv6 address the /64 it is in, all of which one machine has; anything else as it is."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if parsed.version == 4:
        return address
    if (mapped := parsed.ipv4_mapped) is not None:
        return str(mapped)
    return str(ipaddress.IPv6Network((int(parsed) >> 64 << 64, 64)))


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode(errors="surrogateescape")).digest()
