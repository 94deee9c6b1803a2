"""Models in cipher: nothing of them lies on the disk in plain, everything reads as before, and harm is found."""

from __future__ import annotations

import contextlib
import json
import threading
from pathlib import Path

import numpy as np
import pytest

from tests.encrypted import a_key
from tests.killing import Step, killed_at
from tests.models import make_model
from thaloom.base.clock import ManualClock
from thaloom.base.errors import CorruptObject, EncryptionKeyMissing, EncryptionKeyWrong, NameTaken, RevisionConflict
from thaloom.base.plugins import Registry
from thaloom.hal.driver import KeepsPacked, SharesPacked
from thaloom.kernel.models.store import ModelStore
from thaloom.kernel.models.types import Manifest, ModelName
from thaloom.kernel.trust.sealed import StoreKey
from thaloom.work.runtime.architectures import Architecture, select
from thaloom.work.runtime.worker.loading import checked_weights

CHUNK = 16384


@pytest.fixture
def key() -> StoreKey:
    return a_key()


@pytest.fixture
def store(tmp_path: Path, key: StoreKey) -> ModelStore:
    return ModelStore(tmp_path / "store", ManualClock(1000.0), chunk_bytes=CHUNK, key=lambda: key)


@pytest.fixture
def keyless(store: ModelStore) -> ModelStore:
    return ModelStore(store.root, ManualClock(), chunk_bytes=CHUNK)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return make_model(tmp_path / "small")


def stored(store: ModelStore) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (store.root / "objects").glob("*/*")}


def chunks_of(store: ModelStore, manifest: Manifest) -> set[str]:
    found = stored(store)
    return {name for file in manifest.files for name, _ in json.loads(found[file.tree])}


def tensors(store: ModelStore, name: str) -> dict[str, bytes]:
    with contextlib.closing(store.open(store.get(name)).weights()) as weights:
        return {tensor: np.asarray(weights.read(tensor).data).tobytes() for tensor in weights.names()}


