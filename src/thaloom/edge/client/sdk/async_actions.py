"""What was done to a node, by whom, and how to take it back."""

from __future__ import annotations

from thaloom.edge.client.sdk.async_connection import AsyncAsking
from thaloom.edge.client.sdk.calls import get, post
from thaloom.edge.wire import control as wire

_P = wire.PREFIX


class AsyncActions(AsyncAsking):
    """The part of `AsyncNode` that is about what was done."""

    async def actions(
        self, *, limit: int = 50, subject: str | None = None, by: str | None = None, refused: bool = False
    ) -> list[wire.Action]:
        """What was done, the newest first. `subject`: what was changed or touched, as `service/tiny`. `refused`: what
        was asked for in vain, and nothing else.

        >>> [action.kind for action in await client.node.actions(limit=5)]
        """
        asked = get(f"{_P}/actions", limit=limit, subject=subject, by=by, refused=refused or None)
        return (await self._connection.ask(wire.Actions, asked)).actions

    async def action(self, action: str) -> wire.ExplainedAction:
        """One of them, and what was done to the same things since.

        >>> (await client.node.action("a-1")).action.ending
        """
        return await self._connection.ask(wire.ExplainedAction, get(f"{_P}/actions/{{}}", action))

    async def undo(self, action: str) -> wire.Action:
        """Bring back what it changed: the action that did so.

        >>> (await client.node.undo("a-1")).ending
        """
        return await self._connection.ask(wire.Action, post(f"{_P}/actions/{{}}/undo", action))

    async def approve(self, digest: str, *, valid_s: float = 600.0) -> wire.Approved:
        """Give leave for the plan of this digest, once. Only over the node's own socket.

        >>> (await client.node.approve("0" * 64)).until
        """
        asked = post(f"{_P}/actions/approve", digest=digest, valid_s=valid_s)
        return await self._connection.ask(wire.Approved, asked)

    async def checkpoint(self) -> wire.Checkpoint:
        """Where the journal ends now, to be kept elsewhere. Only over the node's own socket.

        >>> (await client.node.checkpoint()).entry
        """
        return await self._connection.ask(wire.Checkpoint, get(f"{_P}/journal/checkpoint"))

    async def verify_journal(self, *, entry: int | None = None, seal: str | None = None) -> wire.JournalReport:
        """Every entry of the journal against its seal; with those of a checkpoint, whether it still leads through it.
        Only over the node's own socket.

        >>> (await client.node.verify_journal()).sound
        """
        asked = post(f"{_P}/journal/verify", repeatable=True, entry=entry, seal=seal)
        return await self._connection.ask(wire.JournalReport, asked)
