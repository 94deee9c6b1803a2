"""OpenVINO GenAI with int8 weights: exported by optimum-intel, run by its continuous batching pipeline."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.engine import environments
from benchmarks.engine.cells import MAX_BATCH, STEP_TOKENS, WeightClass
from benchmarks.engine.engines import Child, Session, open_child
from benchmarks.engine.models import vocabulary

PACKAGES = ("torch==2.13.0", "openvino-genai==2026.4.*", "optimum-intel", "nncf")
UNWANTED = ("torchvision",)
"""It comes built for CUDA, and transformers cannot be imported beside it."""


def environment() -> Path:
    """Its interpreter. Raises Unavailable."""
    return environments.virtual_environment(environments.cache() / "openvino", PACKAGES, unwanted=UNWANTED)


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenVino:
    num_threads: int
    name: str = "OpenVINO GenAI int8"
    weight_class: WeightClass = "8 bit"

    def prepare(self, model: Path) -> None:
        self.weights(model)

    def weights(self, model: Path) -> Path:
        python = environment()
        folder = environments.cache() / "openvino" / "models" / model.name
        if folder.exists():
            return folder
        partial = folder.with_name(folder.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        log = environments.cache() / "openvino" / "convert.log"
        export: list[str | Path] = [
            python,
            "-m",
            "optimum.commands.optimum_cli",
            "export",
            "openvino",
            "--model",
            model,
        ]
        environments.run([*export, "--task", "text-generation-with-past", "--weight-format", "int8", partial], log)
        partial.rename(folder)
        return folder

    @contextmanager
    def open(self, model: Path) -> Iterator[Session]:
        child = Child(
            python=environment(),
            script="run_openvino.py",
            settings={
                "model": str(self.weights(model)),
                "vocabulary": vocabulary(model),
                "threads": self.num_threads,
                "batch": MAX_BATCH,
                "step_tokens": STEP_TOKENS,
            },
            environment={"HF_HUB_OFFLINE": "1"},
            log=environments.cache() / "logs" / f"{self.name}.log",
        )
        with open_child(child) as session:
            yield session
