"""Models that come, are copied, are made smaller, and go."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from thaloom.base.actions import Call, Change, Json, Plan
from thaloom.base.errors import CorruptObject, ModelInUse, ModelNotFound, WrongState
from thaloom.base.ids import Digest
from thaloom.hal.types import WeightFormat
from thaloom.init.acting.kinds import Aid, Done, Named, call
from thaloom.init.errands.progress import with_progress
from thaloom.init.errands.pulls import Pulls
from thaloom.init.errands.quantising import Quantising
from thaloom.kernel.models.pulling.naming import default_name
from thaloom.kernel.models.pulling.sources import parse_source
from thaloom.kernel.models.store import ModelStore, name_from
from thaloom.kernel.models.types import HubModel, HubSettings, Manifest, ModelName, QuantiseWish

Users = Callable[[ModelName], Sequence[str]]
"""The services that serve a model."""
Came = Callable[[Manifest], None]
"""Told of each model that is there now."""
Gone = Callable[[Digest], None]
"""Told of each that is not any more."""
_GONE = "what is deleted is gone; pull or import it again"
_REPLACED = "the model it replaces is gone"


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportWish:
    path: str
    """Absolute."""
    name: str | None = None
    replace: bool = False
    encrypt: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PullWish:
    model: HubModel
    name: str | None = None
    replace: bool = False
    read_through: bool = False
    encrypt: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyWish:
    name: str
    to: str
    replace: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SmallerWish:
    """kernel.models.types.QuantiseWish in JSON's words."""

    model: str
    to: WeightFormat
    name: str
    replace: bool = False
    text: str | None = None


class Store:
    """What the kinds below have in common: a look at what is there, and the plan of a model that comes."""

    def __init__(
        self,
        models: ModelStore,
        *,
        users: Users,
        came: Came,
        gone: Gone,
        require_up: Callable[[], None],
        require_memory: Callable[[str], None],
    ) -> None:
        """`require_memory(what)` raises OutOfMemory where nothing new is to be begun."""
        self.require_memory = require_memory
        self.models = models
        self.users = users
        self.came = came
        self.gone = gone
        self._require_up = require_up

    async def present(self, name: ModelName | str) -> Manifest | None:
        """None also where its manifest is damaged."""
        try:
            return await asyncio.to_thread(self.models.get, name)
        except (ModelNotFound, CorruptObject):
            return None

    async def facts(self, name: ModelName | str) -> Json:
        """What is under that name, for a plan; None: nothing."""
        try:
            manifest = await asyncio.to_thread(self.models.get, name)
        except ModelNotFound:
            return None
        except CorruptObject as error:
            return {"damaged": error.message}
        return {"digest": manifest.digest, "source": manifest.source, "encrypted": manifest.encrypted}

    async def plan(self, asked: Call, name: ModelName, origin: dict[str, Json], *, replace: bool) -> Plan:
        self._require_up()
        present = await self.facts(name)
        change = Change(subject=f"model/{name}", before=present, after=origin)
        if present is None:
            undo = call(RemoveModel.name, Named(name=str(name)))
            return Plan(call=asked, risk="low", changes=(change,), undo=undo)
        no_undo = _REPLACED if replace else "it changes nothing, or is refused: there is a model of that name"
        return Plan(call=asked, risk="high" if replace else "low", changes=(change,), no_undo=no_undo)


class ImportModel:
    """`model.import`: take a folder or file of this machine."""

    name, parameters, outlives_caller = "model.import", ImportWish, False

    def __init__(self, store: Store) -> None:
        self._store = store

    async def plan(self, given: ImportWish) -> Plan:
        origin = {"source": given.path}
        return await self._store.plan(call(self.name, given), _name(given), origin, replace=given.replace)

    async def apply(self, given: ImportWish, aid: Aid) -> Done:
        self._store.require_memory(f"the import of {given.path!r}")
        models, name = self._store.models, None if given.name is None else ModelName.parse(given.name)
        manifest = await with_progress(
            lambda tell: models.import_path(
                Path(given.path), name, replace=given.replace, encrypt=given.encrypt, progress=tell
            ),
            "importing",
            aid.progress,
        )
        return came(self._store, manifest)

    async def holds(self, given: ImportWish) -> bool:
        return await self._store.present(_name(given)) is not None


class PullModel:
    """`model.pull`: fetch one from a hub. It goes on whoever leaves; what came is kept if it is cut off. Who asks for
    the same meanwhile follows it."""

    name, parameters, outlives_caller = "model.pull", PullWish, True
    shared = True

    def __init__(self, store: Store, pulls: Pulls) -> None:
        self._store = store
        self._pulls = pulls

    async def plan(self, given: PullWish) -> Plan:
        origin = {"source": str(given.model)}
        return await self._store.plan(call(self.name, given), self._name(given), origin, replace=given.replace)

    async def apply(self, given: PullWish, aid: Aid) -> Done:
        manifest = await self._pulls.pull(
            given.model,
            aid.secrets.get("settings") or HubSettings(),
            None if given.name is None else ModelName.parse(given.name),
            replace=given.replace,
            read_through=given.read_through,
            encrypt=given.encrypt,
            progress=aid.progress,
        )
        return _done(manifest)  # Pulls has told of it, as of those whose action was cut off

    async def holds(self, given: PullWish) -> bool:
        return await self._store.present(self._name(given)) is not None

    def _name(self, given: PullWish) -> ModelName:
        return default_name(given.model) if given.name is None else ModelName.parse(given.name)


