"""What the door keeps for its clients: responses, files and batches, within a bound, under one folder of the node.

    kept.db     all facts, and the text of responses, of their events and of batches' answers (SQLite, one transaction
                per change)
    files/      the bytes of files; each has a row in kept.db before its first byte and until after its last

Several doors may use one folder at once: what one of them works on carries the identity of its process, and is
cleaned up or taken over by another when that process is gone.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from thaloom.base.clock import Clock
from thaloom.kernel.state.kept.batches import KeptBatches
from thaloom.kernel.state.kept.files import KeptFiles
from thaloom.kernel.state.kept.ledger import KeepLimits, KeptLedger
from thaloom.kernel.state.kept.responses import KeptResponses

__all__ = ["KeepLimits", "Kept", "open_kept"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """All that is kept in one folder. `close` it."""

    responses: KeptResponses
    files: KeptFiles
    batches: KeptBatches
    ledger: KeptLedger

    def close(self) -> None:
        self.ledger.close()


def open_kept(folder: Path, clock: Clock, limits: KeepLimits | None = None) -> Kept:
    """What is kept in `folder`; looked at when first asked for, so that a damaged store keeps no door from opening."""
    ledger = KeptLedger(folder, clock, limits or KeepLimits())
    files = KeptFiles(ledger)
    return Kept(responses=KeptResponses(ledger), files=files, batches=KeptBatches(ledger), ledger=ledger)
