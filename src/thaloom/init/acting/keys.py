"""Keys that are made, narrowed and taken back."""

from __future__ import annotations

import dataclasses

from thaloom.base.actions import Change, Json, Plan
from thaloom.base.errors import KeyNotFound
from thaloom.init.access.locksmith import Locksmith
from thaloom.init.access.tenancy import Tenancy
from thaloom.init.acting.kinds import Aid, Done, Named, as_json, call
from thaloom.kernel.state.store import StateStore
from thaloom.kernel.state.types import AccessKey, KeyWish

__all__ = ["KeyWish", "MakeKey", "RemoveKey"]


class MakeKey:
    """`key.make`. The key itself goes to the caller and nowhere else."""

    name, parameters, outlives_caller = "key.make", KeyWish, True

    def __init__(self, store: StateStore, locksmith: Locksmith, tenancy: Tenancy) -> None:
        self._store = store
        self._locksmith = locksmith
        self._tenancy = tenancy

    async def plan(self, given: KeyWish) -> Plan:
        rights = self._locksmith.resolve(given)
        self._tenancy.check_key(rights.tenant)
        after = as_json(dataclasses.asdict(given)) | {
            "role": rights.role,
            "scopes": None if rights.scopes is None else sorted(rights.scopes),
        }
        return Plan(
            call=call(self.name, given),
            risk="low",
            changes=(Change(subject=f"key/{given.name}", before=None, after=after),),
            undo=call(RemoveKey.name, Named(name=given.name)),
        )

    async def apply(self, given: KeyWish, _: Aid) -> Done:
        key, secret = self._locksmith.make(given)
        return Done(told={"id": key.id}, given=(key, secret))

    async def holds(self, given: KeyWish) -> bool:
        return _present(self._store, given.name) is not None


class RemoveKey:
    """`key.remove`: whoever shows it, or one that was narrowed from it, is turned away from now on."""

    name, parameters, outlives_caller = "key.remove", Named, True

    def __init__(self, store: StateStore, locksmith: Locksmith) -> None:
        self._store = store
        self._locksmith = locksmith

    async def plan(self, given: Named) -> Plan:
        key = _present(self._store, given.name)
        if key is None:
            raise KeyNotFound(f"no key {given.name!r}", param="name")
        gone = [key, *self._locksmith.descendants(key)]
        return Plan(
            call=call(self.name, given),
            risk="high",
            changes=tuple(Change(subject=f"key/{each.name}", before=_record(each), after=None) for each in gone),
            no_undo="a key that was taken back stays so; make another",
        )

    async def apply(self, given: Named, _: Aid) -> Done:
        self._locksmith.remove(given.name)
        return Done()

    async def holds(self, given: Named) -> bool:
        return _present(self._store, given.name) is None


def _present(store: StateStore, name: str) -> AccessKey | None:
    keys = store.keys()
    return next((key for key in keys if key.name == name), None)


def _record(key: AccessKey) -> Json:
    record = as_json(dataclasses.asdict(key))
    del record["digest"]
    return record
