"""A store of tiers against a dictionary: any order of calls and of faults, invariants after each."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from thaloom.kernel.memory.tiers.store import TieredStore
from thaloom.kernel.memory.tiers.types import UNIT_BYTES, whole_units

LONG_S = 30.0
HOST, DISK = 8 * UNIT_BYTES, 12 * UNIT_BYTES
KEYS = st.integers(0, 9).map(lambda number: b"%d" % number)
WORTHS = st.sampled_from([0.0, 1.0, 5.0])


class Tiers(RuleBasedStateMachine):
    """What is read is what was put last, or nothing; whatever is to be kept is there until it is dropped or
    damaged. Moves go on behind between the steps, as quickly as they like."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.store = TieredStore(host_bytes=HOST, disk=self.folder, disk_bytes=DISK)
        self.put_last: dict[bytes, bytes] = {}
        self.kept: set[bytes] = set()
        self.num_puts = 0

    def teardown(self) -> None:
        self.store.close()
        assert [path.name for path in self.folder.iterdir()] == ["lock"]
        shutil.rmtree(self.folder)

    @rule(key=KEYS, num_bytes=st.integers(0, 5 * UNIT_BYTES), worth=WORTHS, keep=st.booleans(), waits=st.booleans())
    def put(self, key: bytes, num_bytes: int, worth: float, keep: bool, waits: bool) -> None:
        self.num_puts += 1
        data = bytes([self.num_puts % 256]) * num_bytes
        self.kept.discard(key)
        if self.store.put(key, data, worth=worth, keep=keep, wait_s=LONG_S * waits):
            self.put_last[key] = data
            if keep:
                self.kept.add(key)
        else:
            assert self.store.where(key) is None
            self.put_last.pop(key, None)

    @rule(key=KEYS)
    def read(self, key: bytes) -> None:
        wanted = self.put_last.get(key, b"")
        into = bytearray(len(wanted))
        if self.store.read(key, memoryview(into)):
            assert bytes(into) == wanted
        else:
            assert key not in self.kept
            self.put_last.pop(key, None)

    @rule(keys=st.lists(KEYS, max_size=4))
    def prefetch(self, keys: list[bytes]) -> None:
        self.store.prefetch(keys)

    @rule(key=KEYS)
    def drop(self, key: bytes) -> None:
        self.store.drop(key)
        self.kept.discard(key)
        self.put_last.pop(key, None)
        assert self.store.where(key) is None

    @rule()
    def settle(self) -> None:
        assert self.store.settle(LONG_S)
        taken = sum(whole_units(path.stat().st_size) for path in self.folder.glob("*.tier"))
        assert taken <= self.store.held().disk_bytes  # less where somebody removed a file

    @rule(remove=st.booleans(), which=st.integers(0, 20))
    def damage(self, remove: bool, which: int) -> None:
        self.settle()
        files = sorted(self.folder.glob("*.tier"))
        if files:
            path = files[which % len(files)]
            if remove:
                path.unlink()
            else:
                path.write_bytes(bytes(byte ^ 1 for byte in path.read_bytes()))
            self.kept.clear()  # any of them may have been the one

    @invariant()
    def holds(self) -> None:
        self.store.check()
        held = self.store.held()
        assert held.host_bytes <= HOST
        assert held.disk_bytes <= DISK
        for key in self.kept:
            assert self.store.where(key) is not None, "what was to be kept was given up"


Tiers.TestCase.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
TestTiers = Tiers.TestCase
