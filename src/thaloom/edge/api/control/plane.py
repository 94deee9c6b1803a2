"""What the control API asks of process one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from thaloom.base.air_gap import RefusedCall
from thaloom.base.ids import DeviceId, ServiceName
from thaloom.base.plugins import Absent
from thaloom.hal.types import Device, Reading
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
from thaloom.kernel.state.types import (
    AccessKey,
    Alias,
    Applied,
    Checkpoint,
    Document,
    DocumentStatus,
    EncryptionStatus,
    JournalReport,
    KeyLimits,
    NodeStatus,
    Page,
    PastAction,
    PastEvent,
    ProcessStatus,
    ServiceSpec,
    ServiceStatus,
)

OnProgress = Callable[[str, int, int | None], None]
"""Called in the event loop with a stage, the bytes done and the bytes in all (None: not known yet)."""


class AliasPlane(Protocol):
    """Names that stand for services."""

    def list(self) -> Sequence[Alias]: ...
    def get(self, name: ServiceName) -> Alias: ...


class ControlPlane(Protocol):
    """What the API asks of process one. Every method may raise a leaf of ThaloomError.

    What changes something does so on the request's terms (base.actions.TERMS): a dry run raises Planned instead.
    Cancelling `pull`, `quantise` or `verify` ends the work and leaves nothing half-done behind; cancelling
    `pull_from_hub` only means that nobody waits.
    """

    async def status(self) -> NodeStatus: ...
    async def processes(self) -> Sequence[ProcessStatus]: ...
    async def devices(self) -> tuple[Sequence[tuple[Device, Reading | None]], Sequence[Absent]]: ...
    async def device(self, device: DeviceId) -> tuple[Device, Reading | None]: ...
    async def models(self) -> Sequence[Manifest]: ...
    async def model(self, name: ModelName) -> Manifest: ...
    def source(self, source: str) -> Path | HubModel:
        """Where the files of an import lie. Raises BadParameter: no absolute path, bundled model or hub's model."""
        ...

    async def pull(
        self, path: Path, name: ModelName | None, *, replace: bool, encrypt: bool | None, progress: OnProgress
    ) -> Manifest:
        """`encrypt`: None where the node's settings decide."""
        ...

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
    ) -> Manifest: ...
    async def unfinished_pulls(self) -> Sequence[UnfinishedPull]: ...
    async def remove_pull(self, source: str) -> str: ...
    async def refused_calls(self) -> tuple[str | None, Sequence[RefusedCall]]: ...
    async def verify(self, name: ModelName, progress: OnProgress) -> Verification: ...
    async def quantise(self, wish: QuantiseWish, progress: OnProgress) -> Manifest: ...
    async def encryption(self) -> EncryptionStatus: ...
    async def convert_model(
        self, name: ModelName, to: ModelName | None, *, encrypted: bool, replace: bool, progress: OnProgress
    ) -> Manifest: ...
    async def make_master_key(self) -> str: ...
    async def rotate_master_key(self, passphrase: str | None, key_file: str | None) -> str: ...
    async def copy_model(self, name: ModelName, to: ModelName, *, replace: bool) -> Manifest: ...
    async def remove_model(self, name: ModelName) -> None: ...
    async def services(self, *, limit: int | None = None, after: str | None = None) -> Page[ServiceStatus]: ...
    async def service(self, name: ServiceName) -> ServiceStatus: ...
    async def serve(self, spec: ServiceSpec) -> ServiceStatus: ...
    async def stop(self, name: ServiceName) -> None: ...

    @property
    def aliases(self) -> AliasPlane: ...
    async def put_alias(self, alias: Alias) -> Alias: ...
    async def remove_alias(self, name: ServiceName) -> None: ...
    async def return_canary(self, name: ServiceName, revision: int, reason: str) -> Alias: ...

    async def logs(self, name: ServiceName, *, follow: bool, tail: int) -> AsyncIterator[bytes]:
        """The last lines, then (with `follow`) what comes, for as long as the service is wished."""
        ...

    async def apply(
        self, documents: Sequence[Document], *, remove: Sequence[str], prune: dict[str, str] | None
    ) -> Applied:
        """All of it, or nothing."""
        ...

    async def documents(
        self, kind: str | None, labels: Mapping[str, str], *, limit: int | None, after: str | None
    ) -> Page[DocumentStatus]: ...
    async def document(self, kind: str, name: str) -> DocumentStatus: ...

    async def jobs(self, phase: JobPhase | None, limit: int) -> tuple[Sequence[JobStatus], Mapping[str, int]]:
        """Newest first, and how many there are in each phase."""
        ...

    async def job(self, name: str) -> JobStatus: ...
    async def run_job(self, spec: JobSpec, *, replace: bool) -> JobStatus: ...
    async def stop_job(self, name: str) -> JobStatus: ...
    async def remove_job(self, name: str, *, stop: bool) -> None: ...

    async def wait_job(self, name: str, timeout_s: float) -> JobStatus:
        """Once it is over, or when the time is."""
        ...

    async def job_logs(self, name: str, *, follow: bool, tail: int) -> AsyncIterator[bytes]:
        """The last lines, then (with `follow`) what comes, until the job is over."""
        ...

    async def keys(self) -> tuple[Sequence[AccessKey], bool]:
        """All keys, and whether the door requires one once there are any."""
        ...

    async def make_key(self, name: str, limits: KeyLimits, expires_in_s: float | None) -> tuple[AccessKey, str]:
        """A new key's record, and the key itself."""
        ...

    async def remove_key(self, name: str) -> None: ...

    async def actions(self, limit: int, subject: str | None, by: str | None) -> Sequence[PastAction]:
        """What was done, newest first."""
        ...

    async def action(self, action: str) -> tuple[PastAction, Sequence[PastAction]]:
        """One of them, and what was done to the same things since."""
        ...

    async def undo(self, action: str) -> PastAction:
        """The action that undid it."""
        ...

    async def approve(self, digest: str, until: float) -> None: ...
    async def verify_journal(self, through: Checkpoint | None) -> JournalReport: ...
    async def checkpoint(self) -> Checkpoint: ...

    async def events(self, limit: int) -> Sequence[PastEvent]: ...

    async def down(self) -> int:
        """Begin to stop the node; the pid of the process that ends last."""
        ...
