"""Makes keys, narrows them and takes them back; tells the door which there are, and whose one is that is shown."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

from thaloom.base.access import kept_name
from thaloom.base.clock import Clock
from thaloom.base.errors import BadParameter, KeyNotFound, NameTaken
from thaloom.base.events import Emit
from thaloom.init.events import KeyMade, KeyRemoved
from thaloom.kernel.state.snapshots import publish
from thaloom.kernel.state.store import StateStore
from thaloom.kernel.state.types import AccessKey, KeyLimits, Keys, KeyWish
from thaloom.kernel.trust.access import MOST_NARROWED, Rights, default_scopes, narrowed
from thaloom.kernel.trust.keys import KeyRing, digest_of, new_key

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,126}")


class Locksmith:
    """Whoever changes a key has also told the door when the change returns."""

    def __init__(
        self, path: Path, *, require_keys: bool, store: StateStore, clock: Clock, emit: Emit, always: bool = False
    ) -> None:
        """`always`: who shows no key is turned away even while there are none. So it is beyond loopback."""
        self._path = path
        self._require_keys = require_keys
        self._always = always
        self._store = store
        self._clock = clock
        self._emit = emit
        self._version = 0
        self._is_told = False
        self._ring: KeyRing[AccessKey] | None = None

    @property
    def requires_keys(self) -> bool:
        """Whether who shows no key is turned away now."""
        return self._always or (self._require_keys and len(self._known()) > 0)

    def find(self, shown: str) -> AccessKey | None:
        """The key that is shown, if it is one of ours and has not expired."""
        key = self._known().find(shown)
        expired = key is not None and key.expires_at is not None and self._clock.now() >= key.expires_at
        return None if expired else key

    def require(self, require_keys: bool) -> None:
        """Whether the door turns away who shows no key, once there are any."""
        if require_keys != self._require_keys:
            self._require_keys = require_keys
            self.publish()

    def make(self, wish: KeyWish) -> tuple[AccessKey, str]:
        """The record that is kept, and the key, which is not. Raises as `resolve`."""
        rights = self.resolve(wish)
        key_id, secret = new_key()
        key = AccessKey(
            name=wish.name,
            id=key_id,
            digest=digest_of(secret),
            limits=_limits(rights),
            created_at=self._clock.now(),
            expires_at=rights.expires_at,
            role=rights.role or "viewer",
            tenant=rights.tenant,
            scopes=None if rights.scopes is None else tuple(sorted(rights.scopes)),
            parent=None if wish.parent is None else self._named(wish.parent).id,
        )
        self._store.put_key(key)
        self.publish()
        self._emit(KeyMade(key=wish.name, id=key_id, expires_at=key.expires_at, role=key.role, tenant=key.tenant))
        return key, secret

    def resolve(self, wish: KeyWish) -> Rights:
        """What the holder of such a key will have. Raises BadParameter for what is no name of a key, NameTaken for one
        that is another's, KeyNotFound for a parent that is not there, Forbidden for more than the parent has."""
        if not _NAME.fullmatch(wish.name):
            raise BadParameter(
                f"not a name for a key: {wish.name!r} (letters, digits, '.', '_', '@', '-')", param="name"
            )
        keys = self._store.keys()
        if any(key.name == wish.name for key in keys):
            raise NameTaken(f"there is a key {wish.name!r} already; remove it first, or choose another name")
        rights = _asked(wish, self._clock.now())
        if wish.parent is not None:
            parent = self._named(wish.parent)
            if len(self.ancestors(parent)) >= MOST_NARROWED:
                raise BadParameter(f"a key is narrowed {MOST_NARROWED} times and no further", param="parent")
            rights = narrowed(rights_of(parent), rights)
        elif rights.role is None or rights.scopes is None:
            role = rights.role or "user"
            usual = default_scopes(role)
            scopes = rights.scopes if rights.scopes is not None or usual is None else frozenset(usual)
            rights = dataclasses.replace(rights, role=role, scopes=scopes)
        if kept_name(wish.name, rights.tenant) != wish.name:
            raise BadParameter(f"a key of {rights.tenant!r} is named NAME@{rights.tenant}", param="name")
        return rights

    def ancestors(self, key: AccessKey) -> list[AccessKey]:
        """The key, the one it was narrowed from, and so on."""
        keys = {other.id: other for other in self._store.keys()}  # noqa: SIM118 - no dictionary
        found = [key]
        while (parent := keys.get(found[-1].parent or "")) is not None:
            found.append(parent)
        return found

    def descendants(self, key: AccessKey) -> list[AccessKey]:
        """What goes with it: all that was narrowed from it, nearest first."""
        keys = self._store.keys()
        found: list[AccessKey] = []
        nearest = [key]
        while nearest:
            nearest = [other for other in keys if other.parent in {each.id for each in nearest}]
            found += nearest
        return found

    def remove(self, name: str) -> None:
        """With all that was narrowed from it. Raises KeyNotFound."""
        gone = self._store.delete_key(name)
        self.publish()
        for each in gone:
            self._emit(KeyRemoved(key=each))

    def publish(self) -> None:
        """Tell the door. Raises DiskFull; `catch_up` does it then."""
        self._is_told = False
        self._version += 1
        self._ring = None
        keys = Keys(
            version=self._version,
            published_at=self._clock.now(),
            require_keys=self._require_keys,
            keys=tuple(self._store.keys()),
            tenants=tuple(self._store.tenants()),
        )
        self._store.with_room(lambda: publish(self._path, keys))
        self._is_told = True

    def catch_up(self) -> None:
        """Tell the door what it could not be told when it changed: a key taken back is good there till then."""
        if not self._is_told:
            self.publish()

    def _known(self) -> KeyRing[AccessKey]:
        if self._ring is None:
            self._ring = KeyRing(self._store.keys())
        return self._ring

    def _named(self, name: str) -> AccessKey:
        keys = self._store.keys()
        found = next((key for key in keys if key.name == name), None)
        if found is None:
            raise KeyNotFound(f"no key {name!r}", param="parent")
        return found


def rights_of(key: AccessKey) -> Rights:
    limits = key.limits
    return Rights(
        role=key.role,
        tenant=key.tenant,
        scopes=None if key.scopes is None else frozenset(key.scopes),
        models=None if limits.models is None else frozenset(limits.models),
        priority=limits.priority,
        expires_at=key.expires_at,
        requests_per_minute=limits.requests_per_minute,
        tokens_per_minute=limits.tokens_per_minute,
        concurrent=limits.concurrent,
    )


def _asked(wish: KeyWish, now: float) -> Rights:
    limits = wish.limits
    return Rights(
        role=wish.role,
        tenant=wish.tenant,
        scopes=None if wish.scopes is None else frozenset(wish.scopes),
        models=None if limits.models is None else frozenset(limits.models),
        priority=None if wish.keep_priority and wish.parent is not None else limits.priority,
        expires_at=None if wish.expires_in_s is None else now + wish.expires_in_s,
        requests_per_minute=limits.requests_per_minute,
        tokens_per_minute=limits.tokens_per_minute,
        concurrent=limits.concurrent,
    )


def _limits(rights: Rights) -> KeyLimits:
    return KeyLimits(
        requests_per_minute=rights.requests_per_minute,
        tokens_per_minute=rights.tokens_per_minute,
        concurrent=rights.concurrent,
        models=None if rights.models is None else tuple(sorted(rights.models)),
        priority=rights.priority or "normal",
    )
