"""The store of a node: models that are kept, whether they are served or not."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from thaloom.base.errors import InternalError, NodeNotRunning, ThaloomError
from thaloom.edge.client.sdk.answers import understood_line
from thaloom.edge.client.sdk.async_connection import AsyncAsking
from thaloom.edge.client.sdk.calls import Call, delete, get, post
from thaloom.edge.wire import control as wire

OnProgress = Callable[[wire.Progress], None]
_P = wire.PREFIX


class AsyncModels(AsyncAsking):
    """The part of `AsyncNode` that is about models."""

    async def models(self) -> list[wire.Model]:
        """The models in the store, served or not.

        >>> [model.name for model in await client.node.models()]
        """
        return (await self._connection.ask(wire.Models, get(f"{_P}/models"))).models

    async def model(self, name: str) -> wire.Model:
        """A model's card and files. Raises ModelNotFound.

        >>> (await client.node.model("tiny")).card.num_parameters
        """
        return await self._connection.ask(wire.Model, get(f"{_P}/models/{{}}", name))

    async def pull(
        self,
        source: str,
        *,
        name: str | None = None,
        replace: bool = False,
        encrypt: bool | None = None,
        hub: wire.HubAccess | None = None,
        on_progress: OnProgress | None = None,
    ) -> wire.Model:
        """Import a model: an absolute path on the node's machine, the name of a bundled model, or a hub's model
        (`org/name`, `hf://org/name@revision` ...); `encrypt`: how it is kept, and `hub`: where hubs are and who asks,
        by default as the node has them.
        Leaving (an exception, a cancellation) ends an import; a pull from a hub goes on in the node, see
        `unfinished_pulls`.

        >>> await client.node.pull("tiny", on_progress=lambda step: print(step.stage, step.done_bytes))
        """
        call = post(f"{_P}/models/pull", source=source, name=name, replace=replace, encrypt=encrypt, hub=hub)
        return await self._made(call, on_progress)

    async def unfinished_pulls(self) -> list[wire.UnfinishedPull]:
        """Models that were not pulled from a hub to their end: still coming, or left.

        >>> [(pull.source, pull.done_bytes, pull.running) for pull in await client.node.unfinished_pulls()]
        """
        return (await self._connection.ask(wire.UnfinishedPulls, get(f"{_P}/pulls"))).pulls

    async def remove_pull(self, source: str) -> wire.Removed:
        """End a pull and delete what came of it.

        >>> for pull in await client.node.unfinished_pulls():
        ...     await client.node.remove_pull(pull.source)
        """
        return await self._connection.ask(wire.Removed, delete(f"{_P}/pulls", source=source))

    async def quantise(
        self,
        model: str,
        *,
        to: str,
        name: str | None = None,
        replace: bool = False,
        text: str | None = None,
        on_progress: OnProgress | None = None,
    ) -> wire.Model:
        """Make a model in whole numbers (`to`: int8 or int4) of one in floats. Leaving ends the work.

        >>> (await client.node.quantise("tiny", to="int8")).card.quantisation
        """
        call = post(f"{_P}/models/{{}}/quantise", model, to=to, name=name, replace=replace, text=text)
        return await self._made(call, on_progress)

    async def encrypt(
        self, model: str, *, name: str | None = None, replace: bool = False, on_progress: OnProgress | None = None
    ) -> wire.Model:
        """Keep the model encrypted, under its own name or another. Only over the node's own socket.

        >>> (await client.node.encrypt("tiny:v1")).name
        """
        call = post(f"{_P}/models/{{}}/encrypt", model, name=name, replace=replace)
        return await self._made(call, on_progress)

    async def decrypt(
        self, model: str, *, name: str | None = None, replace: bool = False, on_progress: OnProgress | None = None
    ) -> wire.Model:
        """Keep the model in plain again. Only over the node's own socket.

        >>> (await client.node.decrypt("tiny:v1")).name
        """
        call = post(f"{_P}/models/{{}}/decrypt", model, name=name, replace=replace)
        return await self._made(call, on_progress)

    async def verify(self, name: str, *, on_progress: OnProgress | None = None) -> wire.Verification:
        """Have every byte of the model read again. Leaving ends the work.

        >>> (await client.node.verify("tiny")).faults
        """
        call = post(f"{_P}/models/{{}}/verify", name, repeatable=True)
        done = await self._followed(call, on_progress)
        if isinstance(done, wire.VerifyDone):
            return done.verification
        raise InternalError(f"the answer to {call.method} {call.target} is not a verification")

    async def copy_model(self, name: str, to: str, *, replace: bool = False) -> wire.Model:
        """Give the model a second name. No byte of it is copied.

        >>> (await client.node.copy_model("tiny:v1", "small")).name
        """
        return await self._connection.ask(wire.Model, post(f"{_P}/models/{{}}/copy", name, name=to, replace=replace))

    async def remove_model(self, name: str) -> wire.Removed:
        """Take a model out of the store. Raises ModelInUse while it is served.

        >>> await client.node.remove_model("tiny-int8")
        """
        return await self._connection.ask(wire.Removed, delete(f"{_P}/models/{{}}", name))

    # -- below

    async def _made(self, call: Call, on_progress: OnProgress | None) -> wire.Model:
        done = await self._followed(call, on_progress)
        if isinstance(done, wire.PullDone):
            return done.model
        raise InternalError(f"the answer to {call.method} {call.target} is not a model")

    async def _followed(self, call: Call, on_progress: OnProgress | None) -> wire.PullDone | wire.VerifyDone:
        """The last word of an answer that tells of its progress."""
        async with contextlib.aclosing(self._connection.lines(call)) as lines:
            async for line in lines:
                match understood_line(call, line):
                    case wire.Progress() as progress:
                        if on_progress is not None:
                            on_progress(progress)
                    case wire.StreamError(error=error):
                        raise ThaloomError.from_dict(error.model_dump())
                    case wire.PullDone() | wire.VerifyDone() as done:
                        return done
        raise NodeNotRunning("the node went away before it was done")
