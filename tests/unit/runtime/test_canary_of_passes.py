"""Passes through models of tensors tell a slower or a failing new version from the old one."""

from __future__ import annotations

import pytest

from thaloom.base.errors import BadParameter, InternalError
from thaloom.base.events import ignore
from thaloom.base.ids import ServiceName
from thaloom.kernel.state.types import Alias, Share
from thaloom.work.runtime.frontend.routing import Aliases

OLD, NEW = ServiceName("old"), ServiceName("new")
ALIAS = Alias(name=ServiceName("best"), shares=(Share(service=OLD, weight=9), Share(service=NEW, weight=1)), canary=NEW)


@pytest.mark.parametrize(("slower", "returns"), [(1.2, 0), (2.0, 1)])
def test_a_slower_one_is_sent_home(slower: float, returns: int) -> None:
    reasons: list[str] = []
    aliases = Aliases(lambda: 0.5, ignore, lambda _, reason: reasons.append(reason))
    for _ in range(40):
        aliases.computed(ALIAS, OLD, 0.0, 0.010)
        aliases.computed(ALIAS, NEW, 0.0, 0.010 * slower)
    assert len(reasons) == returns


def test_a_failing_one_is_sent_home_and_what_callers_do_wrong_is_nobodys_fault() -> None:
    reasons: list[str] = []
    aliases = Aliases(lambda: 0.5, ignore, lambda _, reason: reasons.append(reason))
    for _ in range(40):
        aliases.computed(ALIAS, OLD, 0.0, 0.010)
        aliases.failed(ALIAS, NEW, BadParameter("wrong", param="inputs"))
    assert reasons == []
    for _ in range(40):
        aliases.failed(ALIAS, NEW, InternalError("broken"))
    assert len(reasons) == 1
