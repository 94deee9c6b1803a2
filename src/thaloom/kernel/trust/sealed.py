"""A sealed object: bytes in cipher that can be read from any place, and of which nothing can be changed unnoticed.

    MAGIC  version  log2(SEGMENT)  -  id of the store's key (16)  length of the bytes (8)  nonce (12)
    own key, wrapped (48)
    segment 0 + tag, segment 1 + tag ...      SEGMENT bytes each, the last one shorter

Each object has a key of its own, drawn at random and wrapped by the store's key; it seals this one object, so a counter
is nonce enough. A segment's nonce is its index and whether it is the last; its context is the index, the whole length
and the object's name: none can be dropped, swapped, repeated, moved to another object, nor the object cut short.
Source: Hoang, Reyhanitabar, Rogaway, Vizar, "Online Authenticated-Encryption and its Nonce-Reuse Misuse-Resistance"
(2015), STREAM; NIST SP 800-38D, 8.2.
"""

from __future__ import annotations

import os
import secrets
import struct
from dataclasses import dataclass

from thaloom.base.errors import EncryptionKeyWrong
from thaloom.kernel.trust.aead import KEY_BYTES, NONCE_BYTES, TAG_BYTES, Cipher, NotAuthentic, cipher
from thaloom.kernel.trust.secret_memory import SecretMemory

MAGIC, VERSION = b"THALSEAL", 1
SEGMENT_LOG2 = 20
SEGMENT = 1 << SEGMENT_LOG2
"""What is read at least. Smaller ones cost more calls than they save bytes (benchmarks/sealed_reading.py)."""
ID_BYTES = 16
_PLAIN_HEAD = struct.Struct(f">8sBB2x{ID_BYTES}sQ")
_WRAPPED_BYTES = KEY_BYTES + TAG_BYTES
HEAD_BYTES = _PLAIN_HEAD.size + NONCE_BYTES + _WRAPPED_BYTES


class Damaged(Exception):
    """A sealed object is not what it was when it was sealed."""


class StoreKey:
    """The key that wraps the keys of a store's objects, in memory of its own that can be handed to a child."""

    def __init__(self, memory: SecretMemory) -> None:
        self._memory = memory

    @classmethod
    def empty(cls, key_id: bytes) -> StoreKey:
        """A place for the key of that id; fill `secret`. Raises OSError."""
        made = cls(SecretMemory.make())
        made._memory.view[:ID_BYTES] = key_id
        return made

    @classmethod
    def inherit(cls, descriptor: int) -> StoreKey:
        """Raises OSError."""
        return cls(SecretMemory.inherit(descriptor))

    @property
    def id(self) -> bytes:
        return bytes(self._memory.view[:ID_BYTES])

    @property
    def secret(self) -> memoryview:
        return self._memory.view[ID_BYTES : ID_BYTES + KEY_BYTES]

    @property
    def memory(self) -> SecretMemory:
        return self._memory

    def close(self) -> None:
        self._memory.close()


def sealed_bytes(num_bytes: int) -> int:
    """How long the sealed form of so many bytes is."""
    return HEAD_BYTES + num_bytes + TAG_BYTES * _num_segments(num_bytes)


def seal(name: bytes, data: bytes | memoryview, key: StoreKey) -> list[bytes]:
    """The sealed object in pieces, to be written one after the other. `name`: what it may be read as."""
    head = _PLAIN_HEAD.pack(MAGIC, VERSION, SEGMENT_LOG2, key.id, len(data))
    own = secrets.token_bytes(KEY_BYTES)
    nonce = secrets.token_bytes(NONCE_BYTES)
    with key.secret as secret:
        wrapped = cipher(secret).seal(nonce, own, head + name)
    sealing, view = cipher(own), memoryview(data)
    pieces = [head + nonce + wrapped]
    last = _num_segments(len(data)) - 1
    for i in range(last + 1):
        part = view[i * SEGMENT : (i + 1) * SEGMENT]
        pieces.append(sealing.seal(_nonce(i, last), part, _context(i, len(data), name)))
    return pieces


@dataclass(frozen=True, slots=True)
class SealedReader:
    """An open sealed object. For one thread at a time; the descriptor stays its opener's."""

    descriptor: int
    name: bytes
    num_bytes: int
    cipher: Cipher

    def read_into(self, offset: int, target: memoryview) -> None:
        """The bytes from `offset` on. Raises Damaged, OSError."""
        assert 0 <= offset <= self.num_bytes - len(target), "nothing beyond the end is asked for"
        buffer = memoryview(bytearray(min(SEGMENT, self.num_bytes) + TAG_BYTES))
        done = 0
        while done < len(target):
            i, skip = divmod(offset + done, SEGMENT)
            length = min(SEGMENT, self.num_bytes - i * SEGMENT)
            count = min(length - skip, len(target) - done)
            if count == length:
                self._open(i, length, buffer, target[done : done + count])
            else:
                whole = memoryview(bytearray(length))
                self._open(i, length, buffer, whole)
                target[done : done + count] = whole[skip : skip + count]
            done += count

    def _open(self, i: int, length: int, buffer: memoryview, target: memoryview) -> None:
        sealed = buffer[: length + TAG_BYTES]
        _read_exactly(self.descriptor, HEAD_BYTES + i * (SEGMENT + TAG_BYTES), sealed)
        last = _num_segments(self.num_bytes) - 1
        try:
            self.cipher.open_into(_nonce(i, last), sealed, _context(i, self.num_bytes, self.name), target)
        except NotAuthentic:
            raise Damaged(f"its part {i} is not what was sealed") from None


def open_sealed(descriptor: int, name: bytes, key: StoreKey) -> SealedReader:
    """Raises Damaged, EncryptionKeyWrong (sealed under another store's key), OSError."""
    head = memoryview(bytearray(HEAD_BYTES))
    _read_exactly(descriptor, 0, head)
    plain = bytes(head[: _PLAIN_HEAD.size])
    magic, version, log2, key_id, num_bytes = _PLAIN_HEAD.unpack(plain)
    if magic != MAGIC or version != VERSION or log2 != SEGMENT_LOG2:
        raise Damaged("it does not begin as a sealed object does")
    if os.fstat(descriptor).st_size != sealed_bytes(num_bytes):
        raise Damaged("it is not as long as it says")
    if key_id != key.id:
        raise EncryptionKeyWrong(
            f"an object was sealed under the key ring {key_id.hex()}; the ring here is {key.id.hex()}"
        )
    own = bytearray(KEY_BYTES)
    nonce, wrapped = head[_PLAIN_HEAD.size : _PLAIN_HEAD.size + NONCE_BYTES], head[-_WRAPPED_BYTES:]
    try:
        with key.secret as secret:
            cipher(secret).open_into(bytes(nonce), wrapped, plain + name, memoryview(own))
    except NotAuthentic:
        raise Damaged("its head is not what was sealed") from None
    return SealedReader(descriptor, name, num_bytes, cipher(own))


def _num_segments(num_bytes: int) -> int:
    return max(1, -(-num_bytes // SEGMENT))


def _nonce(i: int, last: int) -> bytes:
    return i.to_bytes(NONCE_BYTES - 1, "big") + (b"\1" if i == last else b"\0")


def _context(i: int, num_bytes: int, name: bytes) -> bytes:
    return i.to_bytes(8, "big") + num_bytes.to_bytes(8, "big") + name


def _read_exactly(descriptor: int, offset: int, target: memoryview) -> None:
    done = 0
    while done < len(target):
        count = os.preadv(descriptor, [target[done:]], offset + done)
        if not count:
            raise Damaged("it ends too early")
        done += count
