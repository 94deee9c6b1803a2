"""Who asks, and whether he may: the one gate in front of everything the control API can do.

By the node's own socket somebody is known by the kernel's word (SO_PEERCRED): the node's own user and root are admins,
others are what `socket_users` says. With a token he is its holder, whichever way he came, and may do no more than it
allows. The door hands on what comes over TCP: with a token as its holder; without one as far as routes are open, and
only while this node requires no token.

What is refused is told (`refusals.py`).
"""

from __future__ import annotations

import os
import pwd
from collections.abc import Mapping, Sequence

from thaloom.base.access import Needs, Role
from thaloom.base.actions import LOCAL, Caller
from thaloom.base.clock import Clock
from thaloom.base.errors import BadParameter, Forbidden, RateLimited, ThaloomError, Unauthorized
from thaloom.base.events import Emit
from thaloom.init.access.locksmith import Locksmith
from thaloom.init.access.refusals import STRANGERS, Refusals
from thaloom.kernel.sched.guesses import Guesses
from thaloom.kernel.state.journal import Journal
from thaloom.kernel.state.types import AccessKey
from thaloom.kernel.trust.access import why_not

DOOR = Caller("program", "door", way="door")
STRANGER = Caller("program", "door", way="open")
"""Who came through the door and showed nothing."""


class Gate:
    """Implements edge.api.control.gate.Gatekeeper. For one thread."""

    def __init__(
        self,
        locksmith: Locksmith,
        *,
        users: Mapping[str, Role],
        journal: Journal,
        clock: Clock,
        emit: Emit,
        own_uid: int | None = None,
    ) -> None:
        """`users`: by name or number of a user of this machine, beside the node's own and root."""
        self._locksmith = locksmith
        self._own_uid = os.getuid() if own_uid is None else own_uid
        self._users = _by_uid(users)
        self._clock = clock
        self._guesses = Guesses()
        self.telling = Refusals(journal, clock, emit)

    def use(self, users: Mapping[str, Role]) -> None:
        """Heed another `socket_users`. Raises BadParameter for a user this machine has not."""
        self._users = _by_uid(users)

    @property
    def others_may_connect(self) -> bool:
        return bool(self._users)

    def may_connect(self, uid: int) -> bool:
        return self._trusts(uid) or uid in self._users

    def identify(self, uid: int | None, *, shown: Sequence[str], by_door: bool, client: str | None) -> Caller:
        """Who asks. `uid`: at the other end of the socket; `shown`: the tokens he shows; `by_door`: whether it says it
        is the door; `client`: for whom the door asks then, None: for itself.

        Raises Unauthorized, RateLimited."""
        door = by_door and uid is not None and self._trusts(uid)
        if door and client is None:
            return DOOR
        if shown:
            holder = self._holder(shown, address=client if door and client is not None else f"uid {uid}")
            if holder is not None:
                return holder
            if not door or self._locksmith.requires_keys:
                raise Unauthorized("this token is not known here, or has expired")
        if door:
            if self._locksmith.requires_keys:
                raise Unauthorized("a token is required here, and none was sent")
            return STRANGER
        if uid is not None and self._trusts(uid):
            return LOCAL if uid == self._own_uid else Caller("person", "root")
        if uid is not None and uid in self._users:
            return Caller("person", _user_name(uid), role=self._users[uid])
        raise Unauthorized("who asks is not known")

    def admit(self, caller: Caller, needs: Needs, what: str) -> None:
        """Raises Forbidden that says what is missing, and tells of it. `what`: as `PUT /thaloom/v1/services/{name}`."""
        reason = why_not(
            needs,
            role=caller.role,
            scopes=caller.scopes,
            tenant=caller.tenant,
            way=caller.way,
            tokens_required=self._locksmith.requires_keys,
        )
        if reason is not None:
            error = Forbidden(reason, needs_role=needs.role, needs_scope=needs.scope)
            self.refused(str(caller), what, error)
            raise error

    def refused(self, who: str, what: str, error: ThaloomError) -> None:
        """Tell of it."""
        self.telling(who, what, error.code, error.message)

    def refused_at_door(self, address: str, what: str, code: str, message: str, num: int) -> None:
        """Tell of whom a door turned away: the latest, and how many since the last."""
        self.telling(f"{STRANGERS}{address}", what, code, message, num=num)

    def may_take_back(self, caller: Caller, key: AccessKey) -> bool:
        """An admin may take back any key he sees; anybody his own, and what was narrowed from it."""
        of_his = caller.tenant is None or key.tenant == caller.tenant
        mine = caller.way == "token" and any(each.name == caller.name for each in self._locksmith.ancestors(key))
        return mine or (caller.role == "admin" and of_his)

    def _trusts(self, uid: int) -> bool:
        return uid in (self._own_uid, 0)

    def _holder(self, shown: Sequence[str], *, address: str) -> Caller | None:
        now = self._clock.monotonic()
        wait_s = self._guesses.wait_s(address, shown, now)
        if wait_s > 0:
            raise RateLimited("too many tokens that are none were shown from there", retry_after_s=wait_s)
        for one in shown:
            if (key := self._locksmith.find(one)) is not None:
                self._guesses.proved(one)
                return caller_of(key)
        self._guesses.failed(address, now)
        return None


def caller_of(key: AccessKey) -> Caller:
    scopes = None if key.scopes is None else frozenset(key.scopes)
    models = None if key.limits.models is None else frozenset(key.limits.models)
    return Caller("program", key.name, tenant=key.tenant, role=key.role, scopes=scopes, way="token", models=models)


def _by_uid(users: Mapping[str, Role]) -> dict[int, Role]:
    return {uid_of(name): role for name, role in users.items()}


def uid_of(user: str) -> int:
    """Raises BadParameter for a user this machine has not."""
    if user.isascii() and user.isdigit():
        return int(user)
    try:
        return pwd.getpwnam(user).pw_uid
    except KeyError as error:
        raise BadParameter(f"this machine has no user {user!r}", param="socket_users") from error


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
