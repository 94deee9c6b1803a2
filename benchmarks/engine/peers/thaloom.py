"""Ourselves, as an engine: the worker's own loader, scheduler and sampler in a child process, no door, no HTTP."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.engine import environments
from benchmarks.engine.cells import MAX_BATCH, MAX_CONTEXT, STEP_TOKENS, WeightClass
from benchmarks.engine.engines import Child, Session, open_child
from benchmarks.engine.models import vocabulary

from thaloom.base.clock import SystemClock
from thaloom.kernel.models.store import ModelStore
from thaloom.kernel.models.types import ModelName


@dataclass(frozen=True, slots=True, kw_only=True)
class Thaloom:
    """`spec`: fields of the worker's spec that differ from its defaults."""

    name: str
    weight_class: WeightClass
    num_threads: int
    spec: dict[str, Any] = field(default_factory=dict)
    max_batch: int = MAX_BATCH
    context: int = MAX_CONTEXT

    @property
    def store(self) -> Path:
        return environments.cache() / "thaloom" / "store"

    def prepare(self, model: Path) -> None:
        ModelStore(self.store, SystemClock()).import_path(model, model_name(model), replace=True)

    @contextmanager
    def open(self, model: Path) -> Iterator[Session]:
        child = Child(
            python=Path(sys.executable),
            script="run_thaloom.py",
            settings={
                "store": str(self.store),
                "model": str(model_name(model)),
                "vocabulary": vocabulary(model),
                "threads": self.num_threads,
                "batch": self.max_batch,
                "step_tokens": STEP_TOKENS,
                "context": self.context,
                "kv_bytes": 1 << 30,
                "spec": self.spec,
            },
            environment={},
            log=environments.cache() / "logs" / f"{self.name}.log",
        )
        with open_child(child) as session:
            yield session


def model_name(model: Path) -> ModelName:
    return ModelName.parse(model.name.replace(".", "-"))
