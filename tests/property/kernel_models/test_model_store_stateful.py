"""Any order of imports, removals, broken imports and sweeps: every model in the store stays whole, and nothing else."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.models import encode_safetensors
from thaloom.base.clock import ManualClock
from thaloom.base.errors import ModelNotFound, NameTaken
from thaloom.hal.tensors import Tensor
from thaloom.kernel.models.reading import StoredModel
from thaloom.kernel.models.store import ModelStore
from thaloom.kernel.models.trees import read_tree
from thaloom.kernel.models.types import Manifest, ModelName

CHUNK = 256
names = st.sampled_from([ModelName("a"), ModelName("b"), ModelName("b", "v2")])
# Blocks of one chunk each, so that models of different lengths share most of their chunks.
contents = st.lists(st.integers(0, 3), min_size=1, max_size=4)


def write_source(folder: Path, blocks: list[int]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    values = np.zeros(64, np.float32)
    (folder / "model.safetensors").write_bytes(encode_safetensors({"w": Tensor("f32", values)}))
    (folder / "notes.txt").write_bytes(b"".join(bytes([block]) * CHUNK for block in blocks))


class GivenUp(Exception):
    pass


class StoreMachine(RuleBasedStateMachine):
    @initialize()
    def start(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.store = ModelStore(self.folder / "store", ManualClock(), chunk_bytes=CHUNK)
        self.expected: dict[ModelName, list[int]] = {}
        self.reading: list[tuple[StoredModel, object, list[int]]] = []

    def teardown(self) -> None:
        shutil.rmtree(self.folder)

    def source(self, blocks: list[int]) -> Path:
        folder = self.folder / "sources" / "-".join(map(str, blocks))
        write_source(folder, blocks)
        return folder

    @rule(name=names, blocks=contents, replace=st.booleans())
    def take(self, name: ModelName, blocks: list[int], replace: bool) -> None:
        taken = name in self.expected and self.expected[name] != blocks and not replace
        try:
            self.store.import_path(self.source(blocks), name, replace=replace)
        except NameTaken:
            assert taken
        else:
            assert not taken
            self.expected[name] = blocks

    @rule(name=names, blocks=contents, after=st.integers(0, 1500))
    def give_up_taking(self, name: ModelName, blocks: list[int], after: int) -> None:
        def progress(done: int, total: int) -> None:
            if done >= min(after, total):
                raise GivenUp

        with pytest.raises(GivenUp):
            self.store.import_path(self.source(blocks), name, replace=True, progress=progress)

    @rule(name=names)
    def remove(self, name: ModelName) -> None:
        try:
            self.store.remove(name)
        except ModelNotFound:
            assert name not in self.expected
        else:
            del self.expected[name]

    @rule(name=names)
    def begin_reading(self, name: ModelName) -> None:
        if name in self.expected and len(self.reading) < 2:
            opened = self.store.open(self.store.get(name))
            self.reading.append((opened, opened.weights(), self.expected[name]))

    @rule()
    def end_reading(self) -> None:
        if self.reading:
            opened, reader, blocks = self.reading.pop()
            assert opened.read_file("notes.txt") == b"".join(bytes([block]) * CHUNK for block in blocks)
            reader.close()  # type: ignore[attr-defined]  # a WeightReader

    @rule()
    def sweep(self) -> None:
        swept = self.store.sweep()
        assert (swept is None) == bool(self.reading)
        if swept is not None:
            assert swept.complete
            assert {path.name for path in (self.store.root / "objects").glob("*/*")} == self.needed()

    def needed(self) -> set[str]:
        trees = {file.tree for manifest in self.store.list() for file in manifest.files}
        chunks = {chunk.digest for tree in trees for chunk in read_tree(self.store._objects, tree).chunks}
        return {*trees, *chunks}

    @invariant()
    def every_model_is_whole(self) -> None:
        if not hasattr(self, "store"):
            return
        assert {manifest.name for manifest in self.store.list()} == set(self.expected)
        for name, blocks in self.expected.items():
            assert self.store.verify(name).sound
            notes = self.store.open(self.store.get(name)).read_file("notes.txt")
            assert notes == b"".join(bytes([block]) * CHUNK for block in blocks)


StoreMachine.TestCase.settings = settings(
    max_examples=25, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck)
)
test_any_order_of_acts_keeps_models_whole = StoreMachine.TestCase


@pytest.fixture(scope="module")
def two_models(tmp_path_factory: pytest.TempPathFactory) -> tuple[ModelStore, list[Manifest]]:
    folder = tmp_path_factory.mktemp("flip")
    store = ModelStore(folder / "store", ManualClock(), chunk_bytes=CHUNK)
    for name, blocks in (("a", [0, 1, 2]), ("b", [2, 3])):
        write_source(folder / name, blocks)
        store.import_path(folder / name)
    return store, store.list()


@given(data=st.data())
@settings(max_examples=150)
def test_any_flipped_bit_is_found_and_the_file_named(
    two_models: tuple[ModelStore, list[Manifest]], data: st.DataObject
) -> None:
    store, manifests = two_models
    victim = data.draw(st.sampled_from(sorted((store.root / "objects").glob("*/*"))))
    whole = victim.read_bytes()
    at = data.draw(st.integers(0, len(whole) * 8 - 1))
    harmed = {
        (manifest.name, file.path)
        for manifest in manifests
        for file in manifest.files
        if victim.name == file.tree
        or victim.name in {chunk.digest for chunk in read_tree(store._objects, file.tree).chunks}
    }
    assert harmed
    flipped = bytearray(whole)
    flipped[at // 8] ^= 1 << (at % 8)
    with contextlib.ExitStack() as stack:
        stack.callback(victim.write_bytes, whole)
        victim.write_bytes(flipped)
        found = {
            (manifest.name, fault.path)
            for manifest in manifests
            for fault in store.verify(manifest.name).faults
            if fault.problem == "altered"
        }
    assert found == harmed
