"""A key for tests of encrypted models."""

from __future__ import annotations

import os

from thaloom.kernel.trust.sealed import StoreKey


def a_key(ring: bytes = b"test ring 000000") -> StoreKey:
    made = StoreKey.empty(ring)
    with made.secret as secret:
        secret[:] = os.urandom(len(secret))
    return made
