"""Keys that are made and taken back."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from thaloom.base.actions import Change, Json, Plan
from thaloom.base.errors import KeyNotFound
from thaloom.init.acting.kinds import Aid, Done, Named, as_json, call
from thaloom.init.locksmith import Locksmith
from thaloom.kernel.state.store import StateStore
from thaloom.kernel.state.types import AccessKey, KeyLimits


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyWish:
    name: str
    limits: KeyLimits
    expires_in_s: float | None = None


class MakeKey:
    """`key.make`. The key itself goes to the caller and nowhere else."""

    name, parameters, outlives_caller = "key.make", KeyWish, True

    def __init__(self, store: StateStore, locksmith: Locksmith) -> None:
        self._store = store
        self._locksmith = locksmith

    async def plan(self, given: KeyWish) -> Plan:
        self._locksmith.check_name(given.name)
        after = as_json(dataclasses.asdict(given))
        return Plan(
            call=call(self.name, given),
            risk="low",
            changes=(Change(subject=f"key/{given.name}", before=None, after=after),),
            undo=call(RemoveKey.name, Named(name=given.name)),
        )

    async def apply(self, given: KeyWish, _: Aid) -> Done:
        key, secret = self._locksmith.make(given.name, given.limits, given.expires_in_s)
        return Done(told={"id": key.id}, given=(key, secret))

    async def holds(self, given: KeyWish) -> bool:
        return _present(self._store, given.name) is not None


class RemoveKey:
    """`key.remove`: whoever shows it is turned away from now on."""

    name, parameters, outlives_caller = "key.remove", Named, True

    def __init__(self, store: StateStore, locksmith: Locksmith) -> None:
        self._store = store
        self._locksmith = locksmith

    async def plan(self, given: Named) -> Plan:
        key = _present(self._store, given.name)
        if key is None:
            raise KeyNotFound(f"no key {given.name!r}", param="name")
        return Plan(
            call=call(self.name, given),
            risk="high",
            changes=(Change(subject=f"key/{given.name}", before=_record(key), after=None),),
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
