"""What survives a restart: which services are wished for, which processes we started, and what was done and why."""

from __future__ import annotations

import contextlib
import dataclasses
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

from thaloom.base.clock import Clock
from thaloom.base.errors import (
    AliasNotFound,
    BadParameter,
    KeyNotFound,
    NameTaken,
    RevisionConflict,
    ServiceNotFound,
    TenantNotFound,
    WrongState,
)
from thaloom.base.ids import ServiceName, WorkerId
from thaloom.kernel.state.database import Database
from thaloom.kernel.state.documents import Documents
from thaloom.kernel.state.jobs.store import JobStore
from thaloom.kernel.state.journal import Journal, Seal, unkeyed
from thaloom.kernel.state.reserve import Reserve
from thaloom.kernel.state.rows import decode, encode, read
from thaloom.kernel.state.types import AccessKey, Alias, Lease, Service, ServiceSpec, Tenant

JOURNAL_ENTRIES = 100_000
"""Kept; older ones are dropped. Some 25 MB where most are steps of the reconciler's, and a year of a quiet node."""

MAX_KEYS = 1000
"""The door keeps an account of each; people are many more only behind a gateway of their own."""
MAX_TENANTS = 100
"""Each has an account at the doors too (shared_rows.ROWS)."""


class StateStore:
    """All state of a node, in one file. Every method that changes something returns when it is on the disk.

    Safe from several threads. Raises StateUnusable on opening a damaged or newer file; DiskFull on writing.
    """

    def __init__(
        self, path: Path, clock: Clock, *, seal: Seal = unkeyed, is_new: bool = True, reserve: Reserve | None = None
    ) -> None:
        """`seal`: of the journal, with the node's key; without one a change shows only to who knows an earlier seal.
        `is_new`: whether that key was made just now.
        `reserve`: disk space given up where there is no other."""
        self._clock = clock
        self._database = Database(path, clock, reserve=reserve)
        self.journal = Journal(self._database, clock, seal, limit=JOURNAL_ENTRIES, is_new=is_new)
        self.documents = Documents(self._database, clock)
        self.jobs = JobStore(self._database, clock)
        self._services: dict[ServiceName, Service] | None = None
        """As they are on the disk: looked at in every pass, and only this process writes them. None: to be read."""
        self._sorted: list[Service] | None = None

    def close(self) -> None:
        self._database.close()

    def with_room(self, work: Callable[[], None]) -> None:
        """Do what takes a little of the disk and may be done again; while it is full, in the place kept for that.
        Raises DiskFull where that is used up, or somebody else took it."""
        self._database.with_room(work)

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """All that is changed inside is on the disk when the block has ended, or none of it."""
        try:
            with self._of_services():
                yield
        except BaseException:
            self.jobs.reread()
            raise

    @contextlib.contextmanager
    def _of_services(self) -> Iterator[sqlite3.Connection]:
        """A transaction after which, if it is taken back, memory does not tell of what was in it."""
        try:
            with self._database.write() as connection:
                yield connection
        except BaseException:
            self._services = self._sorted = None
            raise

    def put_service(self, spec: ServiceSpec, *, expected_revision: int | None = None) -> Service:
        """Wish for a service, or change the wish. The same wish again changes nothing, not even the revision; nor do
        other labels change that, for nothing that runs depends on them. What runs anew is not idle any more.

        `expected_revision` (0: it must be new) refuses to overwrite what somebody else changed: RevisionConflict.
        """
        with self._of_services() as connection:
            present = _service(connection, spec.name)
            revision = present.revision if present else 0
            if expected_revision is not None and expected_revision != revision:
                raise RevisionConflict(
                    f"service {spec.name!r} has revision {revision}, not {expected_revision}", revision=revision
                )
            if present is not None and present.spec == spec:
                return present
            created_at = present.created_at if present else self._clock.now()
            if present is not None and _runs_alike(present.spec, spec):
                service = dataclasses.replace(present, spec=spec)
            else:
                service = Service(spec=spec, created_at=created_at, revision=revision + 1)
            self._write(connection, service)
            return service

    def put_rest(
        self,
        name: ServiceName,
        *,
        idle_since: float | None,
        waking: bool = False,
        asked_keep_alive_s: float | None = None,
    ) -> Service:
        """Let a service be idle, or have it no longer so (Service). The same again writes nothing. Raises
        ServiceNotFound."""
        present = self.service(name)
        rest = {"idle_since": idle_since, "waking": waking, "asked_keep_alive_s": asked_keep_alive_s}
        service = dataclasses.replace(present, **rest)  # type: ignore[arg-type]  # by their names, as above
        if service != present:
            with self._of_services() as connection:
                self._write(connection, service)
        return service

    def _write(self, connection: sqlite3.Connection, service: Service) -> None:
        values = dataclasses.asdict(service)
        values |= {"name": service.spec.name, "spec": encode(values["spec"])}
        columns, marks = ", ".join(values), ", ".join(f":{name}" for name in values)
        connection.execute(f"INSERT OR REPLACE INTO services ({columns}) VALUES ({marks})", values)
        self._keep(service.spec.name, service)

    def services(self) -> list[Service]:
        """All, by name."""
        found = self._sorted
        if found is None:
            by_name = self._by_name()
            found = self._sorted = [by_name[name] for name in sorted(by_name)]
        return list(found)

    def _by_name(self) -> dict[ServiceName, Service]:
        """Raises StateUnusable."""
        services = self._services
        if services is None:
            rows = self._database.read("SELECT * FROM services")
            services = self._services = {service.spec.name: service for service in map(_read_service, rows)}
        return services

    def _keep(self, name: ServiceName, service: Service | None) -> None:
        services = self._services
        if services is None:  # whoever looks next reads them all
            return
        if service is None:
            services.pop(name, None)
        else:
            services[name] = service
        self._sorted = None

    def service(self, name: ServiceName) -> Service:
        """Raises ServiceNotFound."""
        service = self._by_name().get(name)
        if service is None:
            raise ServiceNotFound(f"no service {name!r}")
        return service

    def delete_service(self, name: ServiceName) -> None:
        """Raises ServiceNotFound. Its leases stay: they end with their processes."""
        with self._of_services() as connection:
            if connection.execute("DELETE FROM services WHERE name = ?", (name,)).rowcount == 0:
                raise ServiceNotFound(f"no service {name!r}")
            self._keep(name, None)

    def put_alias(self, alias: Alias, *, expected_revision: int | None = None) -> Alias:
        """Wish for an alias, or change it. The same again changes nothing, not even the revision.

        `expected_revision` as in `put_service`.
        """
        with self._database.write() as connection:
            row = connection.execute("SELECT * FROM aliases WHERE name = ?", (alias.name,)).fetchone()
            present = None if row is None else _read_alias(row)
            revision = present.revision if present else 0
            if expected_revision is not None and expected_revision != revision:
                raise RevisionConflict(
                    f"alias {alias.name!r} has revision {revision}, not {expected_revision}", revision=revision
                )
            created_at = present.created_at if present else self._clock.now()
            if present == dataclasses.replace(alias, created_at=created_at, revision=revision):
                return present
            wished = dataclasses.replace(alias, created_at=created_at, revision=revision + 1)
            facts = dataclasses.asdict(wished)
            del facts["name"], facts["created_at"], facts["revision"]
            connection.execute(
                "INSERT OR REPLACE INTO aliases (name, alias, created_at, revision) VALUES (?, ?, ?, ?)",
                (wished.name, encode(facts), wished.created_at, wished.revision),
            )
            return wished

    def aliases(self) -> list[Alias]:
        """All, by name."""
        return [_read_alias(row) for row in self._database.read("SELECT * FROM aliases ORDER BY name")]

    def alias(self, name: ServiceName) -> Alias:
        """Raises AliasNotFound."""
        rows = self._database.read("SELECT * FROM aliases WHERE name = ?", (name,))
        if not rows:
            raise AliasNotFound(f"no alias {name!r}")
        return _read_alias(rows[0])

    def delete_alias(self, name: ServiceName) -> None:
        """Raises AliasNotFound."""
        with self._database.write() as connection:
            if connection.execute("DELETE FROM aliases WHERE name = ?", (name,)).rowcount == 0:
                raise AliasNotFound(f"no alias {name!r}")

    def put_lease(self, lease: Lease) -> None:
        """Remember a process, before anybody relies on it."""
        values = dataclasses.asdict(lease)
        columns, marks = ", ".join(values), ", ".join(f":{name}" for name in values)
        with self._database.write() as connection:
            connection.execute(f"INSERT OR REPLACE INTO leases ({columns}) VALUES ({marks})", values)

    def leases(self) -> list[Lease]:
        """All, oldest first."""
        return [read(Lease, dict(row)) for row in self._database.read("SELECT * FROM leases ORDER BY started_at, id")]

    def delete_lease(self, lease: WorkerId) -> None:
        """Forget a process that has ended. Forgetting it twice is no error."""
        with self._database.write() as connection:
            connection.execute("DELETE FROM leases WHERE id = ?", (lease,))

    def put_key(self, key: AccessKey) -> None:
        """Keep a new key. Raises NameTaken, BadParameter if there are too many, KeyNotFound if its parent is gone,
        TenantNotFound if its tenant is."""
        values = dataclasses.asdict(key) | {
            "limits": encode(dataclasses.asdict(key.limits)),
            "scopes": None if key.scopes is None else encode({"scopes": key.scopes}),
        }
        columns, marks = ", ".join(values), ", ".join(f":{name}" for name in values)
        with self._database.write() as connection:
            if connection.execute("SELECT 1 FROM access_keys WHERE name = ?", (key.name,)).fetchone() is not None:
                raise NameTaken(f"there is a key {key.name!r} already; remove it first, or choose another name")
            if connection.execute("SELECT count(*) FROM access_keys").fetchone()[0] >= MAX_KEYS:
                raise BadParameter(f"a node keeps at most {MAX_KEYS} keys; remove one first", param="name")
            if key.parent is not None and not _is_there(connection, "access_keys", "id", key.parent):
                raise KeyNotFound("the key it is narrowed from is gone", param="parent")
            if key.tenant is not None and not _is_there(connection, "tenants", "name", key.tenant):
                raise TenantNotFound(f"no tenant {key.tenant!r}", param="tenant")
            connection.execute(f"INSERT INTO access_keys ({columns}) VALUES ({marks})", values)

    def keys(self) -> list[AccessKey]:
        """All, by name."""
        return [_read_key(row) for row in self._database.read("SELECT * FROM access_keys ORDER BY name")]

    def delete_key(self, name: str) -> list[str]:
        """With all that was narrowed from it; the names of all these. Raises KeyNotFound."""
        with self._database.write() as connection:
            found = connection.execute(
                "WITH RECURSIVE gone (id, name) AS (SELECT id, name FROM access_keys WHERE name = ? UNION"
                " SELECT child.id, child.name FROM access_keys AS child JOIN gone ON child.parent = gone.id)"
                " DELETE FROM access_keys WHERE id IN (SELECT id FROM gone) RETURNING name",
                (name,),
            ).fetchall()
            if not found:
                raise KeyNotFound(f"no key {name!r}", param="name")
            return sorted(row["name"] for row in found)

    def put_tenant(self, tenant: Tenant) -> None:
        """Keep a tenant, or change its quota. Raises BadParameter if there are too many."""
        with self._database.write() as connection:
            present = _is_there(connection, "tenants", "name", tenant.name)
            if not present and connection.execute("SELECT count(*) FROM tenants").fetchone()[0] >= MAX_TENANTS:
                raise BadParameter(f"a node keeps at most {MAX_TENANTS} tenants; remove one first", param="name")
            connection.execute(
                "INSERT INTO tenants (name, quota, created_at) VALUES (?, ?, ?)"
                " ON CONFLICT (name) DO UPDATE SET quota = excluded.quota",
                (tenant.name, encode(dataclasses.asdict(tenant.quota)), tenant.created_at),
            )

    def tenants(self) -> list[Tenant]:
        """All, by name."""
        rows = self._database.read("SELECT * FROM tenants ORDER BY name")
        return [read(Tenant, dict(row) | {"quota": decode(row["quota"])}) for row in rows]

    def tenant(self, name: str) -> Tenant:
        """Raises TenantNotFound."""
        found = next((tenant for tenant in self.tenants() if tenant.name == name), None)
        if found is None:
            raise TenantNotFound(f"no tenant {name!r}", param="tenant")
        return found

    def delete_tenant(self, name: str) -> None:
        """Raises TenantNotFound, WrongState while keys of it are left."""
        with self._database.write() as connection:
            if connection.execute("SELECT 1 FROM access_keys WHERE tenant = ?", (name,)).fetchone() is not None:
                raise WrongState(f"the tenant {name!r} has keys")
            if connection.execute("DELETE FROM tenants WHERE name = ?", (name,)).rowcount == 0:
                raise TenantNotFound(f"no tenant {name!r}", param="tenant")


