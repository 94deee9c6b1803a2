"""Hugging Face transformers on torch, bf16. Its environment also converts models for others."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.engine import environments
from benchmarks.engine.cells import WeightClass
from benchmarks.engine.engines import Child, Session, open_child
from benchmarks.engine.models import vocabulary

PACKAGES = ("transformers==5.23.*", "torch==2.13.0", "sentencepiece")


def environment() -> Path:
    """Its interpreter. Raises Unavailable."""
    return environments.virtual_environment(environments.cache() / "transformers", PACKAGES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Transformers:
    num_threads: int
    name: str = "transformers bf16"
    weight_class: WeightClass = "16 bit"

    def prepare(self, model: Path) -> None:
        del model  # read as it is
        environment()

    @contextmanager
    def open(self, model: Path) -> Iterator[Session]:
        child = Child(
            python=environment(),
            script="run_transformers.py",
            settings={"model": str(model), "vocabulary": vocabulary(model), "threads": self.num_threads},
            environment={"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": str(self.num_threads)},
            log=environments.cache() / "logs" / f"{self.name}.log",
        )
        with open_child(child) as session:
            yield session
