# Made from async_certificates.py by tools/generate_sync_client.py (make docs): change that one.
"""The certificate that a node's door shows."""

from __future__ import annotations

from collections.abc import Sequence

from thaloom.edge.client.sdk.calls import get, post
from thaloom.edge.client.sdk.connection import Asking
from thaloom.edge.wire import control as wire

_P = wire.PREFIX


class Certificates(Asking):
    """The part of `Node` that is about the door's certificate."""

    def certificate(self) -> wire.Certificate:
        """Which one is in force, for which names, and until when.

        >>> (client.node.certificate()).serving
        """
        return self._connection.ask(wire.Certificate, get(f"{_P}/certificate"))

    def make_certificate(self, *, names: Sequence[str] | None = None, days: int = 365) -> wire.Certificate:
        """Make one, signed by itself, with a key of its own. `names`: what the machine is called, if left out.

        >>> (client.node.make_certificate(names=["gpu.example.org"])).fingerprint
        """
        asked = post(f"{_P}/certificate/make", names=names, days=days)
        return self._connection.ask(wire.Certificate, asked)

    def renew_certificate(self, *, names: Sequence[str] | None = None, days: int = 365) -> wire.Certificate:
        """Put another in its place, for the same names if they are left out. Connections that are open go on.

        >>> (client.node.renew_certificate()).not_after
        """
        asked = post(f"{_P}/certificate/renew", names=names, days=days)
        return self._connection.ask(wire.Certificate, asked)

    def import_certificate(self, certificate: str, *, key: str | None = None) -> wire.Certificate:
        """Take one over from files on the node's machine, by absolute paths.

        >>> (client.node.import_certificate("/etc/ssl/gpu.pem", key="/etc/ssl/gpu.key")).names
        """
        asked = post(f"{_P}/certificate/import", certificate=certificate, key=key)
        return self._connection.ask(wire.Certificate, asked)
