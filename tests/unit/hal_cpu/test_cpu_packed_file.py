"""Packed weights are made once: what is kept is used, what is damaged is made again, what cannot be kept is told."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from thaloom.base.errors import DiskFull
from thaloom.hal.checks import MemoryWeights
from thaloom.hal.driver import Executable
from thaloom.hal.drivers.cpu import packed_file, weights
from thaloom.hal.drivers.cpu.driver import CpuDriver
from thaloom.hal.drivers.cpu.probe import DEVICE_ID
from thaloom.hal.tensors import QuantTensor, Tensor
from thaloom.hal.testing.bench import LIMITS, NUM_BLOCKS, sequences_for
from thaloom.hal.testing.programs import tiny_model
from thaloom.hal.testing.schedules import make_step, together

CASE = tiny_model(3, dtype="bf16")


class Keeper(MemoryWeights):
    """A source with a place for packed weights."""

    def __init__(self, folder: Path) -> None:
        super().__init__(CASE.weights)
        self.folder = folder
        self.layouts: list[str] = []
        self.reads = 0
        self.lost: list[str] = []

    def read(self, name: str) -> Tensor | QuantTensor:
        self.reads += 1
        return super().read(name)

    def packed_path(self, layout: str) -> Path:
        self.layouts.append(layout)
        return self.folder / "weights.packed"

    def packed_lost(self, reason: str) -> None:
        self.lost.append(reason)


@pytest.fixture(autouse=True)
def _any_size_is_worth_keeping(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "WORTH_KEEPING", 0)


def compiled(keeper: Keeper) -> Executable:
    return CpuDriver().open(DEVICE_ID, num_threads=2).compile(CASE.program, keeper, LIMITS)


def answer(keeper: Keeper) -> bytes:
    backend = CpuDriver().open(DEVICE_ID, num_threads=2)
    executable = backend.compile(CASE.program, keeper, LIMITS)
    pool = backend.allocate(NUM_BLOCKS * executable.block_bytes)
    try:
        executable.bind_pool(pool, NUM_BLOCKS)
        sequences = sequences_for(CASE)
        return np.array(executable.run(make_step(sequences, together(sequences)[0]))).tobytes()
    finally:
        executable.close()
        pool.free()


def test_a_second_start_reads_no_tensor_and_answers_the_same(build: str, tmp_path: Path) -> None:
    first, second = Keeper(tmp_path), Keeper(tmp_path)
    wanted = answer(first)
    assert first.reads == len(CASE.program.weights)
    assert answer(second) == wanted
    assert (second.reads, second.lost) == (0, [])
    assert os.listdir(tmp_path) == ["weights.packed"]


def test_the_layout_names_the_build_the_format_and_the_program(build: str, tmp_path: Path) -> None:
    keeper = Keeper(tmp_path)
    compiled(keeper).close()
    (layout,) = set(keeper.layouts)
    assert CASE.program.digest() in layout
    assert "stored" in layout


def test_another_rule_of_what_becomes_whole_is_another_layout(
    build: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keeper = Keeper(tmp_path)
    compiled(keeper).close()
    monkeypatch.setattr(weights, "formats", lambda program, weight_format: {"no such matrix": "int8"})
    compiled(keeper).close()
    assert len(set(keeper.layouts)) == 2


@pytest.mark.parametrize("where", [0, 12, 60, -2000, -1])
def test_any_damaged_byte_is_found_and_the_file_made_again(build: str, tmp_path: Path, where: int) -> None:
    wanted = answer(Keeper(tmp_path))
    path = tmp_path / "weights.packed"
    data = bytearray(path.read_bytes())
    if where == -1:  # the last byte may be padding: take one of the weights before it
        where = len(data) - 70
    data[where] ^= 0x10
    path.write_bytes(data)
    keeper = Keeper(tmp_path)
    assert answer(keeper) == wanted
    assert len(keeper.lost) == 1
    assert "made again" in keeper.lost[0]
    healed = Keeper(tmp_path)
    assert answer(healed) == wanted
    assert (healed.reads, healed.lost) == (0, [])


@pytest.mark.parametrize("length", [0, 5, 100, 5000])
def test_a_file_cut_short_is_made_again(build: str, tmp_path: Path, length: int) -> None:
    wanted = answer(Keeper(tmp_path))
    os.truncate(tmp_path / "weights.packed", length)
    keeper = Keeper(tmp_path)
    assert answer(keeper) == wanted
    assert len(keeper.lost) == 1


def test_a_file_of_other_weights_is_not_used(build: str, tmp_path: Path) -> None:
    compiled(Keeper(tmp_path)).close()
    backend = CpuDriver().open(DEVICE_ID, num_threads=1)
    with pytest.raises(packed_file.Unusable, match="other weights"):
        packed_file.read(tmp_path / "weights.packed", ["something"], "", backend.allocate, 1)  # type: ignore[arg-type]


def test_no_space_is_told_and_loading_goes_on(build: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = answer(Keeper(tmp_path))
    (tmp_path / "weights.packed").unlink()

    def full(*_: object) -> None:
        raise DiskFull("no space left on the disk of 'here'")

    monkeypatch.setattr(packed_file, "write", full)
    keeper = Keeper(tmp_path)
    assert answer(keeper) == wanted
    assert keeper.lost == ["packed weights are not kept: no space left on the disk of 'here'"]


def test_half_of_the_free_space_is_left(build: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed_file, "free_bytes", lambda _: 1000)
    keeper = Keeper(tmp_path)
    answer(keeper)
    assert "more than half" in keeper.lost[0]
    assert os.listdir(tmp_path) == []


def test_a_place_that_cannot_be_is_told(build: str, tmp_path: Path) -> None:
    keeper = Keeper(tmp_path / "nowhere")
    answer(keeper)
    assert "not kept" in keeper.lost[0]


def test_memory_is_given_back_when_a_file_is_no_use(build: str, tmp_path: Path) -> None:
    driver = CpuDriver()
    keeper = Keeper(tmp_path)
    driver.open(DEVICE_ID, num_threads=1).compile(CASE.program, keeper, LIMITS).close()
    layout = keeper.layouts[0]
    path = tmp_path / "weights.packed"
    data = bytearray(path.read_bytes())
    data[-70] ^= 1
    path.write_bytes(data)
    backend = driver.open(DEVICE_ID, num_threads=1)
    with pytest.raises(packed_file.Unusable, match="damaged"):
        packed_file.read(path, CASE.program.weights, layout, backend.allocate, 1)  # type: ignore[arg-type]
    assert driver.used_bytes == 0
