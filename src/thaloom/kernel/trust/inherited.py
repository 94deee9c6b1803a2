"""The store's key as a child gets it: a descriptor it inherits, whose number the environment names. Never the key."""

from __future__ import annotations

from collections.abc import MutableMapping

from thaloom.base.errors import EncryptionKeyMissing
from thaloom.kernel.trust.sealed import StoreKey
from thaloom.kernel.trust.secret_memory import shield_process

VARIABLE = "THALOOM_KEY_FD"


class InheritedKey:
    """A KeySource. Made first thing by a process: whoever holds a key is shielded before it does anything else."""

    def __init__(self, environment: MutableMapping[str, str]) -> None:
        """Takes the number out of `environment`, so that no child of ours looks for it."""
        number = environment.pop(VARIABLE, "")
        self._key: StoreKey | None = None
        self._why = "this process was given no key"
        if number.isascii() and number.isdigit():
            shield_process()
            try:
                self._key = StoreKey.inherit(int(number))
            except (OSError, ValueError) as error:
                self._why = f"the key this process was given cannot be read: {error}"

    def __call__(self) -> StoreKey:
        """Raises EncryptionKeyMissing."""
        if self._key is None:
            raise EncryptionKeyMissing(f"the model is encrypted, and {self._why}")
        return self._key
