"""Every kind of action that has an end of its own, one after the other, killed at a write of the journal that is named.

    python -m tests.system.action_suite HOME NUMBER before|after

It carries the actions out as the daemon does, without its processes: `init.acting` over real stores, keys and models.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sqlite3
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from thaloom.base.actions import LOCAL, Call
from thaloom.base.clock import SystemClock
from thaloom.base.events import ignore
from thaloom.base.ids import ServiceName
from thaloom.init.acting.aliases import AliasWish, PutAlias, RemoveAlias
from thaloom.init.acting.guards import ServiceGuard
from thaloom.init.acting.keys import KeyWish, MakeKey, RemoveKey
from thaloom.init.acting.kinds import Named, call
from thaloom.init.acting.models import CopyModel, CopyWish, ImportModel, ImportWish, RemoveModel
from thaloom.init.acting.performing import Performer
from thaloom.init.acting.registry import action_kinds
from thaloom.init.acting.services import Serve, Stop
from thaloom.init.aliasing import Aliasing
from thaloom.init.layout import Layout
from thaloom.init.locksmith import Locksmith
from thaloom.init.reconcile_loop import ReconcileLoop
from thaloom.kernel.models.store import ModelStore
from thaloom.kernel.state.store import StateStore
from thaloom.kernel.state.types import KeyLimits, ServiceSpec, Share
from thaloom.kernel.trust.seals import node_key, sealing


def suite(source: Path) -> list[tuple[str, Call]]:
    """(id, what is asked for), in order."""
    chat, talk = ServiceName("chat"), ServiceName("talk")
    spec = ServiceSpec(name=chat, model="small")
    alias = AliasWish(name=talk, shares=(Share(service=chat, weight=1),))
    wishes: list[tuple[str, Any]] = [
        (ImportModel.name, ImportWish(path=str(source), name="small")),
        (Serve.name, spec),
        (Serve.name, ServiceSpec(name=chat, model="small", context_length=64)),
        (PutAlias.name, alias),
        (MakeKey.name, KeyWish(name="ci", limits=KeyLimits(concurrent=2))),
        (CopyModel.name, CopyWish(name="small", to="again")),
        (RemoveKey.name, Named(name="ci")),
        (RemoveAlias.name, Named(name="talk")),
        (Stop.name, Named(name="chat")),
        (RemoveModel.name, Named(name="small")),
        (RemoveModel.name, Named(name="again")),
    ]
    return [(f"step-{number}", call(kind, wish)) for number, (kind, wish) in enumerate(wishes)]


class Machine:
    """The stores of a node, and its hands."""

    def __init__(self, home: Path) -> None:
        clock = SystemClock()
        self.layout = Layout(home)
        self.layout.create()
        self.store = StateStore(self.layout.state, clock, seal=sealing(node_key(self.layout.node_key)))
        self.models = ModelStore(self.layout.models, clock)
        self.aliasing = Aliasing(self.store, ignore, lambda: None)
        self.locksmith = Locksmith(self.layout.keys, require_keys=False, store=self.store, clock=clock, emit=ignore)
        nothing = cast(Any, None)

        async def settled() -> bool:
            return False

        async def no_guard(_: ServiceSpec) -> None: ...

        loop = SimpleNamespace(
            require_up=lambda: None, renewed=lambda _: None, removed=lambda _: None, settle=settled, going_down=False,
            go_down=lambda _: None,
        )  # fmt: skip
        self.kinds = action_kinds(
            self.store,
            loop=cast(ReconcileLoop, loop),
            models=self.models,
            pulls=nothing,
            quantising=nothing,
            aliasing=self.aliasing,
            locksmith=self.locksmith,
            guard=cast(ServiceGuard, SimpleNamespace(check=no_guard, workers=lambda _: [])),
            vault=nothing,
            emit=ignore,
            came=lambda _: None,
            jobs=nothing,
        )

    def performer(self, tasks: asyncio.TaskGroup) -> Performer:
        return Performer(self.kinds, journal=self.store.journal, tasks=tasks, clock=SystemClock())

    def facts(self) -> dict[str, object]:
        """What there is, by the machine's account."""
        keys = self.store.keys()
        return {
            "services": [service.spec for service in self.store.services()],
            "aliases": [AliasWish.of(alias) for alias in self.store.aliases()],
            "keys": [key.name for key in keys],
            "models": [str(manifest.name) for manifest in self.models.list()],
        }

    def close(self) -> None:
        self.store.close()


async def carry_out(machine: Machine, source: Path) -> None:
    async with asyncio.TaskGroup() as tasks:
        performer = machine.performer(tasks)
        for action, asked in suite(source):
            await performer.perform(asked, LOCAL, action=action)
            with (machine.layout.home / "acks").open("a") as told:
                told.write(f"{action}\n")


def kill_at(machine: Machine, number: int, *, after: bool) -> None:
    """End this process, as by a power switch, at that write of the journal: before it is in the file, or after."""
    database, written = machine.store._database, 0
    write = database.write

    @contextlib.contextmanager
    def counted() -> Iterator[sqlite3.Connection]:
        nonlocal written
        with write() as connection:
            last = connection.execute("SELECT coalesce(max(id), 0) FROM journal").fetchone()[0]
            yield connection
            is_entry = connection.execute("SELECT coalesce(max(id), 0) FROM journal").fetchone()[0] > last
            written += is_entry
            if is_entry and written == number and not after:
                os.kill(os.getpid(), signal.SIGKILL)
        if is_entry and written == number and after:
            os.kill(os.getpid(), signal.SIGKILL)

    database.write = counted  # type: ignore[method-assign]


def main() -> None:
    home, source, number, when = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    machine = Machine(home)
    kill_at(machine, number, after=when == "after")
    asyncio.run(carry_out(machine, source))
    machine.close()


if __name__ == "__main__":
    main()
