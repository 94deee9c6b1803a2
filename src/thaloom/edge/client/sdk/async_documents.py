"""What is wished for on a node, as documents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from thaloom.edge.client.sdk.async_connection import AsyncAsking
from thaloom.edge.client.sdk.calls import get, post
from thaloom.edge.wire import control as wire

_P = wire.PREFIX


class AsyncDocuments(AsyncAsking):
    """The part of `AsyncNode` that is about documents. Only over the node's own socket."""

    async def documents(
        self, *, kind: str | None = None, label: str | None = None, limit: int = 1000, after: str | None = None
    ) -> wire.Documents:
        """Services, jobs, workspaces and federations in their one form; `label`: as `app=demo`.

        >>> [(one.kind, one.metadata.name) for one in (await client.node.documents(label="app=demo")).documents]
        """
        call = get(f"{_P}/documents", kind=kind, label=label, limit=limit, after=after)
        return await self._connection.ask(wire.Documents, call)

    async def document(self, kind: str, name: str) -> wire.DocumentStatus:
        """One document, with its version and its conditions. Raises DocumentNotFound.

        >>> (await client.node.document("federation", "f")).status["conditions"][0]["reason"]
        """
        return await self._connection.ask(wire.DocumentStatus, get(f"{_P}/documents/{{}}/{{}}", kind, name))

    async def apply(
        self,
        documents: Sequence[Mapping[str, Any]],
        *,
        remove: Sequence[str] = (),
        prune: Mapping[str, str] | None = None,
    ) -> wire.Applied:
        """Have it as the documents say: all of it, or nothing. `remove`: as `workspace/data`; `prune`: labels; whatever
        bears them and is not among the documents is removed. Raises RevisionConflict where somebody changed what a
        document with a version was made from.

        >>> spec = {"model": "tiny", "participants": ["a", "b"]}
        >>> document = {"apiVersion": "thaloom/v1", "kind": "Federation", "metadata": {"name": "f"}, "spec": spec}
        >>> (await client.node.apply([document])).created
        """
        return await self._connection.ask(
            wire.Applied, post(f"{_P}/documents", documents=documents, remove=remove, prune=prune)
        )
