"""The certificate that a node's door shows."""

from __future__ import annotations

from collections.abc import Sequence

from thaloom.edge.client.sdk.async_connection import AsyncAsking
from thaloom.edge.client.sdk.calls import get, post
from thaloom.edge.wire import control as wire

_P = wire.PREFIX


class AsyncCertificates(AsyncAsking):
    """The part of `Node` that is about the door's certificate."""

    async def certificate(self) -> wire.Certificate:
        """Which one is in force, for which names, and until when.

        >>> (await client.node.certificate()).serving
        """
        return await self._connection.ask(wire.Certificate, get(f"{_P}/certificate"))

    async def make_certificate(self, *, names: Sequence[str] | None = None, days: int = 365) -> wire.Certificate:
        """Make one, signed by itself, with a key of its own. `names`: what the machine is called, if left out.

        >>> (await client.node.make_certificate(names=["gpu.example.org"])).fingerprint
        """
        asked = post(f"{_P}/certificate/make", names=names, days=days)
        return await self._connection.ask(wire.Certificate, asked)

    async def renew_certificate(self, *, names: Sequence[str] | None = None, days: int = 365) -> wire.Certificate:
        """Put another in its place, for the same names if they are left out. Connections that are open go on.

        >>> (await client.node.renew_certificate()).not_after
        """
        asked = post(f"{_P}/certificate/renew", names=names, days=days)
        return await self._connection.ask(wire.Certificate, asked)

    async def import_certificate(self, certificate: str, *, key: str | None = None) -> wire.Certificate:
        """Take one over from files on the node's machine, by absolute paths.

        >>> (await client.node.import_certificate("/etc/ssl/gpu.pem", key="/etc/ssl/gpu.key")).names
        """
        asked = post(f"{_P}/certificate/import", certificate=certificate, key=key)
        return await self._connection.ask(wire.Certificate, asked)
