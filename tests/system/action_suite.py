"""Every kind of action that has an end of its own, one after the other, killed at a write of the journal that is named.

    python -m tests.system.action_suite HOME SOURCE NUMBER before|after|uncommitted|committed

The last two are about the transactions in which documents come to be, not about the journal.

It carries the actions out as the daemon does, without its processes: `init.acting` over real stores, keys and models.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from tests.certificates import pair
from tests.system.killing import kill_at
from thaloom.base.actions import LOCAL, Call
from thaloom.base.clock import SystemClock
from thaloom.base.events import ignore
from thaloom.base.files import write_atomic
from thaloom.base.ids import ServiceName
from thaloom.init.access.certificates import Certificates
from thaloom.init.access.locksmith import Locksmith
from thaloom.init.access.tenancy import Tenancy
from thaloom.init.access.vault import Vault
from thaloom.init.acting.aliases import AliasWish, CanaryReport, PutAlias, RemoveAlias, ReturnCanary
from thaloom.init.acting.certificates import (
    CertificateWish,
    ImportCertificate,
    MakeCertificate,
    PutBackCertificate,
    RenewalWish,
    RenewCertificate,
    ReturnWish,
    TakeoverWish,
)
from thaloom.init.acting.documents import Apply, ApplyWish
from thaloom.init.acting.encryption import ConvertModel, ConvertWish, MakeMasterKey
from thaloom.init.acting.guards import ServiceGuard
from thaloom.init.acting.keys import KeyWish, MakeKey, RemoveKey
from thaloom.init.acting.kinds import Named, call
from thaloom.init.acting.models import CopyModel, CopyWish, ImportModel, ImportWish, RemoveModel
from thaloom.init.acting.node import Nothing
from thaloom.init.acting.performing import Performer
from thaloom.init.acting.registry import action_kinds
from thaloom.init.acting.services import Serve, Stop
from thaloom.init.acting.tenants import PutTenant, RemoveTenant, TenantWish
from thaloom.init.aliasing import Aliasing
from thaloom.init.boot import NodeConfig
from thaloom.init.documents.federations import Federations
from thaloom.init.documents.kinds import DocumentKinds
from thaloom.init.documents.services import Services
from thaloom.init.documents.workspaces import Workspaces
from thaloom.init.layout import Layout
from thaloom.init.rounds.reconcile_loop import ReconcileLoop
from thaloom.kernel.models.store import ModelStore
from thaloom.kernel.state.store import StateStore
from thaloom.kernel.state.types import Document, KeyLimits, Quota, ServiceSpec, Share
from thaloom.kernel.trust.certificates import read_files
from thaloom.kernel.trust.seals import node_key, sealing


def suite(source: Path) -> list[tuple[str, Call]]:
    """(id, what is asked for), in order."""
    chat, fine, talk = ServiceName("chat"), ServiceName("fine"), ServiceName("talk")
    spec = ServiceSpec(name=chat, model="small")
    alias = AliasWish(name=talk, shares=(Share(service=chat, weight=9), Share(service=fine, weight=1)), canary=fine)
    service = Document(kind="Service", name="web", spec={"model": "small", "context_length": 64})
    workspace = Document(kind="Workspace", name="data", labels={"app": "x"})
    federation = Document(kind="Federation", name="f", spec={"model": "small", "participants": ["a", "b"]})
    takeover = _takeover(source)
    wishes: list[tuple[str, Any]] = [
        (ImportModel.name, ImportWish(path=str(source), name="small")),
        (Serve.name, spec),
        (Serve.name, ServiceSpec(name=chat, model="small", context_length=64)),
        (Serve.name, ServiceSpec(name=fine, model="small")),
        (PutAlias.name, alias),
        (ReturnCanary.name, CanaryReport(name="talk", revision=1, reason="it did worse")),
        (MakeKey.name, KeyWish(name="ci", limits=KeyLimits(concurrent=2))),
        (PutTenant.name, TenantWish(name="acme", quota=Quota(services=2), new=True)),
        (PutTenant.name, TenantWish(name="acme", quota=Quota(services=3))),
        (CopyModel.name, CopyWish(name="small", to="again")),
        (MakeMasterKey.name, Nothing()),
        (ConvertModel.name, ConvertWish(name="again", to="hidden", encrypted=True)),
        (RemoveTenant.name, Named(name="acme")),
        (RemoveKey.name, Named(name="ci")),
        (MakeCertificate.name, CertificateWish(names=("localhost",))),
        (ImportCertificate.name, takeover),
        (RenewCertificate.name, RenewalWish(instead_of=takeover.fingerprint, names=("localhost", "node"))),
        (PutBackCertificate.name, ReturnWish(fingerprint=takeover.fingerprint)),
        (PutBackCertificate.name, ReturnWish(fingerprint=None)),
        (RemoveAlias.name, Named(name="talk")),
        (Stop.name, Named(name="chat")),
        (Stop.name, Named(name="fine")),
        (Apply.name, ApplyWish(documents=(service, workspace, federation))),
        (Apply.name, ApplyWish(documents=(replace(service, spec={"model": "small"}),), remove=("federation/f",))),
        (Apply.name, ApplyWish(remove=("service/web", "workspace/data"))),
        (RemoveModel.name, Named(name="small")),
        (RemoveModel.name, Named(name="again")),
        (RemoveModel.name, Named(name="hidden")),
    ]
    return [(f"step-{number}", call(kind, wish)) for number, (kind, wish) in enumerate(wishes)]


def _takeover(source: Path) -> TakeoverWish:
    """Of a pair that lies beside the model, and stays the same for every process that asks."""
    path = source.parent / "pair.pem"
    if not source.parent.joinpath("model").exists():
        return TakeoverWish(fingerprint="", certificate=str(path))
    if not path.exists():
        write_atomic(path, pair("localhost").text)
        path.chmod(0o600)
    return TakeoverWish(fingerprint=read_files(path, None).certificate.fingerprint, certificate=str(path))


class Machine:
    """The stores of a node, and its hands."""

    def __init__(self, home: Path) -> None:
        clock = SystemClock()
        self.layout = Layout(home)
        self.layout.create()
        self.store = StateStore(self.layout.state, clock, seal=sealing(node_key(self.layout.node_key)))
        vault = Vault(
            self.layout,
            key_file="",
            passphrase=None,
            has_encrypted=lambda: self.models.has_encrypted(),
            environment={},
            emit=ignore,
        )
        self.models = ModelStore(self.layout.models, clock, key=vault)
        vault.open()
        self.aliasing = Aliasing(self.store, ignore, lambda: None)
        self.locksmith = Locksmith(self.layout.keys, require_keys=False, store=self.store, clock=clock, emit=ignore)
        self.certificates = Certificates(self.layout, NodeConfig(), door=lambda: None, clock=clock, emit=ignore)
        self.certificates.sweep()
        self.certificates.load()
        nothing = cast(Any, None)

        async def settled() -> bool:
            return False

        async def no_guard(*_: object, **__: object) -> None: ...

        async def as_it_is(spec: ServiceSpec) -> ServiceSpec:
            return spec

        guard = cast(
            ServiceGuard,
            SimpleNamespace(check=no_guard, check_all=no_guard, completed=as_it_is, workers=lambda _: []),
        )

        loop = SimpleNamespace(
            require_up=lambda: None, renewed=lambda _: None, removed=lambda _: None, settle=settled, going_down=False,
            go_down=lambda _: None,
        )  # fmt: skip
        tenancy = SimpleNamespace(check_key=lambda _: None, check_quota=lambda _: None, left=lambda _: [])
        self.workspaces = Workspaces(self.store, self.layout.workspaces)
        services = Services(self.store, cast(ReconcileLoop, loop), guard=guard, status=nothing, emit=ignore)
        self.documents = DocumentKinds([services, self.workspaces, Federations(self.store)])
        self.kinds = action_kinds(
            self.store,
            loop=cast(ReconcileLoop, loop),
            models=self.models,
            pulls=nothing,
            quantising=nothing,
            aliasing=self.aliasing,
            locksmith=self.locksmith,
            tenancy=cast(Tenancy, tenancy),
            guard=guard,
            vault=vault,
            certificates=self.certificates,
            clock=clock,
            documents=self.documents,
            emit=ignore,
            came=lambda _: None,
            gone=lambda _: None,
            require_memory=lambda _: None,
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
            "tenants": self.store.tenants(),
            "certificate": self.certificates.current,
            "models": [str(manifest.name) for manifest in self.models.list()],
            "documents": [document.subject for kind in self.documents for document in kind.list()],
            "folders": sorted(path.name for path in self.layout.workspaces.glob("*")),
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


def kill_in_transaction(machine: Machine, number: int, *, committed: bool) -> None:
    """End this process in the transaction of that number in which documents come to be."""
    store, begun = machine.store, 0
    together = store.together

    @contextlib.contextmanager
    def counted() -> Iterator[None]:
        nonlocal begun
        begun += 1
        with together():
            yield
            if begun == number and not committed:
                os.kill(os.getpid(), signal.SIGKILL)
        if begun == number and committed:
            os.kill(os.getpid(), signal.SIGKILL)

    store.together = counted  # type: ignore[method-assign]


def main() -> None:
    home, source, number, when = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    if when in ("before", "after"):
        kill_at(number, after=when == "after")
    machine = Machine(home)
    if when in ("uncommitted", "committed"):
        kill_in_transaction(machine, number, committed=when == "committed")
    asyncio.run(carry_out(machine, source))
    machine.close()


if __name__ == "__main__":
    main()
