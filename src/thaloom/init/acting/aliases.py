"""Names that stand for services: given and taken away."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

from thaloom.base.actions import Change, Json, Plan
from thaloom.base.errors import AliasNotFound
from thaloom.base.ids import ServiceName
from thaloom.init.acting.guards import require_service_name
from thaloom.init.acting.kinds import Aid, Done, Named, as_json, call
from thaloom.init.aliasing import Aliasing
from thaloom.kernel.state.types import Alias, Share


@dataclass(frozen=True, slots=True, kw_only=True)
class AliasWish:
    """What of an Alias is wished; the rest is what became of it."""

    name: ServiceName
    shares: tuple[Share, ...]
    canary: ServiceName | None = None

    @classmethod
    def of(cls, alias: Alias) -> AliasWish:
        return cls(name=alias.name, shares=alias.shares, canary=alias.canary)

    def alias(self) -> Alias:
        return Alias(name=self.name, shares=self.shares, canary=self.canary)


class PutAlias:
    """`alias.put`: let a name stand for services."""

    name, parameters, outlives_caller = "alias.put", AliasWish, True

    def __init__(self, aliasing: Aliasing, require_up: Callable[[], None]) -> None:
        self._aliasing = aliasing
        self._require_up = require_up

    async def plan(self, given: AliasWish) -> Plan:
        self._require_up()
        require_service_name(given.name)
        self._aliasing.check(given.alias())
        present, returned = _present(self._aliasing, given.name), self._aliasing.returned(given.name)
        if present == given and not returned:
            return Plan(call=call(self.name, given), risk="low", changes=(), no_undo="it changes nothing")
        before = _record(present)
        if returned:  # its canary gets requests again
            before |= {"returned": returned}
        return Plan(
            call=call(self.name, given),
            risk="low" if present is None else "medium",
            changes=(Change(subject=f"alias/{given.name}", before=before, after=_record(given)),),
            undo=call(RemoveAlias.name, Named(name=given.name)) if present is None else call(self.name, present),
        )

    async def apply(self, given: AliasWish, _: Aid) -> Done:
        return Done(given=self._aliasing.put(given.alias()))

    async def holds(self, given: AliasWish) -> bool:
        return _present(self._aliasing, given.name) == given


class RemoveAlias:
    """`alias.remove`."""

    name, parameters, outlives_caller = "alias.remove", Named, True

    def __init__(self, aliasing: Aliasing) -> None:
        self._aliasing = aliasing

    async def plan(self, given: Named) -> Plan:
        present = AliasWish.of(self._aliasing.get(ServiceName(given.name)))
        return Plan(
            call=call(self.name, given),
            risk="medium",
            changes=(Change(subject=f"alias/{given.name}", before=_record(present), after=None),),
            undo=call(PutAlias.name, present),
        )

    async def apply(self, given: Named, _: Aid) -> Done:
        self._aliasing.remove(ServiceName(given.name))
        return Done()

    async def holds(self, given: Named) -> bool:
        return _present(self._aliasing, given.name) is None


@dataclass(frozen=True, slots=True, kw_only=True)
class CanaryReport:
    """What a door saw of the canary of that revision."""

    name: str
    revision: int
    reason: str


class ReturnCanary:
    """`alias.return`: let the canary have no more requests, for it did worse."""

    name, parameters, outlives_caller = "alias.return", CanaryReport, True

    def __init__(self, aliasing: Aliasing) -> None:
        self._aliasing = aliasing

    async def plan(self, given: CanaryReport) -> Plan:
        alias = self._aliasing.get(ServiceName(given.name))
        asked = call(self.name, given)
        if alias.canary is None or alias.revision != given.revision or alias.returned:
            return Plan(call=asked, risk="low", changes=(), no_undo="it changes nothing")
        change = Change(subject=f"alias/{given.name}", before={"returned": ""}, after={"returned": given.reason})
        return Plan(call=asked, risk="low", changes=(change,), undo=call(PutAlias.name, AliasWish.of(alias)))

    async def apply(self, given: CanaryReport, _: Aid) -> Done:
        return Done(given=self._aliasing.send_home(ServiceName(given.name), given.revision, given.reason))

    async def holds(self, given: CanaryReport) -> bool:
        return not (await self.plan(given)).changes


def _present(aliasing: Aliasing, name: str) -> AliasWish | None:
    try:
        return AliasWish.of(aliasing.get(ServiceName(name)))
    except AliasNotFound:
        return None


def _record(wish: AliasWish | None) -> Json:
    return None if wish is None else as_json(dataclasses.asdict(wish))
