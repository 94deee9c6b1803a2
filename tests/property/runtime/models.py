"""A small random model, ready to run on each backend the promise is checked on."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import cast

import pytest

from tests.models import make_config, make_weights
from thaloom.base.errors import DriverUnavailable
from thaloom.base.ids import DeviceId
from thaloom.base.plugins import Registry
from thaloom.hal.driver import Backend, Driver, Executable, Limits
from thaloom.hal.reference import ReferenceBackend
from thaloom.hal.tensors import Tensor
from thaloom.hal.types import Device, DType, WeightFormat
from thaloom.kernel.sched.steps import StepLimits
from thaloom.work.runtime.architectures.llama import Llama

CONFIG = make_config("llama", dtype="bf16", hidden_size=32, intermediate_size=48, num_hidden_layers=2)
VOCAB = CONFIG["vocab_size"]
CONTEXT = CONFIG["max_position_embeddings"]
LIMITS = StepLimits(max_sequences=16, chunk_tokens=512)
NUM_BLOCKS = 16 * CONTEXT // 16


FORMATS: dict[str, WeightFormat] = {"": "stored", "int8": "int8", "int4": "int4"}


class Weights:
    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self._tensors = tensors

    def names(self) -> list[str]:
        return list(self._tensors)

    def read(self, name: str) -> Tensor:
        return self._tensors[name]


@dataclass(frozen=True)
class Ready:
    """Executables of one model by number of threads, pools bound."""

    by_threads: dict[int, Executable]


@functools.cache
def ready(backend: str) -> Ready:
    """`reference`, or the name of a driver; then how weights are kept, if not `stored`, and behind `kv` how keys and
    values are, if not as a worker chooses: `cpu int8 kv i8`."""
    words, _, kv_dtype = backend.partition(" kv ")
    name, _, weight_format = words.partition(" ")
    numbers = (1,) if name == "reference" else (1, 2)
    kept = FORMATS[weight_format], cast(DType, kv_dtype or ("bf16" if weight_format else "f16"))
    return Ready({threads: _compile(_open(name, threads), *kept) for threads in numbers})


def _open(backend: str, num_threads: int) -> Backend:
    if backend == "reference":
        return ReferenceBackend(
            Device(
                id=DeviceId("reference"),
                driver="reference",
                kind="virtual",
                name="reference",
                vendor="thaloom",
                memory_bytes=1 << 30,
                num_cores=1,
                dtypes=frozenset({"f32", "bf16", "f16"}),
                isolation="none",
            )
        )
    drivers: Registry[Driver] = Registry("driver")
    drivers.discover()
    try:
        driver = drivers.create(backend)
        opened = driver.open(driver.probe()[0].id, num_threads=num_threads)
    except DriverUnavailable as error:
        pytest.skip(f"no native library for the processor: {error}")
    if opened.degraded:
        pytest.skip(f"no native library for the processor: {opened.degraded}")
    return opened


def _compile(backend: Backend, weight_format: WeightFormat, kv_dtype: DType) -> Executable:
    assert backend.support.exact
    executable = backend.compile(
        Llama().build(CONFIG),
        Weights(make_weights(CONFIG, seed=11, dtype="bf16")),
        Limits(
            max_rows=LIMITS.max_rows,
            max_sequences=LIMITS.max_sequences,
            max_context=CONTEXT,
            kv_dtype=kv_dtype,
            weight_format=weight_format,
        ),
    )
    executable.bind_pool(backend.allocate(NUM_BLOCKS * executable.block_bytes), NUM_BLOCKS)
    return executable
