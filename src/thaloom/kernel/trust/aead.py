"""AES-256-GCM and scrypt: the only place that imports the extra `encryption`."""

from __future__ import annotations

from typing import Protocol

from thaloom.base.errors import DriverUnavailable

KEY_BYTES, NONCE_BYTES, TAG_BYTES = 32, 12, 16


class NotAuthentic(Exception):
    """What was opened is not what was sealed: another key, another context, or altered bytes. Nobody can tell which."""


class Cipher(Protocol):
    """One key. A nonce must never be used twice with it."""

    def seal(self, nonce: bytes, data: bytes | memoryview, context: bytes) -> bytes:
        """`data` in cipher with a tag behind it."""
        ...

    def open_into(self, nonce: bytes, sealed: bytes | memoryview, context: bytes, target: memoryview) -> None:
        """Fill `target`, TAG_BYTES shorter than `sealed`. Raises NotAuthentic; `target` holds nothing true then."""
        ...


def cipher(key: bytes | bytearray | memoryview) -> Cipher:
    """For a key of KEY_BYTES, which is not copied: it is looked at where it lies. Raises DriverUnavailable."""
    try:
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    except ImportError as error:
        raise _absent() from error

    class AesGcm:
        def __init__(self) -> None:
            self._gcm = AESGCM(key)

        def seal(self, nonce: bytes, data: bytes | memoryview, context: bytes) -> bytes:
            return self._gcm.encrypt(nonce, data, context)

        def open_into(self, nonce: bytes, sealed: bytes | memoryview, context: bytes, target: memoryview) -> None:
            try:
                self._gcm.decrypt_into(nonce, sealed, context, target)
            except InvalidTag as error:
                raise NotAuthentic from error

    return AesGcm()


def derive_into(passphrase: memoryview, salt: bytes, n: int, r: int, p: int, target: memoryview) -> None:
    """scrypt: 128 * n * r bytes of memory for a moment. Raises DriverUnavailable."""
    try:
        from cryptography.hazmat.primitives.kdf.scrypt import Scrypt
    except ImportError as error:
        raise _absent() from error
    Scrypt(salt, len(target), n, r, p).derive_into(passphrase, target)


def _absent() -> DriverUnavailable:
    return DriverUnavailable("encryption is not installed: pip install 'thaloom[encryption]'")
