# Made from async_actions.py by tools/generate_sync_client.py (make docs): change that one.
"""What was done to a node, by whom, and how to take it back."""

from __future__ import annotations

from thaloom.edge.client.sdk.calls import get, post
from thaloom.edge.client.sdk.connection import Asking
from thaloom.edge.wire import control as wire

_P = wire.PREFIX


class Actions(Asking):
    """The part of `Node` that is about what was done."""

    def actions(
        self, *, limit: int = 50, subject: str | None = None, by: str | None = None, refused: bool = False
    ) -> list[wire.Action]:
        """What was done, the newest first. `subject`: what was changed or touched, as `service/tiny`. `refused`: what
        was asked for in vain, and nothing else.

        >>> [action.kind for action in client.node.actions(limit=5)]
        """
        asked = get(f"{_P}/actions", limit=limit, subject=subject, by=by, refused=refused or None)
        return (self._connection.ask(wire.Actions, asked)).actions

    def action(self, action: str) -> wire.ExplainedAction:
        """One of them, and what was done to the same things since.

        >>> (client.node.action("a-1")).action.ending
        """
        return self._connection.ask(wire.ExplainedAction, get(f"{_P}/actions/{{}}", action))

    def undo(self, action: str) -> wire.Action:
        """Bring back what it changed: the action that did so.

        >>> (client.node.undo("a-1")).ending
        """
        return self._connection.ask(wire.Action, post(f"{_P}/actions/{{}}/undo", action))

    def approve(self, digest: str, *, valid_s: float = 600.0) -> wire.Approved:
        """Give leave for the plan of this digest, once. Only over the node's own socket.

        >>> (client.node.approve("0" * 64)).until
        """
        asked = post(f"{_P}/actions/approve", digest=digest, valid_s=valid_s)
        return self._connection.ask(wire.Approved, asked)

    def checkpoint(self) -> wire.Checkpoint:
        """Where the journal ends now, to be kept elsewhere. Only over the node's own socket.

        >>> (client.node.checkpoint()).entry
        """
        return self._connection.ask(wire.Checkpoint, get(f"{_P}/journal/checkpoint"))

    def verify_journal(self, *, entry: int | None = None, seal: str | None = None) -> wire.JournalReport:
        """Every entry of the journal against its seal; with those of a checkpoint, whether it still leads through it.
        Only over the node's own socket.

        >>> (client.node.verify_journal()).sound
        """
        asked = post(f"{_P}/journal/verify", repeatable=True, entry=entry, seal=seal)
        return self._connection.ask(wire.JournalReport, asked)
