"""What a kind of action has to say of itself."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from thaloom.base.actions import Call, Json, Plan
from thaloom.base.config import from_mapping
from thaloom.init.errands.progress import OnProgress

P = TypeVar("P")


def unheard(stage: str, done: int, total: int | None) -> None:
    """Progress that nobody waits for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Aid:
    """What an action may have besides its parameters: nothing of it is written down."""

    progress: OnProgress = unheard
    secrets: Mapping[str, Any] = field(default_factory=dict)


NO_AID = Aid()


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """What came of an action: `told` is for the journal, `given` for the caller alone. Of one that was done earlier
    `subjects` are what it changed: all there is to tell where a killed daemon did it and the next one found it done."""

    told: Mapping[str, Json] = field(default_factory=dict)
    given: Any = None
    subjects: tuple[str, ...] = ()


class ActionKind(Protocol[P]):
    """One kind of action. Each method may raise a leaf of ThaloomError.

    `plan` changes nothing; it is asked when somebody wants to know, and again at the moment of doing: whatever forbids
    the action (its guards) is raised there. A kind may have `shared = True`: who asks for the same while it is being
    done follows that one. `apply` may be asked again after it was killed in the middle: it makes so
    what is not so yet. `holds` looks at the machine.
    """

    @property
    def name(self) -> str:
        """As `service.serve`."""
        ...

    @property
    def parameters(self) -> type[P]: ...

    @property
    def outlives_caller(self) -> bool:
        """Whether it goes on when its caller goes away; else it ends there, and leaves nothing half-done."""
        ...

    async def plan(self, given: P) -> Plan: ...
    async def apply(self, given: P, aid: Aid, /) -> Done: ...
    async def holds(self, given: P) -> bool: ...


def read(kind: ActionKind[P], call: Call) -> P:
    """The call's parameters. Raises BadParameter that names the wrong one."""
    return from_mapping(kind.parameters, call.parameters)


def call(name: str, parameters: Any) -> Call:
    """`parameters`: a dataclass of JSON values."""
    return Call(name, as_json(dataclasses.asdict(parameters)))


def as_json(value: Any) -> Any:
    """With lists for tuples, as it comes back from the journal."""
    if isinstance(value, Mapping):
        return {str(key): as_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(item) for item in value]
    return value


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """The parameters of many kinds."""

    name: str
