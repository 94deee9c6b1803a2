"""TLS before HTTP: a connection is nobody's until its handshake is done, and handshakes are bounded.

The server's own TLS would keep one context for as long as it listens, and would count a connection first when its
handshake is over: who opens thousands and says nothing would take all descriptors. Here each handshake takes the
context in force at its moment (a new certificate needs no new listener), only so many are under way at a time, and
each has a deadline. What is no TLS (plain HTTP, say) ends at its first bytes: OpenSSL refuses it, we close.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import Counter
from collections.abc import Callable
from typing import Any

HANDSHAKE_DEADLINE_S = 10.0
"""From connection to its end. Browsers and libraries take three round trips at most."""
SHUTDOWN_DEADLINE_S = 5.0
"""For the other side's goodbye; then the connection is cut."""
MAX_HANDSHAKES = 512
"""Under way at a time; beyond them connections are closed without a word, which is all that can be said before TLS."""
MAX_PER_ADDRESS = 64
"""Of these from one address."""

Serving = Callable[..., asyncio.Protocol]
"""Makes the protocol that is spoken inside."""


class Handshakes:
    """All that are under way at one door; makes a protocol for each connection. Of one event loop."""

    def __init__(
        self,
        context: Callable[[], ssl.SSLContext],
        serving: Serving,
        *,
        deadline_s: float = HANDSHAKE_DEADLINE_S,
        max_handshakes: int = MAX_HANDSHAKES,
        max_per_address: int = MAX_PER_ADDRESS,
    ) -> None:
        """`context`: the one in force, asked for at each handshake. `serving`: with the arguments of our own call."""
        self.context = context
        self.deadline_s = deadline_s
        self.failed = 0
        """That did not end well: no TLS, too old, given up, or late."""
        self.turned_away = 0
        self._serving = serving
        self._max_handshakes = max_handshakes
        self._max_per_address = max_per_address
        self._addresses: Counter[str] = Counter()
        self._under_way: set[_Handshake] = set()

    def __call__(self, **given: Any) -> asyncio.Protocol:
        return _Handshake(self, lambda: self._serving(**given))

    @property
    def num_under_way(self) -> int:
        return len(self._under_way)

    def close(self) -> None:
        """Cut those under way; answers go on."""
        for handshake in list(self._under_way):
            handshake.cut()

    def begin(self, handshake: _Handshake, address: str) -> bool:
        """Whether there is room for it."""
        if self.num_under_way >= self._max_handshakes or self._addresses[address] >= self._max_per_address:
            self.turned_away += 1
            return False
        self._under_way.add(handshake)
        self._addresses[address] += 1
        return True

    def end(self, handshake: _Handshake, address: str) -> None:
        self._under_way.discard(handshake)
        self._addresses[address] -= 1
        if not self._addresses[address]:
            del self._addresses[address]


class _Handshake(asyncio.Protocol):
    """One connection until it is encrypted; then it hands over and is forgotten."""

    def __init__(self, owner: Handshakes, serving: Callable[[], asyncio.Protocol]) -> None:
        self._owner = owner
        self._serving = serving
        self._transport: asyncio.Transport | None = None
        self._task: asyncio.Task[None] | None = None
        self._early: list[bytes] = []
        """What the client said with the end of its handshake, before there was anybody to hear it."""
        self._is_over = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.pause_reading()  # its first bytes are the handshake's
        self._transport = transport
        peer = transport.get_extra_info("peername")
        address = str(peer[0]) if isinstance(peer, tuple) else ""
        if not self._owner.begin(self, address):
            transport.abort()
            return
        self._task = asyncio.get_running_loop().create_task(self._encrypt(transport, address))

    def data_received(self, data: bytes) -> None:
        self._early.append(data)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        self._is_over = True

    def cut(self) -> None:
        if self._transport is not None:
            self._transport.abort()
        if self._task is not None:
            self._task.cancel()

    async def _encrypt(self, transport: asyncio.Transport, address: str) -> None:
        loop = asyncio.get_running_loop()
        inner: asyncio.Transport | None = None
        try:
            async with asyncio.timeout(self._owner.deadline_s):
                inner = await loop.start_tls(
                    transport,
                    self,
                    self._owner.context(),
                    server_side=True,
                    ssl_handshake_timeout=self._owner.deadline_s,
                    ssl_shutdown_timeout=SHUTDOWN_DEADLINE_S,
                )
        except (OSError, TimeoutError):  # ssl.SSLError is an OSError
            self._owner.failed += 1
        finally:
            self._owner.end(self, address)
            if inner is None:
                transport.abort()
        if inner is not None:
            self._hand_over(inner)

    def _hand_over(self, inner: asyncio.Transport) -> None:
        if self._is_over:
            return
        serving = self._serving()
        inner.set_protocol(serving)
        serving.connection_made(inner)
        if self._early:
            serving.data_received(b"".join(self._early))
