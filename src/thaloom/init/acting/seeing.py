"""Which past actions a caller sees, and how: a tenant what changed and touched nothing but its own, by its own names.

What the node's people did to it is shown with its subjects and its end; what they said is theirs. Nobody of a tenant
sees steps of the reconciler (devices, processes), nor anything that was about more than that tenant alone.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from thaloom.base.access import seen_name, tenant_of
from thaloom.base.actions import Caller
from thaloom.kernel.state.types import PastAction

THE_NODE = "node"
"""Who did it, where a tenant need not know."""
_OF_MODELS = ("service", "alias")
_OWNED = (*_OF_MODELS, "key")
_BY_TOKEN = "program:"


def is_seen_by(action: PastAction, caller: Caller) -> bool:
    if caller.tenant is None:
        return True
    if "call" not in action.plan and action.ending != "refused":
        return False
    if not action.subjects:
        return _is_its_own(action, caller) and caller.models is None
    return all(_is_seen(subject, caller) for subject in action.subjects)


def as_seen_by(action: PastAction, caller: Caller) -> PastAction:
    """Of one that is seen by him."""
    if caller.tenant is None:
        return action
    subjects = tuple(seen_name(subject, caller.tenant) for subject in action.subjects)
    if not _is_its_own(action, caller):
        error = None if action.error is None else {"code": action.error["code"], "message": ""}
        return dataclasses.replace(
            action, by=THE_NODE, subjects=subjects, plan={}, undo=None, no_undo="", told={}, error=error
        )
    return dataclasses.replace(
        action,
        by=seen_name(action.by, caller.tenant),
        subjects=subjects,
        plan=_seen(action.plan, caller.tenant),
        undo=_seen(action.undo, caller.tenant),
        told={} if action.ending == "refused" else _seen(action.told, caller.tenant),
    )


def _is_its_own(action: PastAction, caller: Caller) -> bool:
    """Whether one of its tokens asked for it. (A user of the machine may be called as no token is: `bob@acme`.)"""
    return action.by.startswith(_BY_TOKEN) and tenant_of(action.by) == caller.tenant


def _is_seen(subject: str, caller: Caller) -> bool:
    kind, _, name = subject.partition("/")
    if kind not in _OWNED or tenant_of(name) != caller.tenant:
        return False
    return caller.models is None or (kind in _OF_MODELS and seen_name(name, caller.tenant) in caller.models)


def _seen(value: Any, tenant: str) -> Any:
    """With its own names in every text that is one."""
    if isinstance(value, str):
        return seen_name(value, tenant)
    if isinstance(value, dict):
        return {seen_name(key, tenant): _seen(item, tenant) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_seen(item, tenant) for item in value]
    return value
