"""Who has the key of encrypted models: where the master key is found, and how it is changed.

Without a key the node works; what is encrypted is refused by name. Looked for in this order, the first that is there:
`master_key_file` of config.toml; the systemd credentials `thaloom.master-key` and `thaloom.passphrase`; a passphrase
given at the start (`thaloom up --passphrase`); `master.key` in the node's folder.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

from thaloom.base.errors import (
    CorruptObject,
    EncryptionKeyMissing,
    NameTaken,
    StateUnusable,
    ThaloomError,
    WrongState,
)
from thaloom.base.events import Degraded, Emit
from thaloom.base.files import sync_folder
from thaloom.init.events import MasterKeyChanged
from thaloom.init.layout import Layout
from thaloom.kernel.state.types import EncryptionStatus
from thaloom.kernel.trust import key_ring
from thaloom.kernel.trust.inherited import VARIABLE
from thaloom.kernel.trust.master_key import (
    CREDENTIAL,
    PASSPHRASE_CREDENTIAL,
    MasterSecret,
    make_key_file,
    read_key_file,
    read_passphrase_file,
)
from thaloom.kernel.trust.sealed import StoreKey
from thaloom.kernel.trust.secret_memory import shield_process

_NEXT = ".next"
"""Suffix of the key file that takes the other's place when the ring is wrapped for it."""


