"""The same logits as Hugging Face transformers, within 1e-4 in f32, from every backend that is here."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tests.goldens import cases
from tests.goldens.cases import CONFIGS, Golden
from thaloom.base.ids import DeviceId
from thaloom.base.plugins import Registry
from thaloom.hal.checks import MemoryWeights
from thaloom.hal.driver import Backend, Driver, Limits
from thaloom.hal.drivers.virtual.driver import VirtualDevice, VirtualDriver
from thaloom.hal.testing.schedules import Schedule, TokenSequence, chopped, play, together
from thaloom.work.runtime.architectures import Architecture, select

MAX_DIFFERENCE = 1e-4
GOLDENS = cases.load()
NUM_BLOCKS = 8


@pytest.fixture(scope="module")
def architectures() -> Registry[Architecture]:
    registry: Registry[Architecture] = Registry("architecture")
    registry.discover()
    return registry


@pytest.fixture(scope="module")
def native() -> Backend:
    """The CPU driver's own library. It is not there without a compiler, and then this is skipped, with the reason."""
    registry: Registry[Driver] = Registry("driver")
    registry.discover()
    backend = registry.create("cpu").open(DeviceId("cpu"), num_threads=2)
    if backend.degraded is not None:
        pytest.skip(f"the CPU driver is degraded: {backend.degraded}")
    return backend


def virtual(level: str) -> Backend:
    driver = VirtualDriver([VirtualDevice(id="virtual:0", level=level)])
    return driver.open(DeviceId("virtual:0"), num_threads=1)


def logits(backend: Backend, golden: Golden, registry: Registry[Architecture], *, in_chunks: bool) -> np.ndarray:
    """Of every position, (tokens, vocab_size), on blocks in no order."""
    program = select(registry, golden.config).build(golden.config)
    weights = cases.make_weights(program, golden.seed)
    executable = backend.compile(
        program, MemoryWeights(weights), Limits(max_rows=64, max_sequences=2, max_context=golden.tokens.size)
    )
    pool = backend.allocate(NUM_BLOCKS * executable.block_bytes)
    executable.bind_pool(pool, NUM_BLOCKS)
    sequence = TokenSequence(tokens=golden.tokens, table=np.array([6, 1, 4], np.int32))
    schedule: Schedule = together([sequence])
    if in_chunks:
        schedule = chopped([sequence], np.random.default_rng(golden.seed))
    found = play(executable.run, [sequence], schedule)[0]
    executable.close()
    pool.free()
    return found


def expect_equal(found: np.ndarray, golden: Golden) -> None:
    assert found.shape == golden.logits.shape
    assert np.abs(found - golden.logits).max() <= MAX_DIFFERENCE


@pytest.mark.parametrize("golden", GOLDENS, ids=lambda golden: golden.name)
class TestSameLogits:
    def test_reference(self, golden: Golden, architectures: Registry[Architecture]) -> None:
        expect_equal(logits(virtual("L3"), golden, architectures, in_chunks=False), golden)

    def test_reference_in_chunks(self, golden: Golden, architectures: Registry[Architecture]) -> None:
        expect_equal(logits(virtual("L3"), golden, architectures, in_chunks=True), golden)

    def test_composed_from_plain_operators(self, golden: Golden, architectures: Registry[Architecture]) -> None:
        expect_equal(logits(virtual("L1"), golden, architectures, in_chunks=True), golden)

    @pytest.mark.hardware
    def test_native_cpu(self, golden: Golden, architectures: Registry[Architecture], native: Backend) -> None:
        whole = logits(native, golden, architectures, in_chunks=False)
        expect_equal(whole, golden)
        assert np.array_equal(whole, logits(native, golden, architectures, in_chunks=True))


def test_goldens_say_what_made_them() -> None:
    made_with = json.loads(cases.RECORD.read_text(encoding="utf-8"))["made_with"]
    assert set(made_with) == {"torch", "transformers", "numpy", "python", "machine"}


def test_goldens_are_of_these_configs() -> None:
    """A config that was changed without making the goldens again would test nothing."""
    assert {golden.name: golden.config for golden in GOLDENS} == CONFIGS
    for golden in GOLDENS:
        assert golden.tokens.tolist() == cases.make_tokens(golden.name, golden.config["vocab_size"])


def test_goldens_stay_small() -> None:
    assert sum(path.stat().st_size for path in cases.FOLDER.iterdir() if path.is_file()) < 500_000
