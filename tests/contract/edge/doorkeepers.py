"""Keys for a door in a test, with the real doorkeeper behind them."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.contract.edge.live_door import LiveDoor, live_door
from thaloom.base.access import Role, Scope
from thaloom.base.clock import SystemClock
from thaloom.kernel.state.shared_rows import SharedRows
from thaloom.kernel.state.types import AccessKey, KeyLimits, Keys, Quota, Tenant
from thaloom.kernel.trust.keys import digest_of, new_key
from thaloom.work.runtime.frontend.doorkeeper import Doorkeeper


class StandingClock(SystemClock):
    """Time stands still for limits, so that what is left is known to the token; `at` moves it."""

    def __init__(self) -> None:
        self.at = 1000.0

    def monotonic(self) -> float:
        return self.at

    def now(self) -> float:
        return self.at


@dataclass
class FixedKeys:
    """A snapshot that a test changes by hand."""

    require_keys: bool = True
    keys: Keys = field(default_factory=lambda: Keys(version=0, published_at=0.0, require_keys=True))
    clock: StandingClock = field(default_factory=StandingClock)

    def current(self) -> Keys:
        return self.keys

    def add(
        self,
        name: str,
        *,
        expires_at: float | None = None,
        role: Role = "user",
        tenant: str | None = None,
        scopes: tuple[Scope, ...] | None = ("infer",),
        parent: str | None = None,
        **limits: Any,
    ) -> str:
        """A new key; the key itself. `parent`: by name."""
        by_name = {key.name: key.id for key in self.keys.keys}
        key_id, secret = new_key()
        key = AccessKey(
            name=name,
            id=key_id,
            digest=digest_of(secret),
            limits=KeyLimits(**limits),
            created_at=0.0,
            expires_at=expires_at,
            role=role,
            tenant=tenant,
            scopes=scopes,
            parent=None if parent is None else by_name[parent],
        )
        keys = (*self.keys.keys, key)
        self.keys = dataclasses.replace(self.keys, version=len(keys), require_keys=self.require_keys, keys=keys)
        return secret

    def add_tenant(self, name: str, **quota: Any) -> None:
        tenants = (*self.keys.tenants, Tenant(name=name, quota=Quota(**quota)))
        self.keys = dataclasses.replace(self.keys, tenants=tenants)


@contextlib.asynccontextmanager
async def guarded_door(folder: Path, keys: FixedKeys, **options: Any) -> AsyncIterator[LiveDoor]:
    with contextlib.closing(SharedRows(folder / "limits.rows")) as rows:
        async with live_door(folder, doorkeeper=Doorkeeper(keys, rows, keys.clock), **options) as door:
            yield door


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}