def lies_in_plain(store: ModelStore, source: Path) -> set[str]:
    """Files of the source of which a piece is anywhere below the store."""
    everything = b"".join(path.read_bytes() for path in store.root.rglob("*") if path.is_file())
    return {
        path.name
        for path in source.iterdir()
        if any(path.read_bytes()[at : at + 48] in everything for at in (0, path.stat().st_size // 2))
    }


def test_an_encrypted_model_reads_as_a_plain_one_and_lies_nowhere_in_plain(
    store: ModelStore, source: Path, tmp_path: Path
) -> None:
    plain = ModelStore(tmp_path / "plain", ManualClock(), chunk_bytes=CHUNK)
    plain.import_path(source)
    manifest = store.import_path(source, encrypt=True)
    assert manifest.encrypted
    assert store.get("small") == manifest
    assert manifest.digest == plain.get("small").digest, "content addressing stays over the bytes themselves"
    assert lies_in_plain(plain, source)
    assert not lies_in_plain(store, source)
    assert tensors(store, "small") == tensors(plain, "small")
    assert store.open(manifest).config() == plain.open(plain.get("small")).config()
    assert store.verify("small").sound


def test_any_part_of_a_file_is_handed_out(store: ModelStore, source: Path) -> None:
    manifest = store.import_path(source, encrypt=True)
    entry = next(file for file in manifest.files if file.path == "model.safetensors")
    data = (source / "model.safetensors").read_bytes()
    with contextlib.closing(store.open_file(manifest, entry)) as file:
        assert b"".join(file.pieces(0, entry.num_bytes)) == data
        assert b"".join(file.pieces(CHUNK - 5, 2 * CHUNK + 5)) == data[CHUNK - 5 : 2 * CHUNK + 5]


def test_without_a_key_it_is_refused_by_name_and_still_swept_and_removed(
    store: ModelStore, keyless: ModelStore, source: Path
) -> None:
    manifest = store.import_path(source, encrypt=True)
    for attempt in (
        lambda: keyless.open(manifest).config(),
        lambda: keyless.open(manifest).weights(),
        lambda: keyless.verify("small"),
        lambda: keyless.import_path(source, ModelName("other"), encrypt=True),
        lambda: keyless.convert(ModelName("small"), encrypted=False),
    ):
        with pytest.raises(EncryptionKeyMissing):
            attempt()
    assert [found.name for found in keyless.list()] == [manifest.name]
    before = stored(store)
    assert keyless.sweep() is not None
    assert stored(store) == before
    keyless.remove("small")
    assert stored(store) == {}


def test_another_key_is_named(store: ModelStore, source: Path) -> None:
    store.import_path(source, encrypt=True)
    other = a_key(b"another ring 000")
    wrong = ModelStore(store.root, ManualClock(), chunk_bytes=CHUNK, key=lambda: other)
    with pytest.raises(EncryptionKeyWrong, match="key ring"):
        wrong.verify("small")


@pytest.mark.parametrize("harm", ["flipped", "cut", "gone", "swapped", "plain"])
def test_a_harmed_object_is_found_by_reading_and_by_verify(harm: str, store: ModelStore, source: Path) -> None:
    manifest = store.import_path(source, encrypt=True)
    entry = next(file for file in manifest.files if file.path == "model.safetensors")
    folder = store.root / "objects"
    names = [name for name, _ in json.loads((folder / entry.tree[:2] / entry.tree).read_bytes())]
    first, second = (folder / name[:2] / f"{name}.sealed" for name in names[:2])
    sound = first.read_bytes()
    if harm == "gone":
        first.unlink()
    else:
        first.write_bytes(
            {
                "flipped": sound[:-20] + bytes([sound[-20] ^ 1]) + sound[-19:],
                "cut": sound[:-1],
                "swapped": second.read_bytes(),
                "plain": (source / "model.safetensors").read_bytes()[:CHUNK],
            }[harm]
        )
    fault = store.verify("small").faults
    assert [found.path for found in fault] == ["model.safetensors"]
    assert fault[0].problem == ("missing" if harm == "gone" else "altered")
    with pytest.raises(CorruptObject, match=r"model\.safetensors"):
        tensors(store, "small")
    store.import_path(source, encrypt=True)
    assert store.verify("small").sound, "importing again heals it"


def test_equal_chunks_are_kept_once_in_each_form(store: ModelStore, source: Path) -> None:
    first = store.import_path(source, encrypt=True)
    before = stored(store)
    second = store.import_path(source, ModelName("again"), encrypt=True)
    assert stored(store) == before, "deduplicated, and not even sealed anew"
    store.import_path(source, ModelName("plain"))
    assert first.files == second.files
    names = chunks_of(store, first)
    assert names <= stored(store).keys()
    assert {f"{name}.sealed" for name in names} <= stored(store).keys()
    store.remove("plain")
    assert stored(store) == before
    store.remove("small")
    assert stored(store) == before
    store.remove("again")
    assert stored(store) == {}


def test_a_model_is_encrypted_and_decrypted_in_its_place(store: ModelStore, source: Path) -> None:
    plain = store.import_path(source)
    expected, before = tensors(store, "small"), stored(store)
    sealed = store.convert(ModelName("small"), encrypted=True)
    assert sealed.encrypted
    assert (sealed.digest, sealed.files, sealed.name) == (plain.digest, plain.files, plain.name)
    assert not lies_in_plain(store, source)
    assert tensors(store, "small") == expected
    assert store.convert(ModelName("small"), encrypted=True) == sealed, "a second time changes nothing"
    opened = store.convert(ModelName("small"), encrypted=False)
    assert not opened.encrypted
    assert stored(store) == before


def test_a_converted_copy_leaves_the_original(store: ModelStore, source: Path) -> None:
    store.import_path(source)
    store.convert(ModelName("small"), ModelName("sealed"), encrypted=True)
    assert [(str(model.name), model.encrypted) for model in store.list()] == [("sealed", True), ("small", False)]
    assert tensors(store, "sealed") == tensors(store, "small")


def test_another_model_of_that_name_is_not_taken(store: ModelStore, source: Path, tmp_path: Path) -> None:
    store.import_path(source)
    store.import_path(make_model(tmp_path / "other", seed=5))
    before = stored(store)
    with pytest.raises(NameTaken):
        store.convert(ModelName("small"), ModelName("other"), encrypted=True)
    assert stored(store) == before
    assert store.convert(ModelName("small"), ModelName("other"), encrypted=True, replace=True).encrypted


def test_a_model_that_is_encrypted_never_becomes_plain_by_being_imported_or_copied(
    store: ModelStore, source: Path
) -> None:
    store.import_path(source, encrypt=True)
    assert store.import_path(source).encrypted
    store.import_path(source, ModelName("plain"))
    with pytest.raises(NameTaken):
        store.copy(ModelName("plain"), ModelName("small"))
    assert store.copy(ModelName("small"), ModelName("second")).encrypted
    store.remove("plain")
    assert not lies_in_plain(store, source)


def test_a_model_that_changed_meanwhile_is_left_as_it_is_now(store: ModelStore, source: Path, tmp_path: Path) -> None:
    store.import_path(source)
    other = make_model(tmp_path / "other", seed=5)
    changed = threading.Event()

    def meanwhile(done: int, total: int) -> None:
        if not changed.is_set():
            changed.set()
            thread = threading.Thread(
                target=store.import_path, args=(other, ModelName("small")), kwargs={"replace": True}
            )
            thread.start()
            thread.join()

    with pytest.raises(RevisionConflict):
        store.convert(ModelName("small"), encrypted=True, progress=meanwhile)
    assert not store.get("small").encrypted
    assert store.verify("small").sound


def test_nothing_of_an_encrypted_model_is_kept_packed(store: ModelStore, source: Path) -> None:
    manifest = store.import_path(source)
    packed = store.packed.path(manifest.digest, "a layout")
    packed.write_bytes(b"weights, packed")
    store.sweep()
    assert packed.exists()
    sealed = store.convert(ModelName("small"), encrypted=True)
    assert not packed.exists()
    architectures: Registry[Architecture] = Registry("architecture")
    architectures.discover()
    model = store.open(sealed)
    program = select(architectures, model.config()).build(model.config())
    for found, kept in ((manifest, True), (sealed, False)):
        with contextlib.closing(model.weights()) as weights:
            source_of = checked_weights(weights, program, found, threading.Event(), store)
            assert isinstance(source_of, KeepsPacked) is kept
            assert isinstance(source_of, SharesPacked) is kept


def test_a_manifest_of_an_encrypted_model_is_no_manifest_to_an_older_thaloom(store: ModelStore, source: Path) -> None:
    store.import_path(source, encrypt=True)
    store.import_path(source, ModelName("plain"))
    sealed, plain = (
        json.loads((store.root / "manifests" / name / "latest.json").read_text()) for name in ("small", "plain")
    )
    assert sealed["version"] == 2
    assert plain["version"] == 1
    assert "encrypted" not in plain


def test_a_kill_while_encrypting_leaves_the_plain_model_or_the_encrypted_one(store: ModelStore, source: Path) -> None:
    """Killed after each chunk in turn, and before the name changes hands."""
    plain = store.import_path(source)
    expected = tensors(store, "small")
    name = ModelName("small")
    num_kills = 0

    def encrypt(step: Step) -> None:
        store.convert(name, encrypted=True, progress=lambda done, total: step(str(done)))

    while killed_at(num_kills, encrypt) is not None:
        assert store.get(name) == plain
        assert tensors(store, "small") == expected
        assert store.verify(name).sound
        num_kills += 1
    assert tensors(store, "small") == expected
    assert num_kills > len(plain.files)
    assert store.get("small").encrypted
    store.sweep()
    assert not lies_in_plain(store, source)
