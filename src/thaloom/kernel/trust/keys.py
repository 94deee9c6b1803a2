"""Keys that let a client in: how one is made, and how one that is shown is told from a guess.

    sk-th-<id: 12 letters>-<secret: 43 letters>

`id` is no secret: it finds the record. Of the rest only a SHA-256 is kept. That is enough for 256 bits drawn at
random, which nobody can try out; slow hashes are for what people think up. `sk-` because clients look for it.
Source: OWASP, Password Storage Cheat Sheet, on high-entropy secrets.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable
from typing import Generic, Protocol, TypeVar

_KEY = re.compile(r"sk-th-([a-z2-7]{12})-[A-Za-z0-9_-]{43}")
_LETTERS = "abcdefghijklmnopqrstuvwxyz234567"


class Record(Protocol):
    """What is kept of a key."""

    @property
    def id(self) -> str: ...
    @property
    def digest(self) -> str: ...


R = TypeVar("R", bound=Record)


def new_key() -> tuple[str, str]:
    """(id, the whole key)."""
    key_id = "".join(secrets.choice(_LETTERS) for _ in range(12))
    return key_id, f"sk-th-{key_id}-{secrets.token_urlsafe(32)}"


def digest_of(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


class KeyRing(Generic[R]):
    """Finds the record of a key that is shown."""

    def __init__(self, keys: Iterable[R]) -> None:
        self._keys = {key.id: key for key in keys}

    def __len__(self) -> int:
        return len(self._keys)

    def find(self, shown: str) -> R | None:
        """None: not one of ours. Takes as long whatever is wrong with it, but for its form, which anybody may know."""
        match = _KEY.fullmatch(shown)
        if match is None:
            return None
        known = self._keys.get(match[1])
        expected = digest_of("") if known is None else known.digest
        return known if hmac.compare_digest(digest_of(shown), expected) else None
