"""Identifiers as distinct types, so that a worker's id is never passed where a service's name is meant."""

from __future__ import annotations

import secrets
from typing import NewType

DeviceId = NewType("DeviceId", str)
"""Stable across reboots and re-ordering of indices: `cpu`, `virtual:0`, `cuda:GPU-5f2e...`."""

ServiceName = NewType("ServiceName", str)
JobName = NewType("JobName", str)
WorkerId = NewType("WorkerId", str)
RequestId = NewType("RequestId", str)
Digest = NewType("Digest", str)
"""Lower-case hexadecimal SHA-256, 64 characters, without a prefix."""


def new_worker_id() -> WorkerId:
    """`w-` and 48 random bits: unique on a node for its lifetime."""
    return WorkerId("w-" + secrets.token_hex(6))


def new_request_id(prefix: str = "req") -> RequestId:
    """`<prefix>-` and 96 random bits."""
    return RequestId(f"{prefix}-{secrets.token_hex(12)}")
