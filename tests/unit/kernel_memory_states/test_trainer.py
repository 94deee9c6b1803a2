"""A trainer whose states are several times as large as its slice learns what one learns that has all in memory."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.unit.kernel_memory_states.trainer import PARTS, InMemory, Perceptron, Uses
from thaloom.base.units import MIB
from thaloom.hal.host import HostBuffer
from thaloom.kernel.memory.states.states import States
from thaloom.kernel.memory.tiers.store import TieredStore

MODEL = Perceptron(width=128, depth=6, rows=32)
STEPS = 6


def outcome(states: Uses) -> tuple[list[float], list[bytes]]:
    MODEL.begin(states)
    losses = MODEL.train(states, STEPS)
    return losses, [states.get(f"{part} {i}").tobytes() for i in range(MODEL.depth) for part in PARTS]


@pytest.fixture(scope="module")
def in_memory() -> tuple[list[float], list[bytes]]:
    return outcome(InMemory(MODEL.arrays(), MODEL.schedule()))


@pytest.mark.parametrize("use_slices", [1, 2])
@pytest.mark.parametrize("host_bytes", [MIB // 2, MIB, 2 * MIB])
def test_to_the_last_bit_what_one_with_all_in_memory_learns(
    tmp_path: Path, in_memory: tuple[list[float], list[bytes]], host_bytes: int, use_slices: int
) -> None:
    total = sum(array.num_bytes for array in MODEL.arrays().values())
    memory = HostBuffer(use_slices * (3 * 64 + 16) * 1024, lambda _: None)
    assert total >= 3 * memory.num_bytes
    store = TieredStore(host_bytes=host_bytes, disk=tmp_path, disk_bytes=2 * MIB)
    states = States(MODEL.arrays(), MODEL.schedule(), memory=memory, store=store)
    assert outcome(states) == in_memory
    store.check()
    states.close()
    assert store.held().host_objects == store.held().disk_objects == 0 or store.settle(30.0)
    store.close()
    assert np.isfinite(in_memory[0]).all()
    assert in_memory[0][-1] < in_memory[0][0]


KILLED = """
import sys
from pathlib import Path
from tests.unit.kernel_memory_states.test_trainer import MODEL
from thaloom.base.units import MIB
from thaloom.hal.host import HostBuffer
from thaloom.kernel.memory.states.states import States
from thaloom.kernel.memory.tiers.store import TieredStore
store = TieredStore(host_bytes=MIB // 2, disk=Path(sys.argv[1]), disk_bytes=2 * MIB)
states = States(MODEL.arrays(), MODEL.schedule(), memory=HostBuffer(MIB // 2, lambda _: None), store=store)
MODEL.begin(states)
MODEL.train(states, 10_000, after=lambda step: print(step, flush=True) if step == 2 else None)
"""


def test_one_that_is_killed_in_the_middle_leaves_nothing_behind(tmp_path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", KILLED, tmp_path], stdout=subprocess.PIPE)
    assert child.stdout is not None
    with child, child.stdout:
        assert child.stdout.readline() == b"2\n"
        child.send_signal(signal.SIGKILL)
    assert list(tmp_path.glob("*.tier"))
    TieredStore(host_bytes=MIB, disk=tmp_path, disk_bytes=MIB).close()
    assert [path.name for path in tmp_path.iterdir()] == ["lock"]
