"""Objects in cipher: the same names and lengths as plain ones, other files beside them.

A chunk may lie here in both forms, if a plain and an encrypted model share it; each form is kept for as long as a model
of its kind needs it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from thaloom.base.ids import Digest
from thaloom.kernel.models.objects import BadObject, Objects, require_length, unreadable
from thaloom.kernel.trust.sealed import Damaged, SealedReader, StoreKey, open_sealed, seal, sealed_bytes

SUFFIX = ".sealed"
KeySource = Callable[[], StoreKey]
"""Gives the store's key. Raises EncryptionKeyMissing, EncryptionKeyWrong, CorruptObject."""


class SealedObjects(Objects):
    """Whatever reads or writes may raise what its KeySource does."""

    suffix = SUFFIX

    def __init__(self, folder: Path, key: KeySource) -> None:
        super().__init__(folder)
        self._key = key

    def stored_bytes(self, num_bytes: int) -> int:
        return sealed_bytes(num_bytes)

    def read_direct(self, digest: Digest, room: memoryview, num_bytes: int) -> None:
        """Through the page cache: what is read is not what is given."""
        self.read_into(digest, room[:num_bytes])

    def _holds(self, digest: Digest, data: bytes | memoryview) -> bool:
        try:
            return super()._holds(digest, data)
        except BadObject:
            return False

    def _form(self, digest: Digest, data: bytes | memoryview) -> Iterable[bytes]:
        return seal(bytes.fromhex(digest), data, self._key())

    def _load(self, digest: Digest) -> bytes:
        with self._opened(digest) as sealed:
            data = bytearray(sealed.num_bytes)
            with memoryview(data) as target:
                sealed.read_into(0, target)
            return bytes(data)

    def _fill(self, digest: Digest, offset: int, target: memoryview, *, whole: bool) -> None:
        try:
            with self._opened(digest) as sealed:
                require_length(digest, sealed.num_bytes, offset, target, whole=whole)
                sealed.read_into(offset, target)
        except OSError as error:
            raise unreadable(digest, error) from error

    @contextmanager
    def _opened(self, digest: Digest) -> Iterator[SealedReader]:
        """Raises BadObject, OSError, and what the KeySource does."""
        key = self._key()
        descriptor = os.open(self.path(digest), os.O_RDONLY | os.O_CLOEXEC)
        try:
            yield open_sealed(descriptor, bytes.fromhex(digest), key)
        except Damaged as damage:
            raise BadObject("altered", f"object {digest} cannot be decrypted: {damage}") from damage
        finally:
            os.close(descriptor)
