"""The master key: 32 bytes from a file or a systemd credential, or a passphrase. It opens the store's key ring.

It is read straight into memory that is neither dumped nor swapped, never into a string, an argument or a variable of
the environment.
"""

from __future__ import annotations

import hmac
import os
import secrets
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from thaloom.base.errors import BadParameter, EncryptionKeyMissing, Forbidden
from thaloom.base.files import sync_folder
from thaloom.kernel.trust.aead import KEY_BYTES
from thaloom.kernel.trust.secret_memory import SecretMemory

MAX_PASSPHRASE_BYTES = 1024
CREDENTIAL = "thaloom.master-key"
"""Name of the systemd credential with the 32 bytes; `thaloom.passphrase` of one with a passphrase."""
PASSPHRASE_CREDENTIAL = "thaloom.passphrase"


@dataclass(frozen=True, slots=True, kw_only=True)
class MasterSecret:
    """What somebody gave us. `close` wipes it."""

    kind: Literal["key", "passphrase"]
    memory: SecretMemory
    num_bytes: int
    origin: str
    """Where it came from, for people."""

    @property
    def view(self) -> memoryview:
        return self.memory.view[: self.num_bytes]

    def close(self) -> None:
        self.memory.close()


def key_id(key: memoryview) -> str:
    """Tells two keys apart and says nothing else of them."""
    return hmac.digest(key, b"thaloom master key", "sha256")[:8].hex()


def read_key_file(path: Path, *, origin: str | None = None) -> MasterSecret:
    """Raises EncryptionKeyMissing (no such file), Forbidden (others may read it), BadParameter (not 32 bytes)."""
    name = origin or str(path)
    descriptor = _open(path, name)
    try:
        status = os.fstat(descriptor)
        _require_private(status, name)
        if status.st_size != KEY_BYTES:
            raise BadParameter(
                f"{name!r} has {status.st_size} bytes; a master key is {KEY_BYTES} random bytes "
                "(thaloom key make writes one)",
                param="master_key_file",
            )
        memory = SecretMemory.make()
        with memory.view[:KEY_BYTES] as target:
            os.readv(descriptor, [target])
        return MasterSecret(kind="key", memory=memory, num_bytes=KEY_BYTES, origin=name)
    finally:
        os.close(descriptor)


def read_passphrase_file(path: Path) -> MasterSecret:
    """A file that holds a passphrase and perhaps a line's end. Raises as `read_key_file`."""
    descriptor = _open(path, str(path))
    try:
        _require_private(os.fstat(descriptor), str(path))
        return read_passphrase(descriptor, str(path))
    finally:
        os.close(descriptor)


def read_passphrase(descriptor: int, origin: str) -> MasterSecret:
    """Everything up to the end or the first line's end. Raises BadParameter: none, or too long."""
    memory = SecretMemory.make()
    count = 0
    while count <= MAX_PASSPHRASE_BYTES:
        with memory.view[count : MAX_PASSPHRASE_BYTES + 1] as rest:
            read = os.readv(descriptor, [rest]) if rest else 0
        if not read:
            break
        count += read
    length = next((i for i in range(count) if memory.view[i] in b"\r\n"), count)
    if not 0 < length <= MAX_PASSPHRASE_BYTES:
        memory.close()
        raise BadParameter(f"a passphrase has 1 to {MAX_PASSPHRASE_BYTES} bytes", param="passphrase")
    return MasterSecret(kind="passphrase", memory=memory, num_bytes=length, origin=origin)


def make_key_file(path: Path) -> None:
    """Write a new key, for its owner alone, whole or not at all. Raises FileExistsError, OSError."""
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        memory = SecretMemory.make()
        try:
            with memory.view[:KEY_BYTES] as target:
                fill_random(target)
                os.writev(descriptor, [target])
            os.fsync(descriptor)
        finally:
            memory.close()
        os.link(partial, path)  # refuses to replace a key that is there
    finally:
        os.close(descriptor)
        partial.unlink(missing_ok=True)
    sync_folder(path.parent)


def fill_random(target: memoryview) -> None:
    """From the kernel, without a copy on our heap."""
    descriptor = os.open("/dev/urandom", os.O_RDONLY | os.O_CLOEXEC)
    try:
        assert os.readv(descriptor, [target]) == len(target), "a short read of /dev/urandom does not happen"
    finally:
        os.close(descriptor)


def _open(path: Path, name: str) -> int:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        raise EncryptionKeyMissing(f"there is no master key at {name!r}") from None
    except OSError as error:
        raise Forbidden(f"the master key {name!r} cannot be read: {error.strerror}", param="master_key_file") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise BadParameter(f"{name!r} is not an ordinary file", param="master_key_file")
    return descriptor


def _require_private(status: os.stat_result, name: str) -> None:
    if status.st_mode & 0o077:
        mode = stat.S_IMODE(status.st_mode)
        raise Forbidden(
            f"the master key {name!r} may be read by others (mode {mode:04o}): chmod 600 it", param="master_key_file"
        )
    if status.st_uid not in (0, os.geteuid()):
        raise Forbidden(f"the master key {name!r} belongs to another user ({status.st_uid})", param="master_key_file")
