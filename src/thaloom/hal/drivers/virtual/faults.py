"""The faults a made-up device shows at the moment: commanded in this process, or by a file from another."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import get_args

from thaloom.base.errors import BadParameter, DeviceLost
from thaloom.hal.driver import FaultKind

SLOW_STEP_S = 0.05
_POLL_S = 0.01
"""How often a hanging step looks whether its file still says so."""


class Faults:
    """The faults of one device. Thread-safe."""

    def __init__(self, file: str | None = None) -> None:
        self._file = None if file is None else Path(file)
        self._commanded: set[FaultKind] = set()
        self._changed = threading.Condition()

    def now(self) -> frozenset[FaultKind]:
        """Raises BadParameter if the file is not a JSON list of faults."""
        with self._changed:
            commanded = frozenset(self._commanded)
        return commanded if self._file is None else commanded | _read(self._file)

    def add(self, fault: FaultKind) -> None:
        if fault not in get_args(FaultKind):
            raise BadParameter(f"no fault {fault!r} (there are: {', '.join(get_args(FaultKind))})", param="fault")
        with self._changed:
            self._commanded.add(fault)
            self._changed.notify_all()

    def clear(self) -> None:
        """Forgets what was commanded in this process; a file stays as it is."""
        with self._changed:
            self._commanded.clear()
            self._changed.notify_all()

    def pass_or_raise(self, device: str, sleep: Callable[[float], None]) -> None:
        """What a step goes through: waits while the device hangs, sleeps if it is slow, DeviceLost if it is gone."""
        while "hang" in (faults := self.now()) and not faults & {"lost", "unplugged"}:
            with self._changed:
                self._changed.wait(_POLL_S)
        self.raise_if_lost(device)
        if "slow" in faults:
            sleep(SLOW_STEP_S)

    def raise_if_lost(self, device: str) -> None:
        if self.now() & {"lost", "unplugged"}:
            raise DeviceLost(f"device {device!r} is lost")


def _read(file: Path) -> frozenset[FaultKind]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return frozenset()
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise BadParameter(f"{file}: {error}", param="faults_file") from error
    if not isinstance(found, list) or not all(fault in get_args(FaultKind) for fault in found):
        raise BadParameter(f"{file} must be a JSON list of {', '.join(get_args(FaultKind))}", param="faults_file")
    return frozenset(found)
