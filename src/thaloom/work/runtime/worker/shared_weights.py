"""Memory for packed weights as a worker gets it: descriptors it inherits, whose numbers the environment names.

The daemon makes the memory and holds it, which is how it outlives the worker; it never maps it. The first worker fills
and seals it, holding its lock all the while; the others wait for that, and read.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import MutableMapping

from thaloom.base import memory_files
from thaloom.hal.driver import Shared

READER, BLANK = "THALOOM_SHARED_FD", "THALOOM_BLANK_FD"
PATIENCE_S = 600.0
"""For another worker to fill it. One that dies lets go at once; this is for one that is stuck."""
_LOOK_S = 0.01


class InheritedMemory:
    """Owner of the descriptors. A process that was given none has one that is empty."""

    def __init__(self, environment: MutableMapping[str, str]) -> None:
        """Takes the numbers out of `environment`, so that no child of ours looks for them."""
        self._reader = _inherit(environment.pop(READER, ""))
        self._blank = _inherit(environment.pop(BLANK, ""))

    def shared(self, stop: threading.Event) -> Shared | None:
        """None where there is none, or `stop` is set while another worker fills it. What is not sealed then was given
        up by whoever was to fill it."""
        if self._reader is None:
            return None
        deadline = time.monotonic() + PATIENCE_S
        while self._blank is None and not memory_files.is_sealed(self._reader) and time.monotonic() < deadline:
            if not memory_files.is_locked(self._reader):
                break
            if stop.wait(_LOOK_S):
                return None
        return Shared(reader=self._reader, blank=self._blank)

    def there_bytes(self) -> int:
        """What others have put there already: nobody's to take any more, and no more is taken by using it."""
        return 0 if self._reader is None else memory_files.held_bytes(self._reader)

    def given_up(self) -> None:
        """Nothing will be filled by us: nobody need wait for it any more."""
        if self._blank is not None:
            os.close(self._blank)
            self._blank = None

    def loaded(self, *, used: bool) -> None:
        """The weights are where they will be. Memory that is used is kept open, which is where a later daemon finds
        it."""
        self.given_up()
        if self._reader is not None and not used:
            os.close(self._reader)
            self._reader = None


def _inherit(number: str) -> int | None:
    if not (number.isascii() and number.isdigit()):
        return None
    with contextlib.suppress(OSError):
        os.set_inheritable(int(number), False)
        return int(number)
    return None
