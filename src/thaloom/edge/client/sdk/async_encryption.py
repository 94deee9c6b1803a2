"""The key on which a node's encrypted models hang."""

from __future__ import annotations

from thaloom.edge.client.sdk.async_connection import AsyncAsking
from thaloom.edge.client.sdk.calls import get, post
from thaloom.edge.wire import control as wire

_P = wire.PREFIX


class AsyncEncryption(AsyncAsking):
    """The part of `AsyncNode` that is about the master key."""

    async def encryption(self) -> wire.Encryption:
        """Whether the node opens encrypted models, and by what.

        >>> (await client.node.encryption()).ready
        """
        return await self._connection.ask(wire.Encryption, get(f"{_P}/encryption"))

    async def make_master_key(self) -> wire.MasterKey:
        """Make the key, in the node's folder. Only over the node's own socket.

        >>> (await client.node.make_master_key()).origin
        """
        return await self._connection.ask(wire.MasterKey, post(f"{_P}/encryption/key"))

    async def rotate_master_key(self, *, passphrase: str | None = None, key_file: str | None = None) -> wire.MasterKey:
        """Put another key in its place: a passphrase, the one in a file, or a new one. Only over the node's own socket.

        >>> (await client.node.rotate_master_key(passphrase="correct horse")).origin
        """
        asked = post(f"{_P}/encryption/rotate", passphrase=passphrase, key_file=key_file)
        return await self._connection.ask(wire.MasterKey, asked)
