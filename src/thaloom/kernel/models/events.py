"""What the model store tells: each state it changed, and each wish it bent."""

from __future__ import annotations

from dataclasses import dataclass

from thaloom.base.events import Event, at_level
from thaloom.base.ids import Digest


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelImported(Event):
    model: str
    digest: Digest
    source: str
    num_bytes: int
    written_bytes: int
    """What was not in the store yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelQuantised(Event):
    """A model in whole numbers was made. Figures that nobody measured are None."""

    model: str
    digest: Digest
    original: str
    perplexity: float | None
    original_perplexity: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRemoved(Event):
    model: str
    digest: Digest | None
    """None if its manifest was damaged."""


@at_level("warning")
@dataclass(frozen=True, slots=True, kw_only=True)
class FilesIgnored(Event):
    """Files beside the model that were not taken, because they are not safe or not understood."""

    source: str
    reason: str
    files: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreSwept(Event):
    """Objects no model needs, and leftovers of broken imports, were deleted."""

    num_files: int
    freed_bytes: int


@at_level("error")
@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestUnreadable(Event):
    """A manifest or tree is damaged. Until its model is removed or pulled again, no object is swept."""

    file: str
    problem: str


@at_level("warning")
@dataclass(frozen=True, slots=True, kw_only=True)
class PackedWeightsLost(Event):
    """What a driver made of a model's weights lay there damaged, or could not be kept: loading takes longer."""

    model: str
    reason: str


@at_level("warning")
@dataclass(frozen=True, slots=True, kw_only=True)
class WeightsNotShared(Event):
    """Packed weights could not be had from memory that processes share: a worker has its own, which takes longer to
    load and is there once for each worker."""

    model: str
    reason: str
