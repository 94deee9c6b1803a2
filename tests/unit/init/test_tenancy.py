"""A tenant has no more than its quota, and no quota is taken that nobody could keep it to."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from thaloom.base.clock import ManualClock
from thaloom.base.errors import BadParameter, ModelNotFound, NotEnforceable, QuotaExceeded, TenantNotFound
from thaloom.base.ids import ServiceName
from thaloom.base.units import GIB
from thaloom.init.access.tenancy import Tenancy, require_tenant_name
from thaloom.kernel.state.store import StateStore
from thaloom.kernel.state.types import AccessKey, KeyLimits, Quota, ServiceSpec, Tenant


@pytest.fixture
def store(tmp_path: Path) -> Iterator[StateStore]:
    store = StateStore(tmp_path / "state.db", ManualClock())
    yield store
    store.close()


def tenancy(store: StateStore, *, needs: int = GIB, held: int = 0, holds_memory: bool = True) -> Tenancy:
    """Each worker needs `needs` bytes; the one there is holds `held`."""

    async def make(spec: ServiceSpec) -> Any:
        if spec.model == "gone":
            raise ModelNotFound("no model 'gone'")
        return SimpleNamespace(estimate=SimpleNamespace(total_bytes=needs))

    memory = SimpleNamespace(
        report=lambda: [SimpleNamespace(device="cpu")], held_bytes=lambda workers, _: held if list(workers) else 0
    )
    worker = SimpleNamespace(id="w-1", lease=SimpleNamespace(service="a@acme"))
    return Tenancy(
        store,
        planner=cast(Any, SimpleNamespace(make=make)),
        memory=cast(Any, memory),
        supervisor=cast(Any, [worker]),
        holds_memory=lambda: holds_memory,
    )


def spec(name: str, **fields: Any) -> ServiceSpec:
    return ServiceSpec(name=ServiceName(name), **{"model": "tiny"} | fields)


def check(of: Tenancy, wished: ServiceSpec, needed: int = GIB) -> None:
    asyncio.run(of.check_service(wished, needed))


def test_services_and_replicas_are_counted_and_what_is_changed_is_not_counted_twice(store: StateStore) -> None:
    store.put_tenant(Tenant(name="acme", quota=Quota(services=2, replicas=3)))
    of = tenancy(store)
    for name in ("a@acme", "b@acme"):
        check(of, spec(name))
        store.put_service(spec(name))
    check(of, spec("b@acme", replicas=2))
    with pytest.raises(QuotaExceeded, match="replicas"):
        check(of, spec("b@acme", replicas=3))
    with pytest.raises(QuotaExceeded, match="services"):
        check(of, spec("c@acme"))
    check(of, spec("c"))  # the node's own
    with pytest.raises(TenantNotFound):
        check(of, spec("c@nobody"))
    store.put_tenant(Tenant(name="beta"))
    check(of, spec("c@beta"))


def test_memory_is_what_was_admitted_or_what_is_held_if_that_is_more(store: StateStore) -> None:
    store.put_tenant(Tenant(name="acme", quota=Quota(memory_bytes=4 * GIB)))
    store.put_service(spec("a@acme"))
    check(tenancy(store), spec("b@acme", replicas=3), 3 * GIB)
    with pytest.raises(QuotaExceeded) as refused:
        check(tenancy(store, held=2 * GIB), spec("b@acme", replicas=3), 3 * GIB)
    assert (refused.value.details["held"], refused.value.details["limit"]) == (2 * GIB, 4 * GIB)
    store.put_service(spec("a@acme", model="gone"))
    use = asyncio.run(tenancy(store, held=GIB).use("acme"))
    assert (use.services, use.replicas, use.memory_bytes) == (1, 1, GIB), "its model is gone, its worker is not"


def test_a_quota_nobody_can_keep_to_is_refused(store: StateStore) -> None:
    with pytest.raises(NotEnforceable):
        tenancy(store, holds_memory=False).check_quota(Quota(memory_bytes=GIB))
    tenancy(store, holds_memory=False).check_quota(Quota(services=1))
    tenancy(store).check_quota(Quota(memory_bytes=GIB))
    store.put_tenant(Tenant(name="acme", quota=Quota(memory_bytes=4 * GIB)))
    with pytest.raises(NotEnforceable):
        check(tenancy(store), spec("a@acme", engine="transformers"))


def test_a_tenant_has_no_part_of_the_disk(store: StateStore) -> None:
    store.put_tenant(Tenant(name="acme"))
    check(tenancy(store), spec("a@acme", kv_host_bytes=1 << 20))
    with pytest.raises(NotEnforceable, match="no quota of disk"):
        check(tenancy(store), spec("a@acme", kv_host_bytes=1 << 20, kv_disk_bytes=1 << 20))
    check(tenancy(store), spec("a", kv_host_bytes=1 << 20, kv_disk_bytes=1 << 20))


def test_keys_are_counted(store: StateStore) -> None:
    store.put_tenant(Tenant(name="acme", quota=Quota(keys=1)))
    of = tenancy(store)
    of.check_key("acme")
    of.check_key(None)
    key = AccessKey(name="k@acme", id="i", digest="d", limits=KeyLimits(), created_at=0.0, tenant="acme")
    store.put_key(key)
    with pytest.raises(QuotaExceeded):
        of.check_key("acme")
    assert of.left("acme") == ["key/k@acme"]


@pytest.mark.parametrize("name", ["", "A", "a_b", "a@b", "a" * 33, "-a", "a b", "é"])
def test_what_is_no_name_of_a_tenant_is_refused(name: str) -> None:
    with pytest.raises(BadParameter):
        require_tenant_name(name)


@pytest.mark.parametrize("wrong", [{"services": -1}, {"concurrent": 0}, {"tokens_per_minute": 10**16}])
def test_quotas_that_make_no_sense_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(BadParameter):
        Quota(**wrong)
