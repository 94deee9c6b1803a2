"""A random model on this machine's processor, in the process of the benchmark: no door, no worker, no file."""

from __future__ import annotations

import time
from collections.abc import Iterable

import numpy as np
from random_models import SHAPES, config, draw, tensor_shapes

from thaloom.base.plugins import Registry
from thaloom.hal.driver import Driver, Executable, Limits
from thaloom.hal.tensors import Tensor, bf16_from_f32
from thaloom.hal.types import WeightFormat
from thaloom.kernel.memory.pages import blocks_for
from thaloom.kernel.sched.chunks import StepTargets
from thaloom.kernel.sched.steps import StepLimits
from thaloom.work.runtime.architectures import Architecture, select
from thaloom.work.runtime.core.admission import EngineConfig
from thaloom.work.runtime.core.engine import Engine
from thaloom.work.runtime.kv.memory import KvMemory
from thaloom.work.runtime.kv.tiers import BlockStore
from thaloom.work.runtime.messages import Generate
from thaloom.work.runtime.turns.turns import Turns
from thaloom.work.runtime.worker.loading import choose_kv_dtype


class RandomWeights:
    """driver.WeightSource of numbers drawn when they are asked for."""

    def __init__(self, shape: str, seed: int = 0) -> None:
        self._shape = SHAPES[shape]
        self._seed = seed
        self._sizes = dict(tensor_shapes(self._shape))

    def names(self) -> Iterable[str]:
        return list(self._sizes)

    def read(self, name: str) -> Tensor:
        size = self._sizes[name]
        pieces = [bf16_from_f32(piece) for piece in draw(self._shape, self._seed, name, int(np.prod(size)))]
        return Tensor(data=np.concatenate(pieces).reshape(size), dtype="bf16")


class Bench:
    """One compiled model; engines over it one after another."""

    def __init__(
        self, shape: str, *, weights: WeightFormat, num_threads: int, limits: StepLimits, context: int, contexts: int
    ) -> None:
        drivers: Registry[Driver] = Registry("driver")
        drivers.discover()
        driver = drivers.create("cpu")
        self.backend = driver.open(driver.probe()[0].id, num_threads=num_threads)
        architectures: Registry[Architecture] = Registry("architecture")
        architectures.discover()
        described = config(SHAPES[shape])
        self.executable: Executable = self.backend.compile(
            select(architectures, described).build(described),
            RandomWeights(shape),
            Limits(
                max_rows=limits.max_rows,
                max_sequences=limits.max_sequences,
                max_context=context,
                kv_dtype=choose_kv_dtype(None, {"bf16"}, weights, self.backend),
                weight_format=weights,
                max_outputs=limits.max_outputs,
            ),
        )
        self.vocab = SHAPES[shape].vocab
        self.context = context
        self.num_blocks = contexts * blocks_for(context)
        self.pool = self.backend.allocate(self.num_blocks * self.executable.block_bytes)
        self.executable.bind_pool(self.pool, self.num_blocks)

    def engine(
        self,
        limits: StepLimits,
        targets: StepTargets,
        *,
        executable: Executable | None = None,
        prefix_reuse: bool = False,
        memory: KvMemory | None = None,
        store: BlockStore | None = None,
        turns: Turns | None = None,
    ) -> Engine:
        """An empty one; the one before must be done. `executable`: ours in some wrapping."""
        return Engine(
            executable or self.executable,
            EngineConfig(
                vocab_size=self.vocab,
                context_length=self.context,
                num_blocks=self.num_blocks,
                limits=limits,
                max_queue=256,
                prefix_reuse=prefix_reuse,
                targets=targets,
            ),
            monotonic=time.perf_counter,
            emit=print,
            memory=memory,
            store=store,
            turns=turns,
        )


def ask(
    prompt: list[int], max_tokens: int, *, temperature: float = 0.0, top_k: int = 0, top_p: float = 1.0, seed: int = 1
) -> Generate:
    return Generate(
        id="r",
        prompt=prompt,
        max_tokens=max_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=0.0,
        seed=seed,
        stop_tokens=[],
        logprobs=None,
    )
