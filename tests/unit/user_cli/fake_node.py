"""A node made of facts: the real control API on a real unix socket, over a plane that only remembers."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from tests.certificates import FakeCertificates
from tests.encrypted import FakeEncryption
from tests.gates import FakeAccess, gate
from tests.kept_documents import FakeDocuments, of_tenant, page_of
from thaloom.base.air_gap import RefusedCall
from thaloom.base.errors import (
    BadParameter,
    DeviceNotFound,
    ModelNotFound,
    ServiceNotFound,
    ThaloomError,
)
from thaloom.base.ids import DeviceId, Digest, ServiceName, WorkerId
from thaloom.base.plugins import Absent
from thaloom.edge.api.control.plane import OnProgress
from thaloom.edge.api.control.routes import control_app
from thaloom.edge.api.control.server import ControlServer
from thaloom.hal.types import Cache, Device, Reading
from thaloom.kernel.models.pulling.sources import is_hub_name, parse_source
from thaloom.kernel.models.types import (
    FileEntry,
    FileFault,
    HubModel,
    HubSettings,
    Manifest,
    ModelCard,
    ModelName,
    Quality,
    Quantisation,
    QuantiseWish,
    UnfinishedPull,
    Verification,
)
from thaloom.kernel.state.types import (
    Condition,
    DeviceMemory,
    NodeStatus,
    Page,
    PastEvent,
    Phase,
    ProcessStatus,
    ServiceSpec,
    ServiceStatus,
)

NOW = time.time()
CPU = Device(
    id=DeviceId("cpu"),
    driver="cpu",
    kind="cpu",
    name="Made-up 9000",
    vendor="Nobody",
    memory_bytes=8 * 2**30,
    num_cores=2,
    dtypes=frozenset({"f32", "bf16"}),
    isolation="process",
    features=("amx_tile", "avx2"),
    build="x86_64_v3",
    unused=("amx_tile",),
    caches=(Cache(level=1, kind="data", size_bytes=32768, shared_by=1),),
)


def manifest(name: str, *, chat: bool = False) -> Manifest:
    card = ModelCard(
        architecture="LlamaForCausalLM",
        family="llama",
        num_parameters=4_200_000,
        dtypes=("bf16",),
        weight_bytes=8_400_000,
        context_length=512,
        vocab_size=4096,
        has_tokenizer=True,
        has_chat_template=chat,
        license="Apache-2.0",
        summary="A model of nobody.",
    )
    file = FileEntry(path="model.safetensors", num_bytes=8_400_128, tree=Digest("1" * 64), sha256=Digest("2" * 64))
    return Manifest(
        name=ModelName.parse(name), digest=Digest("a" * 64), files=(file,), card=card, created_at=NOW, source="/made/up"
    )


class FakePlane(FakeAccess, FakeCertificates, FakeDocuments, FakeEncryption):
    """Remembers models and services; a service is ready at the second look. `fail` makes one method raise."""

    def __init__(self) -> None:
        super().__init__()
        self.asked_to_encrypt: list[bool | None] = []
        self.models_by_name: dict[str, Manifest] = {}
        self.services_by_name: dict[str, ServiceStatus] = {}
        self.fail: dict[str, ThaloomError] = {}
        self.faults: tuple[FileFault, ...] = ()
        self.log_lines = ["first", "second", "third \x1b[31mred"]
        self.asked: list[tuple[str, object]] = []
        self.url = "http://127.0.0.1:9"
        self.outcome: Phase = "ready"
        self.bundled: set[str] = set()
        self.unfinished: list[UnfinishedPull] = []
        self.refused: list[RefusedCall] = []
        self.closed: str | None = None
        self.interrupt: Callable[[], None] | None = None
        """Called in the middle of a pull."""
        self.pids = [os.getpid()]
        self.standby_pid: int | None = None
        self.went_down = False

    def add_model(self, name: str, *, chat: bool = False) -> None:
        self.models_by_name[str(ModelName.parse(name))] = manifest(name, chat=chat)

    def add_service(
        self,
        name: str,
        model: str,
        *,
        phase: Phase = "ready",
        degraded: bool = False,
        reason: str = "Said",
        message: str = "",
    ) -> None:
        """`reason` and `message`: of the Ready condition."""
        conditions = [Condition(kind="Ready", status=phase == "ready", reason=reason, message=message, since=NOW)]
        if degraded:
            conditions.append(
                Condition(kind="Degraded", status=True, reason="NoCompiler", message="runs on NumPy", since=NOW)
            )
        self.services_by_name[name] = ServiceStatus(
            spec=ServiceSpec(name=ServiceName(name), model=model),
            phase=phase,
            conditions=tuple(conditions),
            created_at=NOW,
            worker=WorkerId("w-1"),
            pid=4242,
            device=CPU.id,
            weight_bytes=8_400_000,
            context_length=512,
        )

    def _note(self, method: str, value: object = None) -> None:
        self.asked.append((method, value))
        if method in self.fail:
            raise self.fail[method]

    async def status(self) -> NodeStatus:
        self._note("status")
        return NodeStatus(
            version="0.1.0",
            pid=os.getpid(),
            home="/made/up",
            url=self.url,
            started_at=NOW,
            door_pid=4343,
            door_ready=True,
            conditions=(
                Condition(kind="Ready", status=False, reason="Restarting", message="the door ended", since=NOW),
                Condition(kind="Degraded", status=True, reason="Slow", message="no compiler", since=NOW),
            ),
            memory=(DeviceMemory(device=CPU.id, capacity_bytes=8 * 2**30, reserved_bytes=2**30, free_bytes=7 * 2**30),),
            num_models=len(self.models_by_name),
            services=tuple(self.services_by_name.values()),
            standby_pid=self.standby_pid,
            standby_bytes=0 if self.standby_pid is None else 50 * 2**20,
        )

    async def processes(self) -> Sequence[ProcessStatus]:
        self._note("processes")
        roles: tuple[Literal["daemon", "door", "worker", "standby"], ...] = ("daemon", "door", "worker", "standby")
        return [
            ProcessStatus(
                role=role,
                pid=pid,
                id=role,
                service=None,
                started_at=NOW,
                resident_bytes=2**20,
                turn_held_s=12.34 if role == "worker" else None,
                turn_waited_s=5.67 if role == "worker" else None,
            )
            for role, pid in zip(roles, self.pids, strict=False)
        ]

    async def devices(self) -> tuple[Sequence[tuple[Device, Reading | None]], Sequence[Absent]]:
        self._note("devices")
        reading = Reading(device=CPU.id, health="healthy", memory_used_bytes=2**30, memory_free_bytes=7 * 2**30)
        return [(CPU, reading)], [Absent(name="cuda", reason="no library libcuda.so.1")]

    async def device(self, device: DeviceId) -> tuple[Device, Reading | None]:
        self._note("device", device)
        found, _ = await self.devices()
        for one in found:
            if one[0].id == device:
                return one
        raise DeviceNotFound(f"no device {device!r}")

    async def models(self) -> Sequence[Manifest]:
        self._note("models")
        return list(self.models_by_name.values())

    async def model(self, name: ModelName) -> Manifest:
        self._note("model", str(name))
        if str(name) not in self.models_by_name:
            raise ModelNotFound(f"no model {str(name)!r} in the store")
        return self.models_by_name[str(name)]

    def source(self, source: str) -> Path | HubModel:
        if is_hub_name(source):
            return parse_source(source)
        if not source.startswith("/") and source not in self.bundled:
            raise BadParameter(f"neither a path nor bundled: {source!r}", param="source")
        return Path("/bundled") / source

    async def pull(
        self, path: Path, name: ModelName | None, *, replace: bool, encrypt: bool | None, progress: OnProgress
    ) -> Manifest:
        self.asked_to_encrypt.append(encrypt)
        self._note("pull", (str(path), None if name is None else str(name), replace))
        progress("copying", 1, 2)
        self.add_model(str(name or path.name))
        return self.models_by_name[str(name or path.name)]

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
        self._note("pull_from_hub", (str(model), settings, None if name is None else str(name), replace))
        progress("pulling", 1, 2)
        await asyncio.sleep(0.01)  # for that to be told
        if self.interrupt is not None:
            self.interrupt()
        self.add_model(str(name or "pulled"))
        return self.models_by_name[str(name or "pulled")]

    async def unfinished_pulls(self) -> Sequence[UnfinishedPull]:
        return self.unfinished

    async def remove_pull(self, source: str) -> str:
        self._note("remove_pull", source)
        if source not in [pull.source for pull in self.unfinished]:
            raise ModelNotFound(f"no unfinished pull of {source!r}")
        return source

    async def refused_calls(self) -> tuple[str | None, Sequence[RefusedCall]]:
        return self.closed, self.refused

    async def quantise(self, wish: QuantiseWish, progress: OnProgress) -> Manifest:
        self._note("quantise", wish)
        await self.model(wish.model)
        progress("measuring", 1, 2)
        self.add_model(str(wish.name))
        made = self.models_by_name[str(wish.name)]
        found = Quality(text="made up", num_tokens=512, perplexity=10.1, original_perplexity=10.0, mean_kl=0.01)
        record = Quantisation(source="here", original="b" * 64, tensors={}, relative_error=0.01, quality=found)
        return dataclasses.replace(made, card=dataclasses.replace(made.card, quantisation=record))

    async def verify(self, name: ModelName, progress: OnProgress) -> Verification:
        self._note("verify", str(name))
        await self.model(name)
        return Verification(name=name, checked_bytes=8_400_128, faults=self.faults)

    async def remove_model(self, name: ModelName) -> None:
        self._note("remove_model", str(name))
        await self.model(name)
        del self.models_by_name[str(name)]

    async def services(
        self, *, limit: int | None = None, after: str | None = None, tenant: str | None = None
    ) -> Page[ServiceStatus]:
        self._note("services")
        return page_of(of_tenant(self.services_by_name, tenant), limit, after)

    async def service(self, name: ServiceName) -> ServiceStatus:
        self._note("service", name)
        if name not in self.services_by_name:
            raise ServiceNotFound(f"no service {name!r}")
        status = self.services_by_name[name]
        if status.phase == "loading":
            failed = self.outcome == "failed"
            ready = Condition(
                kind="Ready", status=not failed, reason="Said", message="bad weights" if failed else "", since=NOW
            )
            self.services_by_name[name] = dataclasses.replace(status, phase=self.outcome, conditions=(ready,))
        return status

    async def serve(self, spec: ServiceSpec) -> ServiceStatus:
        self._note("serve", spec)
        self.add_service(spec.name, spec.model, phase="loading")
        self.services_by_name[spec.name] = dataclasses.replace(self.services_by_name[spec.name], spec=spec)
        return self.services_by_name[spec.name]

    async def stop(self, name: ServiceName) -> None:
        self._note("stop", name)
        if name not in self.services_by_name:
            raise ServiceNotFound(f"no service {name!r}")
        del self.services_by_name[name]

    async def wake(self, name: ServiceName) -> ServiceStatus:
        self._note("wake", name)
        return await self.service(name)

    async def keep_alive(self, name: ServiceName, seconds: float) -> ServiceStatus:
        self._note("keep_alive", (name, seconds))
        return await self.service(name)

    async def logs(self, name: ServiceName, *, follow: bool, tail: int) -> AsyncIterator[bytes]:
        self._note("logs", (name, follow, tail))
        await self.service(name)

        async def lines() -> AsyncIterator[bytes]:
            for line in self.log_lines[-tail:]:
                yield line.encode() + b"\n"

        return lines()

    async def events(self, limit: int) -> Sequence[PastEvent]:
        return []

    async def down(self) -> int:
        self._note("down")
        self.went_down = True
        return os.getpid()


class Relay:
    """Hands every question to the plane of the test that runs: one server is enough for all of them."""

    plane: FakePlane

    def __getattr__(self, name: str) -> Any:
        return getattr(self.plane, name)


@contextmanager
def serve_plane(relay: Relay, path: Path) -> Iterator[None]:
    """The control API on the socket `path`, served by a thread, until the block ends."""
    server = ControlServer(control_app(relay, gate()), path)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()), name="fake-node")
    thread.start()
    deadline = time.monotonic() + 30
    while not server._server.started and time.monotonic() < deadline:
        time.sleep(0.002)
    try:
        yield
    finally:
        server.stop()
        thread.join(30)
