"""A control plane made of canned facts, and a control server over it."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any

from tests.certificates import FakeCertificates
from tests.encrypted import FakeEncryption
from tests.gates import FakeAccess, gate
from tests.kept_documents import FakeDocuments, of_tenant, page_of
from tests.unit.edge_control.jobs_plane import JobsPlane
from thaloom.base.actions import TERMS, Call, Change, Plan, Planned
from thaloom.base.air_gap import RefusedCall
from thaloom.base.errors import (
    ActionNotFound,
    AliasNotFound,
    BadParameter,
    DeviceNotFound,
    ModelInUse,
    ModelNotFound,
    OutOfMemory,
    ServiceNotFound,
)
from thaloom.base.events import Degraded
from thaloom.base.ids import DeviceId, Digest, ServiceName, WorkerId
from thaloom.base.plugins import Absent
from thaloom.edge.api.control.plane import OnProgress
from thaloom.edge.api.control.routes import control_app
from thaloom.edge.api.control.server import ControlServer
from thaloom.edge.client.control import ControlClient
from thaloom.hal.types import Cache, Device, Reading
from thaloom.kernel.models.types import (
    FileEntry,
    FileFault,
    HubModel,
    HubSettings,
    Manifest,
    ModelCard,
    ModelName,
    QuantiseWish,
    UnfinishedPull,
    Verification,
)
from thaloom.kernel.state.types import (
    Alias,
    Checkpoint,
    Condition,
    DeviceMemory,
    JournalFault,
    JournalReport,
    NodeStatus,
    Page,
    PastAction,
    PastEvent,
    ProcessStatus,
    ServiceSpec,
    ServiceStatus,
)

PLAN = Plan(
    call=Call("alias.put", {"name": "best"}),
    risk="low",
    changes=(Change(subject="alias/best", before=None, after={"shares": ["tiny"]}),),
    undo=Call("alias.remove", {"name": "best"}),
)
PAST_ACTION = PastAction(
    id="a-1",
    number=1,
    kind="service.serve",
    by="person:local",
    time=1.0,
    ended_at=2.0,
    ending="done",
    plan=PLAN.to_record(),
    subjects=("service/tiny",),
    undo={"kind": "service.stop", "parameters": {"name": "tiny"}},
)
CPU = Device(
    id=DeviceId("cpu"),
    driver="cpu",
    kind="cpu",
    name="A processor",
    vendor="somebody",
    memory_bytes=1 << 30,
    num_cores=2,
    dtypes=frozenset({"f32", "bf16"}),
    isolation="process",
    features=("avx2",),
    caches=(Cache(level=1, kind="data", size_bytes=32768, shared_by=1),),
)
READING = Reading(device=CPU.id, health="healthy", memory_used_bytes=5)
CARD = ModelCard(
    architecture="LlamaForCausalLM",
    family="llama",
    num_parameters=10,
    dtypes=("bf16",),
    weight_bytes=20,
    context_length=64,
    vocab_size=8,
    has_tokenizer=True,
    has_chat_template=False,
)
MANIFEST = Manifest(
    name=ModelName("tiny", "v1"),
    digest=Digest("ab" * 32),
    files=(FileEntry(path="config.json", num_bytes=7, tree=Digest("cd" * 32), sha256=Digest("ef" * 32)),),
    card=CARD,
    created_at=1.0,
    source="/somewhere",
)


class Aliases:
    """Implements what ControlPlane has for aliases."""

    def __init__(self) -> None:
        self.now: dict[str, Alias] = {}

    def list(self) -> Sequence[Alias]:
        return list(self.now.values())

    def get(self, name: ServiceName) -> Alias:
        if name not in self.now:
            raise AliasNotFound(f"no alias {name!r}")
        return self.now[name]


class Plane(FakeAccess, FakeCertificates, FakeDocuments, FakeEncryption, JobsPlane):
    """Implements ControlPlane. `services_now` is what is served; `gate` holds long work back until it is set."""

    def __init__(self) -> None:
        super().__init__()
        self.encrypt: bool | None = None
        self.manifests = [MANIFEST]
        self.services_now: dict[str, ServiceStatus] = {}
        self.phases: Iterator[str] | None = None
        self.gate = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.fault: Exception | None = None
        self.went_down = False
        self.aliases = Aliases()

    async def status(self) -> NodeStatus:
        return NodeStatus(
            version="1",
            pid=7,
            home="/h",
            url="http://127.0.0.1:7411",
            started_at=1.0,
            door_pid=8,
            door_ready=True,
            conditions=(Condition(kind="Ready", status=True, reason="Serving", message="", since=1.0),),
            memory=(DeviceMemory(device=CPU.id, capacity_bytes=10, reserved_bytes=4, free_bytes=6),),
            num_models=1,
            services=tuple(self.services_now.values()),
        )

    async def processes(self) -> Sequence[ProcessStatus]:
        return [ProcessStatus(role="daemon", pid=7, id="daemon", service=None, started_at=1.0, resident_bytes=None)]

    async def devices(self) -> tuple[Sequence[tuple[Device, Reading | None]], Sequence[Absent]]:
        return [(CPU, READING)], [Absent(name="cuda", reason="no libcuda")]

    async def device(self, device: DeviceId) -> tuple[Device, Reading | None]:
        if device != CPU.id:
            raise DeviceNotFound(f"no device {device!r}", param="device")
        return CPU, None

    async def models(self) -> Sequence[Manifest]:
        return self.manifests

    async def model(self, name: ModelName) -> Manifest:
        for manifest in self.manifests:
            if manifest.name == name:
                return manifest
        raise ModelNotFound(f"no model {str(name)!r}", near=["tiny:v1"])

    def source(self, source: str) -> Path | HubModel:
        if source.startswith("hf://"):
            return HubModel(hub="hf", repo=source.removeprefix("hf://"), revision="main")
        if not source.startswith("/"):
            raise BadParameter(f"{source!r} is no absolute path", param="source")
        return Path(source)

    async def pull(
        self, path: Path, name: ModelName | None, *, replace: bool, encrypt: bool | None, progress: OnProgress
    ) -> Manifest:
        self.encrypt = encrypt
        if TERMS.get().dry_run:
            raise Planned(PLAN)
        return await self._long_work(progress, MANIFEST)

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
        self.pulled = (model, settings, name, replace, read_through)
        return await self._long_work(progress, MANIFEST)

    async def unfinished_pulls(self) -> Sequence[UnfinishedPull]:
        pull = UnfinishedPull(source="hf://a/b@main", commit="c", done_bytes=1, total_bytes=2, begun_at=3.0)
        return [pull]

    async def remove_pull(self, source: str) -> str:
        if source != "hf://a/b@main":
            raise ModelNotFound(f"no unfinished pull of {source!r}")
        return source

    async def refused_calls(self) -> tuple[str | None, Sequence[RefusedCall]]:
        return "closed", [RefusedCall(time=1.0, purpose="p", method="GET", url="https://x/y", reason="closed")]

    async def quantise(self, wish: QuantiseWish, progress: OnProgress) -> Manifest:
        self.wish = wish
        return await self._long_work(progress, MANIFEST)

    async def verify(self, name: ModelName, progress: OnProgress) -> Verification:
        fault = FileFault(path="a.safetensors", problem="altered", message="chunk 3")
        return await self._long_work(progress, Verification(name=name, checked_bytes=7, faults=(fault,)))

    async def _long_work(self, progress: OnProgress, result: Any) -> Any:
        try:
            if self.fault is not None and self.gate.is_set():
                raise self.fault
            progress("importing", 3, 7)
            await self.gate.wait()
            if self.fault is not None:
                raise self.fault
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        return result

    async def copy_model(self, name: ModelName, to: ModelName, *, replace: bool) -> Manifest:
        self.copied = (name, to, replace)
        return dataclasses.replace(await self.model(name), name=to)

    async def remove_model(self, name: ModelName) -> None:
        raise ModelInUse(f"model {str(name)!r} is served", services=["tiny"])

    async def services(
        self, *, limit: int | None = None, after: str | None = None, tenant: str | None = None
    ) -> Page[ServiceStatus]:
        return page_of(of_tenant(self.services_now, tenant), limit, after)

    async def service(self, name: ServiceName) -> ServiceStatus:
        if name not in self.services_now:
            raise ServiceNotFound(f"no service {name!r}")
        if self.phases is not None:
            self.services_now[name] = standing(self.services_now[name].spec, next(self.phases))
        return self.services_now[name]

    async def serve(self, spec: ServiceSpec) -> ServiceStatus:
        if spec.kv_bytes is not None:
            raise OutOfMemory("too big", needed_bytes=9, free_bytes=6)
        self.services_now[spec.name] = standing(spec, "loading")
        return self.services_now[spec.name]

    async def stop(self, name: ServiceName) -> None:
        await self.service(name)
        del self.services_now[name]

    async def wake(self, name: ServiceName) -> ServiceStatus:
        self.services_now[name] = standing((await self.service(name)).spec, "loading")
        return self.services_now[name]

    async def keep_alive(self, name: ServiceName, seconds: float) -> ServiceStatus:
        """0: it is idle at once."""
        status = dataclasses.replace(await self.service(name), keep_alive_s=seconds)
        self.services_now[name] = status if seconds else standing(status.spec, "idle")
        return self.services_now[name]

    async def logs(self, name: ServiceName, *, follow: bool, tail: int) -> AsyncIterator[bytes]:
        await self.service(name)

        async def lines() -> AsyncIterator[bytes]:
            try:
                yield f"follow={follow} tail={tail}\n".encode()
                if follow:
                    await self.gate.wait()
                    yield b"more\n"
            except asyncio.CancelledError:
                self.cancelled.set()
                raise

        return lines()

    async def put_alias(self, alias: Alias) -> Alias:
        if TERMS.get().dry_run:
            raise Planned(PLAN)
        self.aliases.now[alias.name] = alias
        self.terms = TERMS.get()
        return alias

    async def remove_alias(self, name: ServiceName) -> None:
        self.aliases.get(name)
        del self.aliases.now[name]

    async def return_canary(self, name: ServiceName, revision: int, reason: str) -> Alias:
        aliases = self.aliases
        aliases.now[name] = dataclasses.replace(aliases.get(name), returned=reason, revision=revision + 1)
        return aliases.now[name]

    async def actions(self, limit: int, subject: str | None, by: str | None, *, refused: bool) -> Sequence[PastAction]:
        if refused:
            return [dataclasses.replace(PAST_ACTION, ending="refused")]
        return [PAST_ACTION][:limit] if subject in (None, "service/tiny") and by in (None, "person:local") else []

    async def action(self, action: str) -> tuple[PastAction, Sequence[PastAction]]:
        if action != PAST_ACTION.id:
            raise ActionNotFound(f"no action {action!r}")
        return PAST_ACTION, []

    async def undo(self, action: str) -> PastAction:
        await self.action(action)
        return dataclasses.replace(PAST_ACTION, id="a-2", undoes=action)

    async def approve(self, digest: str, until: float) -> None:
        self.approved = (digest, until)

    async def verify_journal(self, through: Checkpoint | None) -> JournalReport:
        faults = () if through is None else (JournalFault(entry=through.entry, problem="not_through"),)
        return JournalReport(first=1, last=3, num_checked=3, num_unsealed=0, faults=faults)

    async def checkpoint(self) -> Checkpoint:
        return Checkpoint(entry=3, seal="abc")

    async def events(self, limit: int) -> Sequence[PastEvent]:
        return [PastEvent(time=1.0, event=Degraded(subject="s", reason="r", message=str(limit)))]

    async def down(self) -> int:
        self.went_down = True
        return 7


def standing(spec: ServiceSpec, phase: str) -> ServiceStatus:
    ready = Condition(kind="Ready", status=phase == "ready", reason=phase.title(), message=f"is {phase}", since=1.0)
    return ServiceStatus(
        spec=spec,
        phase=phase,  # type: ignore[arg-type]
        conditions=(ready,),
        created_at=1.0,
        worker=WorkerId("w-1"),
        operator_levels={"linear": "L2"},
    )


@contextmanager
def serving(home: Path) -> Iterator[tuple[Plane, ControlClient, Callable[[Callable[[], object]], None]]]:
    """A plane behind a real unix socket, a client of it, and a way to do something inside the server's loop."""
    (home / "run").mkdir(exist_ok=True)
    loop = asyncio.new_event_loop()
    plane = Plane()
    server = ControlServer(control_app(plane, gate()), home / "run" / "control.sock")
    server.listen()
    thread = Thread(target=loop.run_until_complete, args=(server.serve(),))
    thread.start()
    try:
        with ControlClient(home, timeout_s=30.0) as client:
            yield plane, client, lambda what: loop.call_soon_threadsafe(what) and None
    finally:
        server.stop()
        thread.join(30)
        loop.close()