def _is_there(connection: sqlite3.Connection, table: str, column: str, value: str) -> bool:
    return connection.execute(f"SELECT 1 FROM {table} WHERE {column} = ?", (value,)).fetchone() is not None


def _read_key(row: sqlite3.Row) -> AccessKey:
    scopes = None if row["scopes"] is None else decode(row["scopes"])["scopes"]
    return read(AccessKey, dict(row) | {"limits": decode(row["limits"]), "scopes": scopes})


def _service(connection: sqlite3.Connection, name: ServiceName) -> Service | None:
    row = connection.execute("SELECT * FROM services WHERE name = ?", (name,)).fetchone()
    return None if row is None else _read_service(row)


def _read_service(row: sqlite3.Row) -> Service:
    spec = read(ServiceSpec, decode(row["spec"]))
    return Service(
        spec=spec,
        created_at=row["created_at"],
        revision=row["revision"],
        idle_since=row["idle_since"],
        waking=bool(row["waking"]),
        asked_keep_alive_s=row["asked_keep_alive_s"],
    )


def _runs_alike(present: ServiceSpec, wished: ServiceSpec) -> bool:
    """Whether workers of the one are as good for the other: they differ in what only process one heeds."""
    heeded_here = {name: getattr(wished, name) for name in ("labels", "keep_alive_s", "priority")}
    return dataclasses.replace(present, **heeded_here) == wished


def _read_alias(row: sqlite3.Row) -> Alias:
    facts = {"name": row["name"], "created_at": row["created_at"], "revision": row["revision"]}
    return read(Alias, decode(row["alias"]) | facts)
