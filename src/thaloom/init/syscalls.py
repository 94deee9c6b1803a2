"""What may be asked of the node: the one way in (implements edge.api.control.plane.ControlPlane).

What changes something is put into words (base.actions) and left to `init.acting`; what only looks is answered here.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from thaloom import __version__
from thaloom.base.access import kept_name
from thaloom.base.actions import TERMS, Call, Caller, Planned
from thaloom.base.air_gap import RefusedCall
from thaloom.base.clock import Clock
from thaloom.base.errors import (
    ActionNotFound,
    BadParameter,
    DocumentNotFound,
    Forbidden,
    NameTaken,
    ServiceNotFound,
)
from thaloom.base.ids import DeviceId, ServiceName
from thaloom.base.plugins import Absent
from thaloom.base.procs import resident_bytes
from thaloom.hal.inventory import Inventory
from thaloom.hal.types import Device, Reading
from thaloom.init.acting.aliases import AliasWish, CanaryReport, PutAlias, RemoveAlias, ReturnCanary
from thaloom.init.acting.certificates import (
    CertificateWish,
    ImportCertificate,
    MakeCertificate,
    RenewalWish,
    RenewCertificate,
    TakeoverWish,
)
from thaloom.init.acting.documents import Apply, ApplyWish
from thaloom.init.acting.encryption import ConvertModel, ConvertWish, MakeMasterKey, RotateMasterKey, RotationWish
from thaloom.init.acting.guards import ServiceGuard, is_service_name, require_service_name
from thaloom.init.acting.jobs import JobRemoval, JobWish, RemoveJob, RunJob, StopJob
from thaloom.init.acting.keys import MakeKey, RemoveKey
from thaloom.init.acting.kinds import NO_AID, Aid, Done, Named, call
from thaloom.init.acting.models import (
    CopyModel,
    CopyWish,
    ImportModel,
    ImportWish,
    PullModel,
    PullWish,
    QuantiseModel,
    RemoveModel,
    RemovePull,
    SmallerWish,
)
from thaloom.init.acting.node import Down
from thaloom.init.acting.past import Past
from thaloom.init.acting.performing import Performer
from thaloom.init.acting.seeing import as_seen_by, is_seen_by
from thaloom.init.acting.services import Serve, Stop
from thaloom.init.acting.tenants import PutTenant, RemoveTenant, TenantWish
from thaloom.init.aliasing import Aliasing
from thaloom.init.boot import NodeConfig
from thaloom.init.certificates import Certificates, read_in_thread
from thaloom.init.documents.kinds import DocumentKinds
from thaloom.init.documents.shown import listed, shown
from thaloom.init.gate import Gate
from thaloom.init.history import History
from thaloom.init.host_names import host_names
from thaloom.init.host_turns import HostTurns
from thaloom.init.jobs.desk import JobDesk
from thaloom.init.key_wishes import completed, require_hold
from thaloom.init.layout import Layout
from thaloom.init.log_stream import follow_log
from thaloom.init.low_memory import MemoryWatch
from thaloom.init.node_memory import NodeMemory
from thaloom.init.progress import OnProgress, with_progress
from thaloom.init.pulls import Pulls
from thaloom.init.reconcile_loop import ReconcileLoop
from thaloom.init.reporter import Reporter
from thaloom.init.standby import Standby
from thaloom.init.supervisor import Supervisor
from thaloom.init.tenancy import Tenancy
from thaloom.init.vault import Vault
from thaloom.init.waking import Waking
from thaloom.kernel.models.bundled import NAMES, bundled_model
from thaloom.kernel.models.pulling.sources import is_hub_name, parse_source
from thaloom.kernel.models.store import ModelStore
from thaloom.kernel.models.types import (
    HubModel,
    HubSettings,
    Manifest,
    ModelName,
    QuantiseWish,
    UnfinishedPull,
    Verification,
)
from thaloom.kernel.state.jobs.types import JobPhase, JobSpec, JobStatus
from thaloom.kernel.state.journal import new_action_id
from thaloom.kernel.state.store import StateStore
from thaloom.kernel.state.types import (
    OUTSIDE,
    AccessKey,
    Alias,
    Applied,
    CertificateStatus,
    Checkpoint,
    Document,
    DocumentStatus,
    EncryptionStatus,
    JournalReport,
    KeyWish,
    NodeStatus,
    Page,
    PastAction,
    PastEvent,
    ProcessStatus,
    Quota,
    ServiceSpec,
    ServiceStatus,
    TenantUse,
)
from thaloom.kernel.trust.certificates import check_names

SHOWN = 100
"""Services among what the node says of itself; more than a person reads."""


class Syscalls:
    """Everything here may raise a leaf of ThaloomError, as its ControlPlane says."""

    def __init__(
        self,
        layout: Layout,
        config: NodeConfig,
        *,
        store: StateStore,
        models: ModelStore,
        inventory: Inventory,
        memory: NodeMemory,
        pulls: Pulls,
        supervisor: Supervisor,
        reconcile_loop: ReconcileLoop,
        reporter: Reporter,
        history: History,
        aliasing: Aliasing,
        guard: ServiceGuard,
        performer: Performer,
        tenancy: Tenancy,
        gate: Gate,
        documents: DocumentKinds,
        vault: Vault,
        jobs: JobDesk,
        certificates: Certificates,
        low_memory: MemoryWatch,
        turns: HostTurns | None,
        standby: Standby,
        waking: Waking,
        clock: Clock,
    ) -> None:
        self._layout = layout
        self._config = config
        self._store = store
        self._models = models
        self._inventory = inventory
        self._memory = memory
        self._pulls = pulls
        self._supervisor = supervisor
        self._reconcile_loop = reconcile_loop
        self._reporter = reporter
        self._history = history
        self._guard = guard
        self._performer = performer
        self._tenancy = tenancy
        self._gate = gate
        self._documents = documents
        self._past = Past(store.journal)
        self._vault = vault
        self._jobs = jobs
        self._certificates = certificates
        self._low_memory = low_memory
        self._turns = turns
        self._standby = standby
        self._waking = waking
        self._clock = clock
        self._started_at = clock.now()
        self.aliases = aliasing

    def use(self, config: NodeConfig) -> None:
        """Heed settings that were read again."""
        self._config = config

    # -- the node

    async def status(self) -> NodeStatus:
        door = self._reporter.door()
        return NodeStatus(
            version=__version__,
            pid=os.getpid(),
            home=str(self._layout.home),
            url=self._config.url,
            started_at=self._started_at,
            door_pid=None if door is None else door.lease.pid,
            door_ready=door is not None and door.ready_since is not None,
            conditions=self._reporter.node_conditions(
                self._reconcile_loop.failures, (*self._certificates.conditions(), *self._low_memory.conditions())
            ),
            memory=self._memory.report(self._supervisor),
            num_models=len(await asyncio.to_thread(self._models.list)),
            services=(page := self._reporter.statuses(limit=SHOWN)).items,
            num_services=page.total,
            num_passes=self._reconcile_loop.passes.num,
            last_pass_s=self._reconcile_loop.passes.last_s,
            last_pass_cpu_s=self._reconcile_loop.passes.last_cpu_s,
            slowest_pass_s=self._reconcile_loop.passes.slowest_s,
            standby_pid=self._standby.pid,
            standby_bytes=self._memory.kept_bytes,
        )

    async def processes(self) -> Sequence[ProcessStatus]:
        own = ProcessStatus(
            role="daemon",
            pid=os.getpid(),
            id="daemon",
            service=None,
            started_at=self._started_at,
            resident_bytes=resident_bytes(os.getpid()),
        )
        turns = {} if self._turns is None else self._turns.seated()
        kept = [
            ProcessStatus(
                role=process.lease.role,
                pid=process.lease.pid,
                id=process.id,
                service=process.lease.service,
                started_at=process.lease.started_at,
                resident_bytes=resident_bytes(process.lease.pid),
                turn_held_s=turns[process.id].held_s if process.id in turns else None,
                turn_waited_s=turns[process.id].waited_s if process.id in turns else None,
            )
            for process in self._supervisor
            if process.alive
        ]
        if (waiting := self._standby.present) is not None:
            kept.append(
                ProcessStatus(
                    role="standby",
                    pid=waiting.identity.pid,
                    id=waiting.id,
                    service=None,
                    started_at=waiting.started_at,
                    resident_bytes=resident_bytes(waiting.identity.pid),
                )
            )
        return [own, *sorted(kept, key=lambda process: (process.role, process.service or "", process.started_at))]

    async def events(self, limit: int) -> Sequence[PastEvent]:
        return self._history.latest(limit)

    async def down(self) -> int:
        await self._do(Call(Down.name))
        return os.getpid()

    def interrupt(self, signal_name: str) -> None:
        """Go down; who asks a second time does not want to wait for answers under way."""
        if self._reconcile_loop.going_down:
            self._supervisor.kill_all()
            self._jobs.kill_all()
        self._reconcile_loop.go_down(signal_name)

    # -- devices

    async def devices(self) -> tuple[Sequence[tuple[Device, Reading | None]], Sequence[Absent]]:
        report = self._inventory.refresh()
        readings = {reading.device: reading for reading in self._inventory.readings()}
        return [(device, readings.get(device.id)) for device in report.devices], report.absent

    async def device(self, device: DeviceId) -> tuple[Device, Reading | None]:
        self._inventory.refresh()
        found = self._inventory.device(device)
        readings = {reading.device: reading for reading in self._inventory.readings()}
        return found, readings.get(device)

    # -- models

    async def models(self) -> Sequence[Manifest]:
        return await asyncio.to_thread(self._models.list)

    async def model(self, name: ModelName) -> Manifest:
        return await asyncio.to_thread(self._models.get, name)

    def source(self, source: str) -> Path | HubModel:
        path = Path(source)
        found = path if path.is_absolute() else bundled_model(source)
        if found is not None:
            return found
        if not is_hub_name(source):
            raise BadParameter(
                f"{source!r} is neither an absolute path, nor the name of a model that came with Thaloom "
                f"({', '.join(map(repr, NAMES))}), nor a model of a hub (org/name, hf://, ms://, https://)",
                param="source",
            )
        return parse_source(source)

    async def pull(
        self, path: Path, name: ModelName | None, *, replace: bool, encrypt: bool | None, progress: OnProgress
    ) -> Manifest:
        wish = ImportWish(path=str(path), name=_text(name), replace=replace, encrypt=self._whether_to_encrypt(encrypt))
        return await self._made(ImportModel.name, wish, Aid(progress=progress))

    async def pull_from_hub(
        self,
        model: HubModel,
        settings: HubSettings,
        name: ModelName | None,
        *,
        replace: bool,
        read_through: bool,
        encrypt: bool | None,
        progress: OnProgress,
    ) -> Manifest:
        wish = PullWish(
            model=model,
            name=_text(name),
            replace=replace,
            read_through=read_through,
            encrypt=self._whether_to_encrypt(encrypt),
        )
        return await self._made(PullModel.name, wish, Aid(progress=progress, secrets={"settings": settings}))

    async def unfinished_pulls(self) -> Sequence[UnfinishedPull]:
        return await self._pulls.unfinished()

    async def remove_pull(self, source: str) -> str:
        await self._do(call(RemovePull.name, Named(name=source)))
        return source

    async def refused_calls(self) -> tuple[str | None, Sequence[RefusedCall]]:
        return await self._pulls.refused_calls()

    async def verify(self, name: ModelName, progress: OnProgress) -> Verification:
        return await with_progress(lambda tell: self._models.verify(name, tell), "verifying", progress)

    async def quantise(self, wish: QuantiseWish, progress: OnProgress) -> Manifest:
        if wish.text is not None and not Path(wish.text).is_absolute():
            raise BadParameter(f"{wish.text!r} is not an absolute path", param="text")
        smaller = SmallerWish(
            model=str(wish.model), to=wish.to, name=str(wish.name), replace=wish.replace, text=wish.text
        )
        return await self._made(QuantiseModel.name, smaller, Aid(progress=progress))

    async def copy_model(self, name: ModelName, to: ModelName, *, replace: bool) -> Manifest:
        return await self._made(CopyModel.name, CopyWish(name=str(name), to=str(to), replace=replace), Aid())

    async def remove_model(self, name: ModelName) -> None:
        await self._do(call(RemoveModel.name, Named(name=str(name))))

    # -- encryption

    async def encryption(self) -> EncryptionStatus:
        return await asyncio.to_thread(self._vault.status)

    async def convert_model(
        self, name: ModelName, to: ModelName | None, *, encrypted: bool, replace: bool, progress: OnProgress
    ) -> Manifest:
        wish = ConvertWish(name=str(name), to=_text(to), encrypted=encrypted, replace=replace)
        return await self._made(ConvertModel.name, wish, Aid(progress=progress))

    async def make_master_key(self) -> str:
        done = await self._do(Call(MakeMasterKey.name))
        return str(done.told.get("key", ""))

    async def rotate_master_key(self, passphrase: str | None, key_file: str | None) -> str:
        if key_file is not None and not Path(key_file).is_absolute():
            raise BadParameter(f"{key_file!r} is not an absolute path", param="key_file")
        present = await asyncio.to_thread(self._vault.status)
        wish = RotationWish(instead_of=present.master, key_file=key_file)
        done = await self._do(call(RotateMasterKey.name, wish), aid=Aid(secrets={"passphrase": passphrase}))
        return str(done.told.get("key", ""))

    # -- the door's certificate

    async def certificate(self) -> CertificateStatus:
        return self._certificates.status()

    async def make_certificate(self, names: Sequence[str] | None, days: int) -> CertificateStatus:
        told = tuple(names) if names is not None else self._own_names()
        await self._do(call(MakeCertificate.name, CertificateWish(names=check_names(told), days=days)))
        return self._certificates.status()

    async def renew_certificate(self, names: Sequence[str] | None, days: int) -> CertificateStatus:
        present = await asyncio.to_thread(lambda: self._certificates.current)
        told = tuple(names) if names is not None else self._own_names() if present is None else present.names
        wish = RenewalWish(
            instead_of="" if present is None else present.fingerprint, names=check_names(told), days=days
        )
        await self._do(call(RenewCertificate.name, wish))
        return self._certificates.status()

    async def import_certificate(self, certificate: str, key: str | None) -> CertificateStatus:
        for param, path in (("certificate", certificate), ("key", key)):
            if path is not None and not Path(path).is_absolute():
                raise BadParameter(f"{path!r} is not an absolute path", param=param)
        pair = await read_in_thread(certificate, key)
        wish = TakeoverWish(fingerprint=pair.certificate.fingerprint, certificate=certificate, key=key)
        await self._do(call(ImportCertificate.name, wish))
        return self._certificates.status()

    # -- services

    async def services(
        self, *, limit: int | None = None, after: str | None = None, tenant: str | None = None
    ) -> Page[ServiceStatus]:
        return self._reporter.statuses(limit=limit, after=after, tenant=tenant)

    async def service(self, name: ServiceName) -> ServiceStatus:
        return self._reporter.status(name)

    async def serve(self, spec: ServiceSpec) -> ServiceStatus:
        """Refuses a wish that cannot be met as things are: unknown model or device, more bytes than are free."""
        require_service_name(spec.name)
        if TERMS.get().caller.tenant is not None and spec.engine in OUTSIDE:
            raise Forbidden(
                f"a tenant serves what is in the store; engine {spec.engine!r} is the node's", param="engine"
            )
        await self._do(call(Serve.name, await self._guard.completed(spec)))
        return self._reporter.status(spec.name)

    async def stop(self, name: ServiceName) -> None:
        await self._do(call(Stop.name, Named(name=name)))

    async def wake(self, name: ServiceName) -> ServiceStatus:
        _refuse_dry_run()
        await self._waking.wake(name, f"{TERMS.get().caller} asks for it")
        return self._reporter.status(name)

    async def keep_alive(self, name: ServiceName, seconds: float) -> ServiceStatus:
        _refuse_dry_run()
        await self._waking.keep(name, seconds)
        return self._reporter.status(name)

    async def put_alias(self, alias: Alias) -> Alias:
        await self._do(call(PutAlias.name, AliasWish.of(alias)))
        return self.aliases.get(alias.name)

    async def remove_alias(self, name: ServiceName) -> None:
        await self._do(call(RemoveAlias.name, Named(name=name)))

    async def return_canary(self, name: ServiceName, revision: int, reason: str) -> Alias:
        await self._do(call(ReturnCanary.name, CanaryReport(name=name, revision=revision, reason=reason)))
        return self.aliases.get(name)

    async def logs(self, name: ServiceName, *, follow: bool, tail: int) -> AsyncIterator[bytes]:
        path = self._layout.service_log(name) if is_service_name(name) else None
        if path is None or not (path.exists() or self._wished(name)):
            raise ServiceNotFound(f"no service {name!r}")
        going_on = (lambda: self._wished(name) and not self._reconcile_loop.going_down) if follow else (lambda: False)
        return follow_log(path, tail, self._clock, going_on)

    # -- documents

    async def apply(
        self, documents: Sequence[Document], *, remove: Sequence[str], prune: dict[str, str] | None
    ) -> Applied:
        """All of it, or nothing. What changes nothing is not written down, unless it is asked for by id or plan."""
        formed = [await self._documents.read(document, number) for number, document in enumerate(documents)]
        for subject in remove:
            kind, name = self._documents.of_subject(subject)
            if kind.get(name) is None:
                raise DocumentNotFound(f"no {subject}", param="remove")
        asked = call(Apply.name, ApplyWish(documents=tuple(formed), remove=tuple(remove), prune=prune))
        terms = TERMS.get()
        if not (terms.dry_run or terms.action or terms.approval) and not (await self._performer.plan(asked)).changes:
            return Applied(action=None, unchanged=tuple(document.subject for document in formed))
        action = terms.action or new_action_id()
        told = (await self._do(asked, action=action)).told
        return Applied(action=action, **{word: tuple(subjects) for word, subjects in told.items()})

    async def documents(
        self, kind: str | None, labels: Mapping[str, str], *, limit: int | None, after: str | None
    ) -> Page[DocumentStatus]:
        return listed(self._documents, kind, labels, limit=limit, after=after)

    async def document(self, kind: str, name: str) -> DocumentStatus:
        found = shown(self._documents.of(kind), name)
        if found is None:
            raise DocumentNotFound(f"no {kind.lower()}/{name}")
        return found

    # -- jobs

    async def jobs(self, phase: JobPhase | None, limit: int) -> tuple[Sequence[JobStatus], Mapping[str, int]]:
        return self._jobs.latest(phase, limit)

    async def job(self, name: str) -> JobStatus:
        return self._jobs.status(name)

    async def run_job(self, spec: JobSpec, *, replace: bool) -> JobStatus:
        after = await asyncio.to_thread(self._asked_after, spec.name)
        await self._do(call(RunJob.name, JobWish(spec=spec, replace=replace, after=after)))
        return self._jobs.status(spec.name)

    async def stop_job(self, name: str) -> JobStatus:
        await self._do(call(StopJob.name, Named(name=name)))
        return self._jobs.status(name)

    async def remove_job(self, name: str, *, stop: bool) -> None:
        await self._do(call(RemoveJob.name, JobRemoval(name=name, stop=stop)))

    async def wait_job(self, name: str, timeout_s: float) -> JobStatus:
        return await self._jobs.wait(name, timeout_s)

    async def job_logs(self, name: str, *, follow: bool, tail: int) -> AsyncIterator[bytes]:
        return self._jobs.logs(name, follow=follow, tail=tail)

    def _asked_after(self, name: str) -> int:
        """How many attempts there were under this name when the request was made: by its id, if it is made again."""
        action = TERMS.get().action
        if action is not None:
            with contextlib.suppress(ActionNotFound):
                earlier = self._past.get(action).plan.get("call", {})
                if earlier.get("kind") == RunJob.name and isinstance(after := earlier["parameters"]["after"], int):
                    return after
        present = self._jobs.find(name)
        return 0 if present is None else present.state.num_attempts

    # -- keys

    async def keys(self) -> tuple[Sequence[AccessKey], bool]:
        return self._store.keys(), self._config.require_keys

    async def make_key(self, wish: KeyWish) -> tuple[AccessKey, str]:
        """Asked for a second time by one id, it is told that the key itself was told already."""
        with self._refusing("key.make"):
            wish = completed(wish, TERMS.get().caller, self._store, self._gate)
        done = await self._do(call(MakeKey.name, wish))
        if done.given is None:
            raise NameTaken(f"the key {wish.name!r} was made by this very request, and told then")
        key, secret = done.given
        return key, secret

    async def remove_key(self, name: str) -> None:
        keys = {key.name: key for key in self._store.keys()}  # noqa: SIM118 - no dictionary
        if name in keys:  # else it may have been this very request that took it away
            with self._refusing("key.remove"):
                require_hold(self._gate, TERMS.get().caller, keys[name])
        await self._do(call(RemoveKey.name, Named(name=name)))

    # -- tenants

    async def tenants(self) -> Sequence[TenantUse]:
        return [await self._tenancy.use(tenant.name) for tenant in self._store.tenants()]

    async def tenant(self, name: str) -> TenantUse:
        return await self._tenancy.use(name)

    async def put_tenant(self, name: str, quota: Quota, *, new: bool) -> TenantUse:
        await self._do(call(PutTenant.name, TenantWish(name=name, quota=quota, new=new)))
        return await self._tenancy.use(name)

    async def remove_tenant(self, name: str) -> None:
        await self._do(call(RemoveTenant.name, Named(name=name)))

    # -- actions

    async def actions(self, limit: int, subject: str | None, by: str | None, *, refused: bool) -> Sequence[PastAction]:
        """Those that the caller sees, as he sees them (init.acting.seeing)."""
        caller = TERMS.get().caller
        kept_subject = None if subject is None else kept_name(subject, caller.tenant)
        kept_by = None if by is None else kept_name(by, caller.tenant)
        found = await asyncio.to_thread(
            self._past.latest,
            limit,
            subject=kept_subject,
            by=kept_by,
            refused=refused,
            seen=self._seen_by(caller),
        )
        return [as_seen_by(past, caller) for past in found]

    async def action(self, action: str) -> tuple[PastAction, Sequence[PastAction]]:
        caller = TERMS.get().caller
        seen = self._seen_by(caller)
        past = await asyncio.to_thread(self._past.get, action)
        if not seen(past):
            raise ActionNotFound(f"no action {action!r} (thaloom history)")
        later = await asyncio.to_thread(self._past.later, past)
        return as_seen_by(past, caller), [as_seen_by(one, caller) for one in later if seen(one)]

    def _seen_by(self, caller: Caller) -> Callable[[PastAction], bool]:
        """A tenant's history begins with it: an earlier one of its name was another."""
        since = 0.0 if caller.tenant is None else self._store.tenant(caller.tenant).created_at
        return lambda past: past.time >= since and is_seen_by(past, caller)

    async def undo(self, action: str) -> PastAction:
        undoing = await asyncio.to_thread(self._past.undoing, action)
        chosen = TERMS.get().action or new_action_id()
        await self._do(undoing, action=chosen, undoes=action)
        return await asyncio.to_thread(self._past.get, chosen)

    async def approve(self, digest: str, until: float) -> None:
        _refuse_dry_run()
        with self._refusing("plan.approve"):
            self._performer.leave.approve(digest, until, TERMS.get().caller)

    async def verify_journal(self, through: Checkpoint | None) -> JournalReport:
        return await asyncio.to_thread(self._store.journal.verify, through)

    async def checkpoint(self) -> Checkpoint:
        return self._store.journal.checkpoint()

    # -- below

    async def _made(self, kind: str, wish: Any, aid: Aid) -> Manifest:
        done = await self._do(call(kind, wish), aid=aid)
        if isinstance(done.given, Manifest):
            return done.given
        changed = (subject.removeprefix("model/") for subject in done.subjects if subject.startswith("model/"))
        return await asyncio.to_thread(self._models.get, done.told.get("model") or next(changed))

    def _own_names(self) -> tuple[str, ...]:
        """What this machine is called, and what people call it."""
        host = () if self._config.host in ("0.0.0.0", "::") else (self._config.host,)
        return tuple(dict.fromkeys((*self._config.door.names, *host_names(), *host)))

    def _whether_to_encrypt(self, asked: bool | None) -> bool:
        """Raises EncryptionKeyMissing and others before anything is read."""
        sealed = self._config.encrypt_models if asked is None else asked
        if sealed:
            self._vault()
        return sealed

    async def _do(
        self, asked: Call, *, aid: Aid = NO_AID, action: str | None = None, undoes: str | None = None
    ) -> Done:
        """On the terms of the request that is being served. Raises Planned where that is a dry run."""
        terms = TERMS.get()
        if terms.dry_run:
            raise Planned(await self._performer.plan(asked))
        return await self._performer.perform(
            asked, terms.caller, action=action or terms.action, approval=terms.approval, undoes=undoes, aid=aid
        )

    @contextlib.contextmanager
    def _refusing(self, what: str) -> Iterator[None]:
        """What is forbidden here is told as what the gate forbids."""
        try:
            yield
        except Forbidden as error:
            self._gate.refused(str(TERMS.get().caller), what, error)
            raise

    def _wished(self, name: ServiceName) -> bool:
        return any(service.spec.name == name for service in self._store.services())


def _refuse_dry_run() -> None:
    if TERMS.get().dry_run:
        raise BadParameter("this has no plan to be looked at before", param="dry_run")


def _text(name: ModelName | None) -> str | None:
    return None if name is None else str(name)
