"""What all that may be asked has in common: the parts of the node that answer, and the terms on which is asked."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from thaloom.base.actions import TERMS, Call, Planned
from thaloom.base.clock import Clock
from thaloom.base.errors import BadParameter, Forbidden
from thaloom.hal.inventory import Inventory
from thaloom.init.access.certificates import Certificates
from thaloom.init.access.gate import Gate
from thaloom.init.access.tenancy import Tenancy
from thaloom.init.access.vault import Vault
from thaloom.init.acting.guards import ServiceGuard
from thaloom.init.acting.kinds import NO_AID, Aid, Done
from thaloom.init.acting.past import Past
from thaloom.init.acting.performing import Performer
from thaloom.init.aliasing import Aliasing
from thaloom.init.boot import NodeConfig
from thaloom.init.documents.kinds import DocumentKinds
from thaloom.init.errands.pulls import Pulls
from thaloom.init.history import History
from thaloom.init.jobs.desk import JobDesk
from thaloom.init.layout import Layout
from thaloom.init.memory.host_turns import HostTurns
from thaloom.init.memory.low_memory import MemoryWatch
from thaloom.init.memory.node_memory import NodeMemory
from thaloom.init.memory.waking import Waking
from thaloom.init.rounds.reconcile_loop import ReconcileLoop
from thaloom.init.rounds.reporter import Reporter
from thaloom.init.rounds.standby import Standby
from thaloom.init.rounds.supervisor import Supervisor
from thaloom.kernel.models.store import ModelStore
from thaloom.kernel.state.store import StateStore


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """Of the node: who knows and does what may be asked."""

    layout: Layout
    store: StateStore
    models: ModelStore
    inventory: Inventory
    memory: NodeMemory
    pulls: Pulls
    supervisor: Supervisor
    reconcile_loop: ReconcileLoop
    reporter: Reporter
    history: History
    aliasing: Aliasing
    guard: ServiceGuard
    performer: Performer
    tenancy: Tenancy
    gate: Gate
    documents: DocumentKinds
    vault: Vault
    jobs: JobDesk
    certificates: Certificates
    low_memory: MemoryWatch
    turns: HostTurns | None
    standby: Standby
    waking: Waking
    past: Past
    clock: Clock
    started_at: float
    """Seconds since the epoch."""


class Asking:
    """Some of what may be asked. What only looks is answered there; what changes something is done by an action."""

    def __init__(self, node: Parts, config: NodeConfig) -> None:
        self._node = node
        self._config = config

    def use(self, config: NodeConfig) -> None:
        """Heed settings that were read again."""
        self._config = config

    async def _do(
        self, asked: Call, *, aid: Aid = NO_AID, action: str | None = None, undoes: str | None = None
    ) -> Done:
        """On the terms of the request that is being served. Raises Planned where that is a dry run."""
        terms = TERMS.get()
        if terms.dry_run:
            raise Planned(await self._node.performer.plan(asked))
        return await self._node.performer.perform(
            asked, terms.caller, action=action or terms.action, approval=terms.approval, undoes=undoes, aid=aid
        )

    @contextlib.contextmanager
    def _refusing(self, what: str) -> Iterator[None]:
        """What is forbidden here is told as what the gate forbids."""
        try:
            yield
        except Forbidden as error:
            self._node.gate.refused(str(TERMS.get().caller), what, error)
            raise


def refuse_dry_run() -> None:
    if TERMS.get().dry_run:
        raise BadParameter("this has no plan to be looked at before", param="dry_run")
