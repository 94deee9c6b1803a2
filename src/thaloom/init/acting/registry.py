"""Every kind of action there is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from thaloom.base.clock import Clock
from thaloom.base.events import Emit
from thaloom.init.access.certificates import Certificates
from thaloom.init.access.locksmith import Locksmith
from thaloom.init.access.tenancy import Tenancy
from thaloom.init.access.vault import Vault
from thaloom.init.acting.aliases import PutAlias, RemoveAlias, ReturnCanary
from thaloom.init.acting.certificates import (
    ImportCertificate,
    MakeCertificate,
    PutBackCertificate,
    RenewCertificate,
)
from thaloom.init.acting.documents import Apply
from thaloom.init.acting.encryption import ConvertModel, MakeMasterKey, RotateMasterKey
from thaloom.init.acting.guards import ServiceGuard
from thaloom.init.acting.jobs import RemoveJob, RunJob, StopJob
from thaloom.init.acting.keys import MakeKey, RemoveKey
from thaloom.init.acting.kinds import ActionKind
from thaloom.init.acting.models import (
    Came,
    CopyModel,
    Gone,
    ImportModel,
    PullModel,
    QuantiseModel,
    RemoveModel,
    RemovePull,
    Store,
)
from thaloom.init.acting.node import Down
from thaloom.init.acting.services import Serve, Stop
from thaloom.init.acting.tenants import PutTenant, RemoveTenant
from thaloom.init.aliasing import Aliasing
from thaloom.init.documents.kinds import DocumentKinds
from thaloom.init.errands.pulls import Pulls
from thaloom.init.errands.quantising import Quantising
from thaloom.init.jobs.desk import JobDesk
from thaloom.init.rounds.reconcile_loop import ReconcileLoop
from thaloom.kernel.models.store import ModelStore
from thaloom.kernel.models.types import ModelName
from thaloom.kernel.state.store import StateStore
from thaloom.kernel.state.types import OUTSIDE


def action_kinds(
    state: StateStore,
    *,
    loop: ReconcileLoop,
    models: ModelStore,
    pulls: Pulls,
    quantising: Quantising,
    aliasing: Aliasing,
    locksmith: Locksmith,
    tenancy: Tenancy,
    guard: ServiceGuard,
    vault: Vault,
    certificates: Certificates,
    clock: Clock,
    documents: DocumentKinds,
    emit: Emit,
    came: Came,
    gone: Gone,
    require_memory: Callable[[str], None],
    jobs: JobDesk,
) -> list[ActionKind[Any]]:
    def users(name: ModelName) -> list[str]:
        """Services that serve it."""
        specs = [service.spec for service in state.services()]
        return [spec.name for spec in specs if spec.engine not in OUTSIDE and ModelName.parse(spec.model) == name]

    store = Store(models, users=users, came=came, gone=gone, require_up=loop.require_up, require_memory=require_memory)
    return [
        Serve(state, loop, emit, guard=guard),
        Stop(state, loop, emit, guard=guard),
        Apply(documents, state, loop, loop.require_up),
        PutAlias(aliasing, loop.require_up),
        RemoveAlias(aliasing),
        ReturnCanary(aliasing),
        ImportModel(store),
        PullModel(store, pulls),
        CopyModel(store),
        QuantiseModel(store, quantising),
        RemoveModel(store),
        RemovePull(pulls),
        ConvertModel(store),
        MakeMasterKey(vault),
        RotateMasterKey(vault),
        MakeCertificate(certificates),
        RenewCertificate(certificates),
        ImportCertificate(certificates, clock),
        PutBackCertificate(certificates),
        MakeKey(state, locksmith, tenancy),
        RemoveKey(state, locksmith),
        RunJob(jobs, emit),
        StopJob(jobs),
        RemoveJob(jobs),
        PutTenant(state, tenancy, locksmith, clock),
        RemoveTenant(state, tenancy, locksmith),
        Down(
            loop.go_down,
            is_down=lambda: loop.going_down,
            touches=lambda: [f"service/{service.spec.name}" for service in state.services()],
        ),
    ]
