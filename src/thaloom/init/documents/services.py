"""`kind: Service`: a model that is served under a name."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence

from thaloom.base.actions import Risk
from thaloom.base.errors import BadParameter, ServiceNotFound, ThaloomError
from thaloom.base.events import Emit
from thaloom.base.ids import ServiceName
from thaloom.init.acting.guards import ServiceGuard, require_service_name
from thaloom.init.documents.forms import place, read_spec, written
from thaloom.init.documents.kinds import Changed
from thaloom.init.events import ServiceRemoved, ServiceWished
from thaloom.init.rounds.reconcile_loop import ReconcileLoop
from thaloom.kernel.models.types import ModelName
from thaloom.kernel.state.store import StateStore
from thaloom.kernel.state.types import OUTSIDE, Document, DocumentStatus, Service, ServiceSpec, ServiceStatus

KIND = "Service"


class Services:
    """Kept where `thaloom serve` keeps them: a service is the same thing whoever asked for it."""

    name, no_undo = KIND, ""

    def __init__(
        self,
        store: StateStore,
        loop: ReconcileLoop,
        *,
        guard: ServiceGuard,
        status: Callable[[ServiceName], ServiceStatus],
        emit: Emit,
    ) -> None:
        self._store = store
        self._loop = loop
        self._guard = guard
        self._status = status
        self._emit = emit

    async def read(self, document: Document) -> Document:
        require_service_name(document.name)
        spec = read_spec(ServiceSpec, document)
        if spec.engine not in OUTSIDE:
            try:
                named = str(ModelName.parse(spec.model))
            except BadParameter as error:
                raise BadParameter(error.message, param="spec.model") from error
            spec = read_spec(ServiceSpec, _with(document, model=named))
        with _placed(otherwise="model"):
            return written(KIND, await self._guard.completed(spec))

    def get(self, name: str) -> Document | None:
        service = self._service(name)
        return None if service is None else written(KIND, service.spec)

    def list(self) -> Iterator[Document]:
        for service in self._store.services():
            yield written(KIND, service.spec)

    async def check(self, changed: Changed) -> None:
        leaving = [ServiceName(name) for name in changed.removed]
        with _placed():
            await self._guard.check_all([_spec(document) for document in changed.put], leaving=leaving)

    def risk(self, *, removed: bool) -> Risk:  # noqa: ARG002 - what runs is disturbed by either
        return "medium"

    def touches(self, name: str) -> Sequence[str]:
        return [f"worker/{worker}" for worker in self._guard.workers(ServiceName(name))]

    def prepare(self, changed: Changed) -> None:
        """A wish needs nothing but to be written down."""

    def put(self, document: Document) -> None:
        self._store.put_service(_spec(document))

    def remove(self, name: str) -> None:
        self._store.delete_service(ServiceName(name))

    def changed(self, changed: Changed) -> None:
        for document in changed.put:
            service = self._store.service(ServiceName(document.name))
            self._emit(ServiceWished(service=service.spec.name, model=service.spec.model, revision=service.revision))
            self._loop.renewed(service.spec.name)
        for name in changed.removed:
            self._emit(ServiceRemoved(service=ServiceName(name)))
            self._loop.removed(ServiceName(name))

    def shown(self, name: str) -> bool:  # noqa: ARG002
        return True

    def status(self, name: str) -> DocumentStatus | None:
        if self._service(name) is None:
            return None
        found = self._status(ServiceName(name))
        facts = {
            "phase": found.phase,
            "device": found.device,
            "replicas": found.spec.replicas,
            "ready_replicas": found.ready_replicas,
            "latency": found.latency,
            "restarts": found.restarts,
            "running": found.running,
            "waiting": found.waiting,
            "keep_alive_s": found.keep_alive_s,
            "idle_since": found.idle_since,
            "unload_at": found.unload_at,
        }
        return DocumentStatus(
            document=written(KIND, found.spec), created_at=found.created_at, conditions=found.conditions, facts=facts
        )

    def _service(self, name: str) -> Service | None:
        try:
            return self._store.service(ServiceName(name))
        except ServiceNotFound:
            return None


@contextlib.contextmanager
def _placed(otherwise: str | None = None) -> Iterator[None]:
    """A guard names a field of the fact; who wrote a document knows it by its place there."""
    try:
        yield
    except ThaloomError as error:
        if named := error.param or otherwise:
            error.param = place(named)
        raise


def _spec(document: Document) -> ServiceSpec:
    return read_spec(ServiceSpec, document)


def _with(document: Document, **fields: str) -> Document:
    spec = document.spec | fields
    return Document(kind=document.kind, name=document.name, labels=document.labels, spec=spec)
