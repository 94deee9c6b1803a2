"""`kind: Federation`: who trains together. Checked and kept; nothing in this version acts on it, and it says so."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from thaloom.base.actions import Risk
from thaloom.base.errors import BadParameter
from thaloom.init.documents.forms import read_spec, written
from thaloom.init.documents.kept import Kept, require_name
from thaloom.init.documents.kinds import Changed
from thaloom.kernel.state.labels import check_labels
from thaloom.kernel.state.store import StateStore
from thaloom.kernel.state.types import Condition, Document, DocumentStatus

KIND = "Federation"
MAX_PARTICIPANTS = 1000
MAX_ROUNDS = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class FederationSpec:
    """Who trains one model together, and how what they learnt is put together."""

    name: str
    model: str
    """`name[:tag]` in the store: where all begin."""
    participants: tuple[str, ...]
    """Names, each once."""
    min_participants: int = 2
    """A round with fewer does not count."""
    rounds: int = 1
    aggregation: Literal["fedavg", "fedprox", "median"] = "fedavg"
    deadline_s: float = 3600.0
    """Of one round, seconds."""
    labels: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_labels(self.labels)
        if not self.model:
            raise BadParameter("model must not be empty", param="model")
        if not 1 <= len(self.participants) <= MAX_PARTICIPANTS:
            raise BadParameter(f"between 1 and {MAX_PARTICIPANTS} participants", param="participants")
        if len(set(self.participants)) != len(self.participants) or not all(self.participants):
            raise BadParameter("every participant has a name, and is named once", param="participants")
        if not 1 <= self.min_participants <= len(self.participants):
            raise BadParameter(
                f"min_participants must be between 1 and {len(self.participants)}, not {self.min_participants}",
                param="min_participants",
            )
        if not 1 <= self.rounds <= MAX_ROUNDS:
            raise BadParameter(f"rounds must be between 1 and {MAX_ROUNDS}, not {self.rounds}", param="rounds")
        if not 1 <= self.deadline_s <= 1e7:
            raise BadParameter("deadline_s must be between 1 and 10,000,000", param="deadline_s")


class Federations(Kept):
    def __init__(self, store: StateStore) -> None:
        super().__init__(store, KIND)

    async def read(self, document: Document) -> Document:
        require_name(document.name)
        return written(KIND, read_spec(FederationSpec, document))

    async def check(self, changed: Changed) -> None:
        """Nothing acts on it, so nothing stands in its way."""

    def risk(self, *, removed: bool) -> Risk:  # noqa: ARG002
        return "low"

    def touches(self, name: str) -> Sequence[str]:  # noqa: ARG002
        return ()

    def prepare(self, changed: Changed) -> None:
        """It needs nothing but to be written down."""

    def changed(self, changed: Changed) -> None:
        """Nobody has to be told."""

    def shown(self, name: str) -> bool:  # noqa: ARG002
        return True

    def status(self, name: str) -> DocumentStatus | None:
        kept = self.store.documents.get(KIND, name)
        if kept is None:
            return None
        told = "this version of Thaloom keeps federations and does not run them"
        since = kept.created_at
        conditions = (
            Condition(kind="Ready", status=False, reason="NoController", message=told, since=since),
            Condition(kind="Degraded", status=False, reason="AsWished", message="", since=since),
        )
        return DocumentStatus(document=kept.document, created_at=since, conditions=conditions)
