"""A key for tests of encrypted models."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

from thaloom.base.errors import EncryptionKeyMissing
from thaloom.edge.api.control.plane import OnProgress
from thaloom.kernel.models.types import Manifest, ModelName
from thaloom.kernel.state.types import EncryptionStatus
from thaloom.kernel.trust.sealed import StoreKey


def a_key(ring: bytes = b"test ring 000000") -> StoreKey:
    made = StoreKey.empty(ring)
    with made.secret as secret:
        secret[:] = os.urandom(len(secret))
    return made


class FakeEncryption:
    """The part of a ControlPlane that is about encrypted models."""

    def __init__(self) -> None:
        super().__init__()
        self.rotated: list[tuple[str | None, str | None]] = []
        self.converted: list[tuple[str, str | None, bool, bool]] = []
        self.has_key = True

    async def encryption(self) -> EncryptionStatus:
        return EncryptionStatus(
            ready=self.has_key,
            origin="/home/master.key" if self.has_key else None,
            problem=None if self.has_key else "this node has no master key",
            ring="ab" * 16,
            opened_by="key",
            memory="memfd_secret" if self.has_key else None,
            locked=self.has_key,
        )

    async def convert_model(
        self, name: ModelName, to: ModelName | None, *, encrypted: bool, replace: bool, progress: OnProgress
    ) -> Manifest:
        if not self.has_key:
            raise EncryptionKeyMissing("this node has no master key")
        self.converted.append((str(name), None if to is None else str(to), encrypted, replace))
        found: Any = await self.model(name)  # type: ignore[attr-defined]  # of the plane this is a part of
        progress("encrypting" if encrypted else "decrypting", 1, 2)
        return dataclasses.replace(found, name=to or name, encrypted=encrypted)

    async def make_master_key(self) -> str:
        return "/home/master.key"

    async def rotate_master_key(self, passphrase: str | None, key_file: str | None) -> str:
        self.rotated.append((passphrase, key_file))
        return "a passphrase" if passphrase else key_file or "/home/master.key"
