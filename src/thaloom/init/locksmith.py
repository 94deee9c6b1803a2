"""Makes keys and takes them back, and tells the door which there are."""

from __future__ import annotations

import re
from pathlib import Path

from thaloom.base.clock import Clock
from thaloom.base.errors import BadParameter, NameTaken
from thaloom.base.events import Emit
from thaloom.init.events import KeyMade, KeyRemoved
from thaloom.kernel.state.snapshots import publish
from thaloom.kernel.state.store import StateStore
from thaloom.kernel.state.types import AccessKey, KeyLimits, Keys
from thaloom.kernel.trust.keys import digest_of, new_key

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,126}")


class Locksmith:
    """Whoever changes a key has also told the door when the change returns."""

    def __init__(self, path: Path, *, require_keys: bool, store: StateStore, clock: Clock, emit: Emit) -> None:
        self._path = path
        self._require_keys = require_keys
        self._store = store
        self._clock = clock
        self._emit = emit
        self._version = 0

    def require(self, require_keys: bool) -> None:
        """Whether the door turns away who shows no key, once there are any."""
        if require_keys != self._require_keys:
            self._require_keys = require_keys
            self.publish()

    def make(self, name: str, limits: KeyLimits, expires_in_s: float | None) -> tuple[AccessKey, str]:
        """The record that is kept, and the key, which is not. Raises BadParameter, NameTaken."""
        self.check_name(name)
        now = self._clock.now()
        key_id, secret = new_key()
        key = AccessKey(
            name=name,
            id=key_id,
            digest=digest_of(secret),
            limits=limits,
            created_at=now,
            expires_at=None if expires_in_s is None else now + expires_in_s,
        )
        self._store.put_key(key)
        self.publish()
        self._emit(KeyMade(key=name, id=key_id, expires_at=key.expires_at))
        return key, secret

    def check_name(self, name: str) -> None:
        """Raises BadParameter for what is no name of a key, NameTaken for one that is another's."""
        if not _NAME.fullmatch(name):
            raise BadParameter(f"not a name for a key: {name!r} (letters, digits, '.', '_', '@', '-')", param="name")
        if any(key.name == name for key in self._store.keys()):  # noqa: SIM118 - no dictionary
            raise NameTaken(f"there is a key {name!r} already; remove it first, or choose another name")

    def remove(self, name: str) -> None:
        """Raises KeyNotFound."""
        self._store.delete_key(name)
        self.publish()
        self._emit(KeyRemoved(key=name))

    def publish(self) -> None:
        """Tell the door."""
        self._version += 1
        publish(
            self._path,
            Keys(
                version=self._version,
                published_at=self._clock.now(),
                require_keys=self._require_keys,
                keys=tuple(self._store.keys()),
            ),
        )
