"""Names that stand for services: wished, kept, and their canaries sent home."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from thaloom.base.access import tenant_of
from thaloom.base.errors import NameTaken, ServiceNotFound
from thaloom.base.events import Emit
from thaloom.base.ids import ServiceName
from thaloom.init.events import AliasRemoved, AliasWished, CanaryGone
from thaloom.kernel.state.store import StateStore
from thaloom.kernel.state.types import Alias


class Aliasing:
    """The syscalls about aliases. `wake` has the doors told."""

    def __init__(self, store: StateStore, emit: Emit, wake: Callable[[], None]) -> None:
        self._store = store
        self._emit = emit
        self._wake = wake

    def list(self) -> Sequence[Alias]:
        return self._store.aliases()

    def get(self, name: ServiceName) -> Alias:
        """Raises AliasNotFound."""
        return self._store.alias(name)

    def returned(self, name: ServiceName) -> str:
        """Why its canary gets no requests; empty: it does, or there is no such alias."""
        return next((alias.returned for alias in self._store.aliases() if alias.name == name), "")

    def put(self, alias: Alias) -> Alias:
        """Raises as `check`."""
        self.check(alias)
        kept = self._store.put_alias(alias)
        services = tuple(f"{share.service}={share.weight}" for share in kept.shares)
        self._emit(AliasWished(alias=kept.name, services=services, revision=kept.revision))
        self._wake()
        return kept

    def check(self, alias: Alias) -> None:
        """Raises NameTaken where a service has that name, ServiceNotFound for one that is not there, TenantNotFound."""
        if (tenant := tenant_of(alias.name)) is not None:
            self._store.tenant(tenant)
        names = {service.spec.name for service in self._store.services()}
        if alias.name in names:
            raise NameTaken(f"{alias.name!r} is a service", param="name")
        for share in alias.shares:
            if share.service not in names:
                raise ServiceNotFound(f"no service {share.service!r} (there are: {', '.join(sorted(names)) or 'none'})")

    def remove(self, name: ServiceName) -> None:
        """Raises AliasNotFound."""
        self._store.delete_alias(name)
        self._emit(AliasRemoved(alias=name))
        self._wake()

    def send_home(self, name: ServiceName, revision: int, reason: str) -> Alias:
        """The canary of that revision did worse. Of an older revision, or said before, it changes nothing.

        Raises AliasNotFound.
        """
        alias = self._store.alias(name)
        if alias.canary is None or alias.revision != revision or alias.returned:
            return alias
        kept = self._store.put_alias(dataclasses.replace(alias, returned=reason), expected_revision=revision)
        self._emit(CanaryGone(alias=name, service=alias.canary, reason=reason))
        self._wake()
        return kept

    def refuse_name(self, name: ServiceName) -> None:
        """Raises NameTaken for a service that would have an alias's name."""
        if any(alias.name == name for alias in self._store.aliases()):
            raise NameTaken(f"{name!r} is an alias; remove it first: thaloom alias rm {name}", param="name")
