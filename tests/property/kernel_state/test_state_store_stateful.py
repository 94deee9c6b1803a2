"""The store behaves as plain dictionaries do, across any number of restarts."""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from thaloom.base.clock import ManualClock
from thaloom.base.errors import RevisionConflict, ServiceNotFound
from thaloom.base.ids import DeviceId, ServiceName, WorkerId
from thaloom.kernel.state.store import StateStore
from thaloom.kernel.state.types import Lease, Service, ServiceSpec

texts = st.text(min_size=1, max_size=8)
counts = st.integers(1, 2**40)
specs = st.builds(
    ServiceSpec,
    name=st.sampled_from([ServiceName("a"), ServiceName("b"), ServiceName("模型")]),
    model=texts,
    device=st.none() | texts.map(DeviceId),
    num_threads=st.none() | counts,
    kv_bytes=st.none() | counts,
    max_queue=counts,
    prefix_reuse=st.booleans(),
)
leases = st.builds(
    Lease,
    id=st.sampled_from([WorkerId("w-1"), WorkerId("w-2")]),
    role=st.sampled_from(["worker", "door"]),
    service=st.none() | texts.map(ServiceName),
    pid=counts,
    start_ticks=counts,
    socket=texts,
    started_at=st.floats(0, 1e12),
    revision=st.integers(0, 9),
)


class StateMachine(RuleBasedStateMachine):
    @initialize()
    def start(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.store = StateStore(self.folder / "state.db", ManualClock(7.0))
        self.services: dict[str, Service] = {}
        self.leases: dict[str, Lease] = {}

    def teardown(self) -> None:
        self.store.close()
        shutil.rmtree(self.folder)

    @rule(spec=specs, expected=st.none() | st.integers(0, 3))
    def put(self, spec: ServiceSpec, expected: int | None) -> None:
        present = self.services.get(spec.name)
        revision = present.revision if present else 0
        try:
            service = self.store.put_service(spec, expected_revision=expected)
        except RevisionConflict:
            assert expected not in (None, revision)
            return
        assert expected in (None, revision)
        same = present is not None and present.spec == spec
        assert service == Service(spec=spec, created_at=7.0, revision=revision if same else revision + 1)
        self.services[spec.name] = service

    @rule(name=st.sampled_from(["a", "b", "c"]).map(ServiceName))
    def delete(self, name: ServiceName) -> None:
        try:
            self.store.delete_service(name)
        except ServiceNotFound:
            assert name not in self.services
        else:
            del self.services[name]

    @rule(lease=leases)
    def put_lease(self, lease: Lease) -> None:
        self.store.put_lease(lease)
        self.leases[lease.id] = dataclasses.replace(lease)

    @rule(name=st.sampled_from(["w-1", "w-2"]).map(WorkerId))
    def delete_lease(self, name: WorkerId) -> None:
        self.store.delete_lease(name)
        self.leases.pop(name, None)

    @rule()
    def restart(self) -> None:
        self.store.close()
        self.store = StateStore(self.folder / "state.db", ManualClock(7.0))

    @invariant()
    def holds_what_was_put(self) -> None:
        if hasattr(self, "store"):
            assert {service.spec.name: service for service in self.store.services()} == self.services
            assert {lease.id: lease for lease in self.store.leases()} == self.leases


StateMachine.TestCase.settings = settings(
    max_examples=20, stateful_step_count=15, deadline=None, suppress_health_check=list(HealthCheck)
)
test_any_order_of_acts_is_remembered = StateMachine.TestCase