class Vault:
    """The store's key, or why there is none. A KeySource (kernel.models.sealed_objects); for any thread."""

    def __init__(
        self,
        layout: Layout,
        *,
        key_file: str,
        passphrase: MasterSecret | None,
        has_encrypted: Callable[[], bool],
        environment: Mapping[str, str],
        emit: Emit,
        step: Callable[[str], None] = lambda _: None,
    ) -> None:
        """`has_encrypted`: whether anything lies in the store in cipher. `step` is told of each step of a change."""
        self._layout = layout
        self._key_file = key_file
        self._passphrase = passphrase
        self._has_encrypted = has_encrypted
        self._environment = environment
        self._emit = emit
        self._step = step
        self._lock = threading.Lock()
        self._key: StoreKey | None = None
        self._origin: str | None = None
        self._why: ThaloomError = key_ring.missing("this node has no master key")

    def open(self) -> None:
        """Look for the master key and open the ring with it; never raises for a key, says so instead."""
        with self._lock:
            try:
                self._open()
            except (ThaloomError, OSError) as error:
                self._why = error if isinstance(error, ThaloomError) else StateUnusable(f"the master key: {error}")
                self._emit(Degraded(subject="encryption", reason=type(error).__name__, message=str(error)))

    def __call__(self) -> StoreKey:
        """Raises EncryptionKeyMissing, EncryptionKeyWrong, CorruptObject, Forbidden ...: what kept it from opening."""
        if self._key is None:
            raise type(self._why)(self._why.message, **self._why.details)
        return self._key

    def for_child(self) -> tuple[dict[str, str], tuple[int, ...]]:
        """What a child needs to have the key too: for its environment, and descriptors it inherits."""
        if self._key is None:
            return {}, ()
        descriptor = self._key.memory.fileno()
        return {VARIABLE: str(descriptor)}, (descriptor,)

    def status(self) -> EncryptionStatus:
        ring = None
        with contextlib.suppress(ThaloomError):
            ring = key_ring.read_ring(self._layout.key_ring)
        return EncryptionStatus(
            ready=self._key is not None,
            origin=self._origin,
            problem=None if self._key is not None else self._why.message,
            ring=None if ring is None else ring.id,
            opened_by=None if ring is None else ring.master.kind,
            memory=None if self._key is None else self._key.memory.kind,
            locked=self._key is not None and self._key.memory.locked,
            master=None if ring is None else ring.master.id,
        )

    def make(self) -> str:
        """Make a master key in the node's folder; its path. Raises NameTaken if there is one, WrongState if another is
        told of, EncryptionKeyMissing if what is encrypted here was by a key that is not here."""
        with self._lock:
            if self._key is not None:
                raise NameTaken(f"there is a master key already: {self._origin}")
            if self._key_file or self._credential() is not None or self._passphrase is not None:
                raise WrongState(f"another master key is told of, and does not open: {self._why.message}")
            if key_ring.read_ring(self._layout.key_ring) is not None:
                raise EncryptionKeyMissing("the store has a key ring already; put its master key back")
            try:
                make_key_file(self._layout.master_key)
            except FileExistsError:
                raise NameTaken(f"there is a file {str(self._layout.master_key)!r} already") from None
            self._open()
        return str(self._layout.master_key)

    def rotate(self, new: MasterSecret | None) -> str:
        """Wrap the ring for another master key: `new`, or a new key in the place of the file that opens it now. Says
        where the key is from now on. A kill leaves the old key or the new one in force (`_settle`).

        Raises WrongState (nothing to put a new key into), what opening raised, DiskFull, OSError.
        """
        key = self()
        with self._lock:
            if new is not None:
                try:
                    key_ring.write_ring(self._layout.key_ring, key, new)
                finally:
                    new.close()
                self._origin = new.origin
            else:
                self._replace_file(key)
        self._emit(MasterKeyChanged(origin=self._origin or ""))
        return self._origin or ""

    def _replace_file(self, key: StoreKey) -> None:
        path = self._file()
        if path is None or self._origin != str(path):
            raise WrongState(
                f"the master key comes from {self._origin!r}, where no new one can be put: say where it will be "
                "(--key-file, --passphrase)"
            )
        upcoming = path.with_name(path.name + _NEXT)
        self._step("begin")
        make_key_file(upcoming)
        self._step("made")
        new = read_key_file(upcoming)
        try:
            key_ring.write_ring(self._layout.key_ring, key, new)
        finally:
            new.close()
        self._step("wrapped")
        upcoming.replace(path)
        sync_folder(path.parent)
        self._step("end")

    def _open(self) -> None:
        ring = key_ring.read_ring(self._layout.key_ring)
        self._settle(ring)
        master = self._find()
        if master is None:
            if ring is not None:
                self._why = key_ring.missing("the store has encrypted models, and this node was given no master key")
                self._emit(Degraded(subject="encryption", reason="EncryptionKeyMissing", message=self._why.message))
            return
        shield_process()
        try:
            if ring is None and self._has_encrypted():
                raise CorruptObject(
                    f"the key ring {str(self._layout.key_ring)!r} is gone, and encrypted models are there: "
                    "put it back from a backup"
                )
            opened = (
                key_ring.make_ring(self._layout.key_ring, master) if ring is None else key_ring.open_ring(ring, master)
            )
        finally:
            master.close()
        self._key, self._origin = opened, master.origin

    def _settle(self, ring: key_ring.Ring | None) -> None:
        """End a change of the key file that was cut short: the ring says which of the two keys is in force."""
        path = self._file()
        upcoming = None if path is None else path.with_name(path.name + _NEXT)
        if path is None or upcoming is None or not upcoming.exists():
            return
        new = read_key_file(upcoming)
        try:
            in_force = ring is not None and key_ring.opens(ring, new)
        finally:
            new.close()
        if in_force:
            upcoming.replace(path)
        else:
            upcoming.unlink()
        sync_folder(path.parent)

    def _find(self) -> MasterSecret | None:
        if self._key_file:
            return read_key_file(Path(self._key_file))
        credential = self._credential()
        if credential is not None:
            return (
                read_passphrase_file(credential)
                if credential.name == PASSPHRASE_CREDENTIAL
                else read_key_file(credential)
            )
        if self._passphrase is not None:
            return self._passphrase
        return read_key_file(self._layout.master_key) if self._layout.master_key.exists() else None

    def _file(self) -> Path | None:
        """The key file that is ours to replace; None where the key is not from a file."""
        if self._key_file:
            return Path(self._key_file)
        return None if self._credential() is not None or self._passphrase is not None else self._layout.master_key

    def _credential(self) -> Path | None:
        folder = self._environment.get("CREDENTIALS_DIRECTORY")
        places = [Path(folder) / name for name in (CREDENTIAL, PASSPHRASE_CREDENTIAL)] if folder else []
        return next((place for place in places if place.exists()), None)


def secret_from(passphrase: str | None, key_file: str | None) -> MasterSecret | None:
    """What somebody wants for a new master key. Raises BadParameter, EncryptionKeyMissing, Forbidden."""
    if key_file is not None:
        return read_key_file(Path(key_file))
    if passphrase is None:
        return None
    from thaloom.kernel.trust.master_key import read_passphrase

    descriptor = os.memfd_create("passphrase", os.MFD_CLOEXEC)
    try:
        os.write(descriptor, passphrase.encode())
        os.lseek(descriptor, 0, os.SEEK_SET)
        return read_passphrase(descriptor, "a passphrase")
    finally:
        os.close(descriptor)
