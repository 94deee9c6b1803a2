"""The key ring of a store: one small file with the store's key, wrapped by the master key.

    {"version": 1, "id": ..., "master": {"kind": "key", "id": ...}, "nonce": ..., "wrapped": ...}

Changing the master key wraps the store's key anew, which is one file replaced as a whole: a kill leaves the old ring or
the new one, however many objects there are (docs/decisions/0022). Whoever loses this file loses every encrypted model.
"""

from __future__ import annotations

import dataclasses
import json
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from thaloom.base.config import from_mapping
from thaloom.base.errors import BadParameter, CorruptObject, EncryptionKeyMissing, EncryptionKeyWrong, StateUnusable
from thaloom.base.files import write_atomic
from thaloom.kernel.trust.aead import KEY_BYTES, NONCE_BYTES, TAG_BYTES, NotAuthentic, cipher, derive_into
from thaloom.kernel.trust.master_key import MasterSecret, fill_random, key_id
from thaloom.kernel.trust.sealed import ID_BYTES, StoreKey
from thaloom.kernel.trust.secret_memory import SecretMemory

VERSION = 1
SCRYPT_N, SCRYPT_R, SCRYPT_P = 1 << 17, 8, 1
"""128 MiB and about half a second for each guess. Source: OWASP, Password Storage Cheat Sheet, scrypt."""
_MOST_SCRYPT = (1 << 20, 16, 8)
"""A ring that asks for more was not written by us, and would take the machine down."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Master:
    """Which master key opens the ring. `id` and, of a passphrase, how the key is made of it; nothing secret."""

    kind: Literal["key", "passphrase"]
    id: str
    salt: str = ""
    n: int = 0
    r: int = 0
    p: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Ring:
    """The file, read. Opening it takes the master key."""

    id: str
    master: Master
    nonce: str
    wrapped: str


def read_ring(path: Path) -> Ring | None:
    """None if there is none. Raises CorruptObject, StateUnusable (a newer Thaloom's, or unreadable)."""
    try:
        data = json.loads(path.read_bytes())
        version = data.pop("version")
        if version != VERSION:
            raise StateUnusable(
                f"the key ring {str(path)!r} has version {version!r}; this Thaloom knows {VERSION}", version=version
            )
        ring = from_mapping(Ring, data)
        _check(ring)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StateUnusable(f"the key ring {str(path)!r} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError, BadParameter) as error:
        raise CorruptObject(
            f"the key ring {str(path)!r} is damaged; put it back from a backup", file=str(path)
        ) from error
    return ring


def make_ring(path: Path, master: MasterSecret) -> StoreKey:
    """A new store key, wrapped and written. Raises DiskFull, OSError, DriverUnavailable."""
    key = StoreKey.empty(secrets.token_bytes(ID_BYTES))
    with key.secret as secret:
        fill_random(secret)
    try:
        write_ring(path, key, master)
    except BaseException:
        key.close()
        raise
    return key


def open_ring(ring: Ring, master: MasterSecret) -> StoreKey:
    """The store's key. Raises EncryptionKeyWrong; CorruptObject if the key is right and the ring is not."""
    if master.kind != ring.master.kind:
        wanted = "a passphrase" if ring.master.kind == "passphrase" else "a key of 32 bytes"
        raise EncryptionKeyWrong(f"the key ring is opened by {wanted}; {master.origin!r} gives something else")
    key = StoreKey.empty(bytes.fromhex(ring.id))
    wrapping = _wrapping_key(master, ring.master)
    try:
        with wrapping.view[:KEY_BYTES] as wrapper:
            if key_id(wrapper) != ring.master.id:
                raise EncryptionKeyWrong(f"{master.origin!r} does not open the key ring {ring.id}")
            with key.secret as secret:
                nonce, wrapped = bytes.fromhex(ring.nonce), bytes.fromhex(ring.wrapped)
                cipher(wrapper).open_into(nonce, wrapped, _context(ring.id, ring.master), secret)
    except NotAuthentic:
        key.close()
        raise CorruptObject("the key ring is damaged: its key is right and its content is not") from None
    except BaseException:
        key.close()
        raise
    finally:
        wrapping.close()
    return key


def write_ring(path: Path, key: StoreKey, master: MasterSecret) -> None:
    """Wrap `key` for `master`, and put the ring in place as a whole. Raises DiskFull, OSError."""
    if master.kind == "key":
        asked = Master(kind="key", id="")
    else:
        salt = secrets.token_hex(16)
        asked = Master(kind="passphrase", id="", salt=salt, n=SCRYPT_N, r=SCRYPT_R, p=SCRYPT_P)
    wrapping = _wrapping_key(master, asked)
    try:
        with wrapping.view[:KEY_BYTES] as wrapper, key.secret as secret:
            told = dataclasses.replace(asked, id=key_id(wrapper))
            nonce = secrets.token_bytes(NONCE_BYTES)
            wrapped = cipher(wrapper).seal(nonce, secret, _context(key.id.hex(), told))
    finally:
        wrapping.close()
    ring = Ring(id=key.id.hex(), master=told, nonce=nonce.hex(), wrapped=wrapped.hex())
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_atomic(path, _canonical({"version": VERSION} | dataclasses.asdict(ring)) + b"\n")


def opens(ring: Ring, master: MasterSecret) -> bool:
    """Whether it is the ring's master key. Raises DriverUnavailable."""
    if master.kind != ring.master.kind:
        return False
    wrapping = _wrapping_key(master, ring.master)
    try:
        with wrapping.view[:KEY_BYTES] as wrapper:
            return key_id(wrapper) == ring.master.id
    finally:
        wrapping.close()


def missing(why: str) -> EncryptionKeyMissing:
    return EncryptionKeyMissing(f"{why} (thaloom key make, master_key_file, a systemd credential or a passphrase)")


def _wrapping_key(master: MasterSecret, asked: Master) -> SecretMemory:
    memory = SecretMemory.make()
    with memory.view[:KEY_BYTES] as target, master.view as given:
        if asked.kind == "key":
            target[:] = given
        else:
            derive_into(given, bytes.fromhex(asked.salt), asked.n, asked.r, asked.p, target)
    return memory


def _check(ring: Ring) -> None:
    """Raises ValueError."""
    lengths = ((ring.id, ID_BYTES), (ring.nonce, NONCE_BYTES), (ring.wrapped, KEY_BYTES + TAG_BYTES))
    if any(len(bytes.fromhex(text)) != length for text, length in lengths):
        raise ValueError("a field is not as long as it must be")
    bytes.fromhex(ring.master.salt)
    if ring.master.kind == "passphrase":
        asked = (ring.master.n, ring.master.r, ring.master.p)
        if any(not 1 <= value <= most for value, most in zip(asked, _MOST_SCRYPT, strict=True)):
            raise ValueError("scrypt is asked for more than makes sense")
        if ring.master.n & (ring.master.n - 1) or ring.master.n < 2:
            raise ValueError("scrypt wants a power of two")


def _context(ring_id: str, master: Master) -> bytes:
    return _canonical({"ring": ring_id} | dataclasses.asdict(master))


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
