"""The node itself: its end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from thaloom.base.actions import Change, Plan
from thaloom.init.acting.kinds import Aid, Done, call


@dataclass(frozen=True, slots=True, kw_only=True)
class Nothing:
    """No parameters."""


class Down:
    """`node.down`: end every process in an orderly way. Wishes stay: the next start serves them again."""

    name, parameters, outlives_caller = "node.down", Nothing, True

    def __init__(
        self, go_down: Callable[[str], None], *, is_down: Callable[[], bool], touches: Callable[[], list[str]]
    ):
        self._go_down = go_down
        self._is_down = is_down
        self._touches = touches

    async def plan(self, given: Nothing) -> Plan:
        changes = () if self._is_down() else (Change(subject="node", before="up", after="down"),)
        return Plan(
            call=call(self.name, given),
            risk="medium",
            changes=changes,
            touches=tuple(self._touches()),
            no_undo="start it again: thaloom up",
        )

    async def apply(self, _given: Nothing, _: Aid) -> Done:
        self._go_down("asked to")
        return Done()

    async def holds(self, _given: Nothing) -> bool:
        return self._is_down()
