"""An engine over a real store of tiers: whatever happens to its disk is told, and nobody's answer is another one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.runtime.doubles import Bench, HistoryExecutable, ask, greedy, make_bench
from thaloom.base.events import Recorder
from thaloom.kernel.memory.tiers import disk
from thaloom.kernel.memory.tiers.events import DiskTierShort, TierObjectLost
from thaloom.kernel.memory.tiers.store import TieredStore
from thaloom.kernel.memory.tiers.types import UNIT_BYTES

HOST_BLOCKS, BLOCKS = 80, 12
"""Of these an eighth is kept free for what comes next: a whole prompt."""
NUM_PROMPTS = 16
PROMPT = 8 * 16 + 1


class Scene:
    """A pool for one prompt, a host that holds nine, and a disk for all."""

    def __init__(self, folder: Path) -> None:
        self.events = Recorder()
        self.folder = folder
        self.store = TieredStore(
            host_bytes=HOST_BLOCKS * UNIT_BYTES, disk=folder, disk_bytes=256 * UNIT_BYTES, emit=self.events
        )
        self.made: Bench = make_bench(HistoryExecutable(BLOCKS), num_blocks=BLOCKS, chunk_tokens=64, store=self.store)

    def ask(self, number: int) -> int:
        """What of the prompt was there already; the answer is right."""
        prompt = [number] * PROMPT
        ticket = self.made.submit(ask(prompt, 3))
        self.made.run()
        assert self.made.tokens(ticket) == greedy(prompt, 3)
        assert self.store.settle(10.0)
        self.store.check()
        return self.made.finished(ticket).cached_tokens

    def told(self, kind: type[object]) -> int:
        return sum(isinstance(event, kind) for event in self.events.events)


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    made = Scene(tmp_path / "tier")
    yield made
    made.store.close()


def test_prompts_come_back_from_the_disk(scene: Scene) -> None:
    for number in range(NUM_PROMPTS):
        assert scene.ask(number) == 0
    assert scene.store.held().disk_objects > 0
    assert scene.ask(0) == PROMPT - 1
    assert not scene.events.events


def test_a_disk_that_fills_up_is_told_once_and_the_service_goes_on(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk, "free_bytes", lambda _: 0)
    for number in [*range(NUM_PROMPTS), *range(NUM_PROMPTS)]:
        scene.ask(number)
    assert scene.told(DiskTierShort) == 1
    assert "must stay so" in (scene.store.short or "")
    assert scene.store.held().disk_objects == 0
    assert scene.ask(NUM_PROMPTS - 2) == PROMPT - 1, "the host has the latest still"


def test_damaged_files_are_told_and_computed_again(scene: Scene) -> None:
    for number in range(NUM_PROMPTS):
        scene.ask(number)
    for path in scene.folder.glob("*.tier"):
        path.write_bytes(b"\xff" * path.stat().st_size)
    for number in range(NUM_PROMPTS):
        scene.ask(number)
    assert scene.told(TierObjectLost) > 0


def test_a_folder_that_vanishes_is_told_and_computed_again(scene: Scene) -> None:
    for number in range(NUM_PROMPTS):
        scene.ask(number)
    for path in scene.folder.glob("*.tier"):
        path.unlink()
    for number in range(NUM_PROMPTS):
        scene.ask(number)
    assert scene.told(TierObjectLost) > 0
