"""Models that are encrypted or put in plain again, and the master key they hang on."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from thaloom.base.actions import Change, Plan
from thaloom.base.errors import NameTaken, WrongState
from thaloom.init.access.vault import Vault, secret_from
from thaloom.init.acting.kinds import Aid, Done, call
from thaloom.init.acting.models import Store, came
from thaloom.init.acting.node import Nothing
from thaloom.init.errands.progress import with_progress
from thaloom.kernel.models.types import ModelName


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvertWish:
    name: str
    to: str | None
    """Under which name; None: its own, which then means the converted one."""
    encrypted: bool
    replace: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RotationWish:
    instead_of: str | None
    """The master key there is, by its id: so that it can be told whether this was done."""
    key_file: str | None = None
    """Absolute. None: the passphrase that comes beside it, or a new key in the usual place."""


class ConvertModel:
    """`model.convert`: the same bytes, encrypted or in plain."""

    name, parameters, outlives_caller = "model.convert", ConvertWish, False

    def __init__(self, store: Store) -> None:
        self._store = store

    async def plan(self, given: ConvertWish) -> Plan:
        original = await asyncio.to_thread(self._store.models.get, given.name)
        origin = {"digest": original.digest, "encrypted": given.encrypted}
        name = ModelName.parse(given.to or given.name)
        return await self._store.plan(call(self.name, given), name, origin, replace=given.replace)

    async def apply(self, given: ConvertWish, aid: Aid) -> Done:
        models, name = self._store.models, ModelName.parse(given.name)
        to = None if given.to is None else ModelName.parse(given.to)
        manifest = await with_progress(
            lambda tell: models.convert(name, to, encrypted=given.encrypted, replace=given.replace, progress=tell),
            "encrypting" if given.encrypted else "decrypting",
            aid.progress,
        )
        return came(self._store, manifest)

    async def holds(self, given: ConvertWish) -> bool:
        made = await self._store.present(given.to or given.name)
        return made is not None and made.encrypted == given.encrypted


class MakeMasterKey:
    """`encryption.make_key`: the key on which every encrypted model hangs."""

    name, parameters, outlives_caller = "encryption.make_key", Nothing, True

    def __init__(self, vault: Vault) -> None:
        self._vault = vault

    async def plan(self, given: Nothing) -> Plan:
        status = await asyncio.to_thread(self._vault.status)
        if status.ready:
            raise NameTaken(f"there is a master key already: {status.origin}")
        return Plan(
            call=call(self.name, given),
            risk="low",
            changes=(Change(subject="encryption", before=status.master, after="a new key"),),
            no_undo="whatever is encrypted with it would be lost",
        )

    async def apply(self, _given: Nothing, _: Aid) -> Done:
        return Done(told={"key": await asyncio.to_thread(self._vault.make)})

    async def holds(self, _given: Nothing) -> bool:
        return (await asyncio.to_thread(self._vault.status)).ready


class RotateMasterKey:
    """`encryption.rotate_key`: another master key in place of the one there is."""

    name, parameters, outlives_caller = "encryption.rotate_key", RotationWish, True

    def __init__(self, vault: Vault) -> None:
        self._vault = vault

    async def plan(self, given: RotationWish) -> Plan:
        status = await asyncio.to_thread(self._vault.status)
        if status.master != given.instead_of:
            raise WrongState("the master key was changed meanwhile")
        return Plan(
            call=call(self.name, given),
            risk="medium",
            changes=(Change(subject="encryption", before=status.master, after="another key"),),
            no_undo="rotate again, to the key there was before",
        )

    async def apply(self, given: RotationWish, aid: Aid) -> Done:
        secret = secret_from(aid.secrets.get("passphrase"), given.key_file)
        return Done(told={"key": await asyncio.to_thread(self._vault.rotate, secret)})

    async def holds(self, given: RotationWish) -> bool:
        status = await asyncio.to_thread(self._vault.status)
        return status.ready and status.master != given.instead_of
