"""A pull in the test's own process, from a hub on loopback."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.models import make_model
from thaloom.base.air_gap import AirGap
from thaloom.base.clock import SystemClock
from thaloom.base.outgoing import Outgoing
from thaloom.kernel.models.pulling.partials import unfinished
from thaloom.kernel.models.pulling.pull import Means, pull
from thaloom.kernel.models.pulling.retrying import Patience
from thaloom.kernel.models.pulling.sources import parse_source
from thaloom.kernel.models.sealed_objects import KeySource
from thaloom.kernel.models.store import ModelStore, no_key
from thaloom.kernel.models.types import HubSettings, Manifest, ModelName

HASTY = Patience(most_attempts=4, first_wait_s=0.001, longest_wait_s=0.01, stalled_s=2.0)


@dataclass
class Puller:
    """One node's folder. `steps` is the progress of the latest pull."""

    home: Path
    endpoint: str
    closed: str | None = None
    segment_bytes: int = 16 * 1024
    num_connections: int = 4
    silence_s: float = 5.0
    patience: Patience = HASTY
    key: KeySource = no_key
    steps: list[tuple[str, int, int | None]] = field(default_factory=list)

    @property
    def store(self) -> ModelStore:
        return ModelStore(self.home / "models", SystemClock(), key=self.key)

    @property
    def pulls(self) -> Path:
        return self.home / "models" / "pulls"

    def __call__(self, source: str = "org/name", *, name: str | None = None, **options: Any) -> Manifest:
        return asyncio.run(self.pull(source, name=name, **options))

    async def pull(
        self,
        source: str,
        *,
        name: str | None = None,
        replace: bool = False,
        encrypt: bool = False,
        token: str | None = None,
    ) -> Manifest:
        self.steps.clear()
        self.home.mkdir(parents=True, exist_ok=True)
        clock = SystemClock()
        gap = AirGap(self.home / "refused.jsonl", clock, closed=self.closed)
        settings = HubSettings(hf_endpoint=self.endpoint, hf_token=token, ms_endpoint=self.endpoint, ms_token=token)
        async with Outgoing(gap, user_agent="test", silence_s=self.silence_s) as outgoing:
            means = Means(
                store=self.store, pulls=self.pulls, outgoing=outgoing, clock=clock, patience=self.patience,
                num_connections=self.num_connections, segment_bytes=self.segment_bytes,
            )  # fmt: skip
            return await pull(
                parse_source(source), settings, means, name=None if name is None else ModelName.parse(name),
                replace=replace, encrypt=encrypt, progress=lambda *step: self.steps.append(step),
            )  # fmt: skip

    def unfinished(self) -> list[str]:
        return [pull.source for _, pull in unfinished(self.pulls)]

    def is_empty(self) -> bool:
        """Whether nothing at all of any model is left: no object, no manifest, no partial."""
        left = [path for path in (self.home / "models").rglob("*") if path.is_file() and "lock" not in path.name]
        return left == []


def model_files(folder: Path, **options: Any) -> dict[str, bytes]:
    """A sound small model, by file."""
    make_model(folder, "llama", **options)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def stored_files(store: ModelStore, manifest: Manifest) -> dict[str, bytes]:
    stored = store.open(manifest)
    return {file.path: stored.read_file(file.path) for file in manifest.files}
