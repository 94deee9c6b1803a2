"""A tenant sees of what was done what was done to its own, by its own names, and nothing of anybody else's."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from thaloom.base.actions import LOCAL, Caller
from thaloom.init.acting.seeing import THE_NODE, as_seen_by, is_seen_by
from thaloom.kernel.state.types import PastAction

ACME = Caller("program", "op@acme", tenant="acme", role="operator", way="token")
CHAT_ONLY = dataclasses.replace(ACME, models=frozenset({"chat"}))


def past(*subjects: str, by: str = "program:op@acme", **more: Any) -> PastAction:
    plan = {"call": {"kind": "service.serve", "parameters": {"name": "chat@acme", "model": "tiny"}}, "secret": by}
    facts: dict[str, Any] = {"plan": plan, "undo": {"parameters": {"name": "chat@acme"}}, "told": {"a": ["chat@acme"]}}
    facts |= {"ending": "done"} | more
    return PastAction(
        id="a-1", number=1, kind="service.serve", by=by, time=1.0, ended_at=2.0, subjects=subjects, **facts
    )  # fmt: skip


@pytest.mark.parametrize(
    ("action", "seen"),
    [
        (past("service/chat@acme"), True),
        (past("alias/talk@acme", "service/chat@acme", by="person:local"), True),
        (past("key/ci@acme"), True),
        (past("service/chat@beta"), False),
        (past("service/chat"), False),
        (past("service/chat@acme", "service/chat@beta", by="person:local"), False),
        (past("service/chat@acme", "door"), False),
        (past("model/chat@acme"), False),
        (past("job/chat@acme"), False),
        (past("tenant/acme"), False),
        (past(), True),
        (past(by="program:op@beta"), False),
        (past(by="program:op"), False),
        (past(by="person:bob@acme"), False),
        (past("service/chat@acme", by="reconciler", plan={"service": "chat@acme", "device": "gpu0"}), False),
        (past(plan={}, ending="refused"), True),
        (past("service/chat@acme", plan={}, ending="refused"), True),
        (past(plan={}, ending="refused", by="address:192.0.2.1"), False),
        (past("service/chat@beta", plan={}, ending="refused"), False),
    ],
)
def test_what_a_tenant_sees(action: PastAction, seen: bool) -> None:
    assert is_seen_by(action, ACME) == seen
    assert is_seen_by(action, LOCAL), "the node's own see it all"
    assert as_seen_by(action, LOCAL) is action


def test_its_own_is_told_by_its_own_names() -> None:
    told = as_seen_by(past("service/chat@acme"), ACME)
    assert "@" not in str(dataclasses.replace(told, plan=told.plan | {"secret": ""}))
    assert (told.by, told.subjects) == ("program:op", ("service/chat",))
    assert told.plan["call"]["parameters"] == {"name": "chat", "model": "tiny"}
    assert as_seen_by(past(plan={}, ending="refused", told={"untold": 9}), ACME).told == {}, "others are counted in it"


def test_what_the_node_did_to_it_is_told_without_who_and_why() -> None:
    error = {"code": "out_of_memory", "message": "beta holds 7 GiB"}
    told = as_seen_by(past("service/chat@acme", by="program:boss", ending="failed", error=error), ACME)
    assert (told.by, told.ending, told.subjects) == (THE_NODE, "failed", ("service/chat",))
    assert (told.plan, told.undo, told.told) == ({}, None, {})
    assert told.error == {"code": "out_of_memory", "message": ""}


def test_a_token_for_some_models_sees_what_was_done_to_those() -> None:
    assert is_seen_by(past("service/chat@acme"), CHAT_ONLY)
    for subject in ("service/more@acme", "key/chat@acme"):
        assert not is_seen_by(past(subject), CHAT_ONLY)
    assert not is_seen_by(past(), CHAT_ONLY)