class CopyModel:
    """`model.copy`: a second name for the same bytes."""

    name, parameters, outlives_caller = "model.copy", CopyWish, True

    def __init__(self, store: Store) -> None:
        self._store = store

    async def plan(self, given: CopyWish) -> Plan:
        original = await asyncio.to_thread(self._store.models.get, given.name)
        origin = {"digest": original.digest}
        name = ModelName.parse(given.to)
        return await self._store.plan(call(self.name, given), name, origin, replace=given.replace)

    async def apply(self, given: CopyWish, _: Aid) -> Done:
        names = ModelName.parse(given.name), ModelName.parse(given.to)
        return came(self._store, await asyncio.to_thread(self._store.models.copy, *names, replace=given.replace))

    async def holds(self, given: CopyWish) -> bool:
        original, copied = await self._store.present(given.name), await self._store.present(given.to)
        return original is not None and copied is not None and original.digest == copied.digest


class QuantiseModel:
    """`model.quantise`: one in whole numbers made of one in floats."""

    name, parameters, outlives_caller = "model.quantise", SmallerWish, False

    def __init__(self, store: Store, quantising: Quantising) -> None:
        self._store = store
        self._quantising = quantising

    async def plan(self, given: SmallerWish) -> Plan:
        original = await asyncio.to_thread(self._store.models.get, given.model)
        if original.encrypted:
            raise WrongState(
                f"model {given.model!r} is encrypted, and quantising works on files in plain: "
                "quantise the original, then encrypt the outcome",
                param="model",
            )
        origin = {"digest": original.digest, "to": given.to}
        name = ModelName.parse(given.name)
        return await self._store.plan(call(self.name, given), name, origin, replace=given.replace)

    async def apply(self, given: SmallerWish, aid: Aid) -> Done:
        wish = QuantiseWish(
            model=ModelName.parse(given.model),
            to=given.to,
            name=ModelName.parse(given.name),
            replace=given.replace,
            text=given.text,
        )
        return came(self._store, await self._quantising.quantise(wish, aid.progress))

    async def holds(self, given: SmallerWish) -> bool:
        made = await self._store.present(given.name)
        return made is not None and made.card.quantisation is not None


class RemovePull:
    """`pull.remove`: end a pull, and delete what came of it."""

    name, parameters, outlives_caller = "pull.remove", Named, True

    def __init__(self, pulls: Pulls) -> None:
        self._pulls = pulls

    async def plan(self, given: Named) -> Plan:
        model = parse_source(given.name)  # an address with a password in it gets no further, and into no journal
        there = await self._pulls.there(given.name)
        if not there:
            raise ModelNotFound(f"no unfinished pull of {given.name!r} (thaloom ls --partial lists them)")
        before = {"done_bytes": sum(pull.done_bytes for pull in there)}
        change = Change(subject=f"pull/{model}", before=before, after=None)
        return Plan(call=call(self.name, given), risk="medium", changes=(change,), no_undo="pull it again")

    async def apply(self, given: Named, _: Aid) -> Done:
        return Done(given=await self._pulls.remove(given.name))

    async def holds(self, given: Named) -> bool:
        return not await self._pulls.there(given.name)


class RemoveModel:
    """`model.remove`: delete it, and what of its bytes no other model has."""

    name, parameters, outlives_caller = "model.remove", Named, True

    def __init__(self, store: Store) -> None:
        self._store = store

    async def plan(self, given: Named) -> Plan:
        present = await self._store.facts(given.name)
        if present is None:
            await asyncio.to_thread(self._store.models.get, given.name)  # says which names are near
        if users := self._store.users(ModelName.parse(given.name)):
            named = ", ".join(map(repr, users))
            raise ModelInUse(f"model {given.name!r} is served as {named}; stop that first", services=list(users))
        change = Change(subject=f"model/{ModelName.parse(given.name)}", before=present, after=None)
        return Plan(call=call(self.name, given), risk="high", changes=(change,), no_undo=_GONE)

    async def apply(self, given: Named, _: Aid) -> Done:
        users, present = self._store.users, await self._store.present(given.name)
        await asyncio.to_thread(
            self._store.models.remove, given.name, in_use=lambda manifest: bool(users(manifest.name))
        )
        if present is not None:
            self._store.gone(present.digest)
        return Done()

    async def holds(self, given: Named) -> bool:
        return await self._store.facts(given.name) is None


def _name(given: ImportWish) -> ModelName:
    return name_from(Path(given.path)) if given.name is None else ModelName.parse(given.name)


def came(store: Store, manifest: Manifest) -> Done:
    store.came(manifest)
    return _done(manifest)


def _done(manifest: Manifest) -> Done:
    return Done(told={"model": str(manifest.name), "digest": manifest.digest}, given=manifest)
