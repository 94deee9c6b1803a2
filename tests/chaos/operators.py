"""Somebody who changes the node all the time: aliases, keys, models, a service beside those that are asked.

Everything is asked for by an id, and asked again by the same id until there is an answer, whoever died meanwhile. So at
the end it is known what there must be.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable

from tests.chaos.stage import PATIENCE_S, Stage
from tests.system.node import TINY
from thaloom.base.actions import Terms
from thaloom.base.errors import ActionNotFound, DiskFull, NameTaken, NodeNotRunning, ThaloomError, WrongState
from thaloom.edge.client.control import ControlClient
from thaloom.edge.wire.control import AliasRequest, CopyRequest, KeyRequest, PullRequest, ServeRequest

PAUSE_S = (0.4, 2.0)
_AGAIN_S = 0.1
Asking = Callable[[ControlClient], object]


def changes(own: str) -> dict[str, tuple[Asking, Asking]]:
    """By subject, what brings it and what takes it away. `own`: a word that nobody else's names have."""
    alias, key, copied, fresh, extra = (f"{word}-{own}" for word in ("best", "spare", "copied", "fresh", "extra"))
    shares = AliasRequest(services={"plain": 3, "twice": 1})
    return {
        f"alias {alias}": (lambda node: node.put_alias(alias, shares), lambda node: node.remove_alias(alias)),
        f"key {key}": (lambda node: node.make_key(KeyRequest(name=key)), lambda node: node.remove_key(key)),
        f"model {copied}": (
            lambda node: node.copy_model("tiny", CopyRequest(name=copied)),
            lambda node: node.remove_model(copied),
        ),
        f"model {fresh}": (
            lambda node: node.pull(PullRequest(source=str(TINY), name=fresh)),
            lambda node: node.remove_model(fresh),
        ),
        f"service {extra}": (  # nobody streams from it
            lambda node: node.serve(extra, ServeRequest(model="tiny", num_threads=1)),
            lambda node: node.stop(extra),
        ),
    }


def present(client: ControlClient) -> set[str]:
    """All subjects there are."""
    found = {f"alias {alias.name}" for alias in client.aliases()}
    found |= {f"key {key.name}" for key in client.keys().keys}
    found |= {f"model {model.name}" for model in client.models()}
    return found | {f"service {service.name}" for service in client.services()}


class Operator:
    """One who does one thing after the other."""

    def __init__(self, stage: Stage, name: str, seed: int, disk_is_full: Callable[[], bool]) -> None:
        self._stage = stage
        self._name = name
        self._changes = changes(name)
        self._chance = random.Random(f"{seed} operator {name}")
        self._disk_is_full = disk_is_full
        self._turn = asyncio.Lock()
        self._number = 0
        self.there: set[str] = set()
        """What must be there by now."""
        self.endings: Counter[str] = Counter()
        """done, refused (nothing was begun), failed (it was, and the journal says why it was not done), undone."""
        self.leaving = False

    @property
    def busy(self) -> bool:
        return self._turn.locked()

    async def work(self) -> None:
        while not self.leaving:
            await asyncio.sleep(self._chance.uniform(*PAUSE_S))
            await self.act(self._chance.random())

    async def act(self, whom: float, meanwhile: Callable[[], Awaitable[None]] | None = None) -> str:
        """Change the subject that `whom` chooses, and do something `meanwhile`. Returns what was asked for."""
        async with self._turn:
            subject = list(self._changes)[int(whom * len(self._changes))]
            wanted = subject not in self.there
            self._number += 1
            action = f"{self._name}-{self._number}"
            asking = self._changes[subject][0 if wanted else 1]
            side = asyncio.ensure_future(meanwhile()) if meanwhile is not None else None
            try:
                ending = await self._until_answered(action, asking)
            finally:
                if side is not None:
                    await side
            self.endings[ending] += 1
            if ending == "failed":  # what there is after that is for the machine to say
                there = subject in await self._present()
            else:
                there = wanted if ending == "done" else not wanted
            (self.there.add if there else self.there.discard)(subject)
            return f"{'+' if wanted else '-'}{subject}: {ending}"

    async def _until_answered(self, action: str, asking: Asking) -> str:
        terms = Terms(action=action)

        def ask() -> None:
            asking(ControlClient(self._stage.node.home, terms=terms))

        deadline = self._stage.clock() + PATIENCE_S
        while True:
            try:
                await asyncio.to_thread(ask)
                return "done"
            except NodeNotRunning:
                pass  # nobody there, or there no more: the same again
            except (NameTaken, WrongState) as error:
                if "by this very request" in error.message:
                    return "done"
                return await self._refused(action, error)
            except ThaloomError as error:
                return await self._refused(action, error)
            if (ended := await self._ended(action)) is not None:
                return ended
            if self._stage.clock() > deadline:
                self._stage.fail(f"{action}: no answer within {PATIENCE_S:g} s")
                return "failed"
            await asyncio.sleep(_AGAIN_S)

    async def _ended(self, action: str) -> str | None:
        """`failed` if the journal says so: asking again would only be told the same."""
        try:
            found = await self._stage.call(lambda client: client.action(action))
        except ThaloomError:
            return None
        return "failed" if found.action.ending == "failed" else None

    async def _refused(self, action: str, error: ThaloomError) -> str:
        """What came of it, as the journal says; and whether the error may be."""
        if not isinstance(error, DiskFull) or not self._disk_is_full():
            self._stage.fail(f"{action}: {error.code}: {error.message}")
        while True:
            try:
                found = await self._stage.call(lambda client: client.action(action))
            except ActionNotFound:
                return "refused"
            except NodeNotRunning:
                await asyncio.sleep(_AGAIN_S)
                continue
            if found.action.ending in ("done", "failed"):
                return found.action.ending
            if found.action.ending == "undone":
                return "refused"
            await asyncio.sleep(_AGAIN_S)

    async def _present(self) -> set[str]:
        while True:
            try:
                return await self._stage.call(present) & set(self._changes)
            except NodeNotRunning:
                await asyncio.sleep(_AGAIN_S)

    async def tidy(self) -> None:
        """At the end: what is there is what must be; then none of it. Fails the run otherwise."""
        there = await self._present()
        if there != self.there:
            self._stage.fail(f"there is {sorted(there)}, and should be {sorted(self.there)}")
        for subject in sorted(there):
            self._number += 1
            await self._until_answered(f"{self._name}-{self._number}", self._changes[subject][1])
        self.there = set()
