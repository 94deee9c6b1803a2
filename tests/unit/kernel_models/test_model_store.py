"""The store as its callers see it: import, find, replace, remove, verify, sweep."""

from __future__ import annotations

import hashlib
import json
import resource
import signal
from pathlib import Path

import pytest

from tests.models import make_model
from thaloom.base.clock import ManualClock
from thaloom.base.errors import (
    BadParameter,
    CorruptObject,
    ModelInUse,
    ModelNotFound,
    NameTaken,
    NotServable,
    StateUnusable,
)
from thaloom.base.events import Recorder
from thaloom.kernel.models.events import ManifestUnreadable, ModelImported, ModelRemoved, StoreSwept
from thaloom.kernel.models.store import ModelStore
from thaloom.kernel.models.types import CHUNK_BYTES, FileFault, Manifest, ModelName

CHUNK = 16384


@pytest.fixture
def events() -> Recorder:
    return Recorder()


@pytest.fixture
def store(tmp_path: Path, events: Recorder) -> ModelStore:
    return ModelStore(tmp_path / "store", ManualClock(1000.0), events, chunk_bytes=CHUNK)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return make_model(tmp_path / "small")


def objects(store: ModelStore) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (store.root / "objects").glob("*/*")}


def chunks(store: ModelStore, manifest: Manifest, path: str) -> list[Path]:
    tree = next(file.tree for file in manifest.files if file.path == path)
    folder = store.root / "objects"
    return [folder / name[:2] / name for name, _ in json.loads((folder / tree[:2] / tree).read_bytes())]


def events_of(events: Recorder, kind: type) -> list:  # type: ignore[type-arg]  # of `kind`
    return events.of(kind)


# -- import ----------------------------------------------------------------------------------------------------------


def test_an_imported_model_is_found_by_name(store: ModelStore, source: Path, events: Recorder) -> None:
    manifest = store.import_path(source, ModelName("m", "v1"))
    assert store.get("m:v1") == store.get(ModelName("m", "v1")) == manifest
    assert store.list() == [manifest]
    assert (manifest.created_at, manifest.source) == (1000.0, str(source))
    [told] = events_of(events, ModelImported)
    assert (told.model, told.num_bytes) == ("m:v1", manifest.total_bytes)


def test_every_file_is_kept_whole_with_its_plain_digest(store: ModelStore, source: Path) -> None:
    manifest = store.import_path(source)
    opened = store.open(manifest)
    for file in manifest.files:
        data = (source / file.path).read_bytes()
        assert opened.read_file(file.path) == data
        assert file.num_bytes == len(data)
        assert file.sha256 == hashlib.sha256(data).hexdigest()
        assert (store.root / "aliases" / file.sha256).read_text() == file.tree


def test_objects_are_named_by_their_digest_and_cut_to_size(store: ModelStore, source: Path) -> None:
    manifest = store.import_path(source)
    for name, data in objects(store).items():
        assert hashlib.sha256(data).hexdigest() == name
    parts = [path.stat().st_size for path in chunks(store, manifest, "model.safetensors")]
    assert set(parts[:-1]) == {CHUNK}
    assert 0 < parts[-1] <= CHUNK
    assert CHUNK_BYTES == 4 * 1024 * 1024


def test_an_empty_file_is_kept(store: ModelStore, source: Path) -> None:
    (source / "LICENSE").write_bytes(b"")
    assert store.open(store.import_path(source)).read_file("LICENSE") == b""
    assert store.verify("small").sound


def test_equal_files_are_kept_once(store: ModelStore, source: Path, tmp_path: Path) -> None:
    store.import_path(source, ModelName("a"))
    before = objects(store)
    again = store.import_path(source, ModelName("b"))
    assert objects(store) == before
    assert again.digest == store.get("a").digest
    other = make_model(tmp_path / "other", seed=1)
    store.import_path(other)
    assert set(objects(store)) > set(before)


def test_importing_the_same_again_changes_nothing(store: ModelStore, source: Path, events: Recorder) -> None:
    first = store.import_path(source)
    assert store.import_path(source) == first
    assert [told.written_bytes > 0 for told in events_of(events, ModelImported)] == [True, False]


def test_another_model_does_not_take_the_name_unasked(store: ModelStore, source: Path, tmp_path: Path) -> None:
    first = store.import_path(source, ModelName("m"))
    other = make_model(tmp_path / "other", seed=1)
    with pytest.raises(NameTaken, match="'m'"):
        store.import_path(other, ModelName("m"))
    assert store.get("m") == first
    kept = set(objects(store))
    second = store.import_path(other, ModelName("m"), replace=True)
    assert store.list() == [second]
    store.sweep()
    assert not kept <= set(objects(store)), "what the old model alone needed is gone"
    assert store.verify("m").sound


def test_another_model_is_refused_before_its_bytes_are_read(
    store: ModelStore, source: Path, tmp_path: Path, events: Recorder
) -> None:
    store.import_path(source, ModelName("m"))
    other = make_model(tmp_path / "other", hidden_size=64, head_dim=16)
    with pytest.raises(NameTaken):
        store.import_path(other, ModelName("m"), progress=lambda done, total: pytest.fail("bytes were read"))
    assert store.verify("m").sound


def test_a_refused_import_leaves_no_object(store: ModelStore, source: Path, tmp_path: Path) -> None:
    store.import_path(source, ModelName("m"))
    before = objects(store)
    with pytest.raises(NameTaken):
        store.import_path(make_model(tmp_path / "other", seed=1), ModelName("m"))
    assert objects(store) == before


def test_giving_up_in_the_middle_leaves_nothing(store: ModelStore, source: Path) -> None:
    def give_up(done: int, total: int) -> None:
        if done > total / 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.import_path(source, progress=give_up)
    assert objects(store) == {}
    assert store.list() == []


def test_progress_reaches_the_end(store: ModelStore, source: Path) -> None:
    seen: list[tuple[int, int]] = []
    manifest = store.import_path(source, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (manifest.total_bytes, manifest.total_bytes)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("Tiny", "tiny"),
        ("Qwen2.5 0.5B (instruct)", "qwen2.5-0.5b-instruct"),
        ("_x_", "x"),
        ("a..b", "a.b"),
        ("x" * 200, "x" * 63),
    ],
)
def test_a_name_is_made_from_the_folder(path: str, name: str, store: ModelStore, tmp_path: Path) -> None:
    assert str(store.import_path(make_model(tmp_path / path, with_tokenizer=False)).name) == name


def test_a_name_is_made_from_the_file(store: ModelStore, source: Path) -> None:
    assert str(store.import_path(source / "model.safetensors").name) == "small"
    (source / "model.safetensors").rename(source / "Weights-V2.safetensors")
    assert str(store.import_path(source / "Weights-V2.safetensors").name) == "weights-v2"


def test_a_folder_of_which_no_name_can_be_made_asks_for_one(store: ModelStore, tmp_path: Path) -> None:
    with pytest.raises(BadParameter, match="give one") as caught:
        store.import_path(make_model(tmp_path / "模型"))
    assert caught.value.param == "name"


# -- find ------------------------------------------------------------------------------------------------------------


def test_an_unknown_model_is_refused_with_similar_names(store: ModelStore, source: Path) -> None:
    with pytest.raises(ModelNotFound, match="there are: none"):
        store.get("tiny")
    for name in ("tiny", "tiny:v2", "other"):
        store.import_path(source, ModelName.parse(name))
    with pytest.raises(ModelNotFound, match="did you mean 'tiny'") as caught:
        store.get("tinny")
    assert caught.value.details["near"][0] == "tiny"
    with pytest.raises(ModelNotFound, match="'tiny:v2'"):
        store.get("tiny:v3")
    with pytest.raises(ModelNotFound, match="there are: other, tiny, tiny:v2"):
        store.get("zzz")


@pytest.mark.parametrize("name", ["../m", "M", "", "a:b:c", "a/b", "a:..", "a..b"])
def test_what_is_no_name_is_refused(name: str, store: ModelStore) -> None:
    with pytest.raises(BadParameter):
        store.get(name)


def test_a_store_that_was_never_used_is_empty_and_not_made(store: ModelStore) -> None:
    assert store.list() == []
    assert store.sweep() is not None
    assert not store.root.exists()


def test_foreign_files_among_the_manifests_do_no_harm(store: ModelStore, source: Path) -> None:
    store.import_path(source)
    (store.root / "manifests" / "UPPER").mkdir()
    (store.root / "manifests" / "UPPER" / "x.json").write_text("{}")
    assert [str(manifest.name) for manifest in store.list()] == ["small"]


def test_a_damaged_manifest_is_told_and_hides_only_its_model(store: ModelStore, source: Path, events: Recorder) -> None:
    store.import_path(source, ModelName("good"))
    store.import_path(source, ModelName("bad"))
    (store.root / "manifests" / "bad" / "latest.json").write_text("{")
    assert [str(manifest.name) for manifest in store.list()] == ["good"]
    assert len(events_of(events, ManifestUnreadable)) == 1
    with pytest.raises(CorruptObject, match="'bad'"):
        store.get("bad")


# -- read ------------------------------------------------------------------------------------------------------------


def test_a_stored_model_gives_its_config_and_copies(store: ModelStore, source: Path, tmp_path: Path) -> None:
    opened = store.open(store.import_path(source))
    assert opened.config() == json.loads((source / "config.json").read_text())
    assert opened.has("tokenizer.json")
    assert not opened.has("no.json")
    opened.copy_file("tokenizer.json", tmp_path / "copy.json")
    assert (tmp_path / "copy.json").read_bytes() == (source / "tokenizer.json").read_bytes()


def test_a_file_the_model_does_not_have_is_refused(store: ModelStore, source: Path, tmp_path: Path) -> None:
    (source / "config.json").unlink()
    opened = store.open(store.import_path(source))
    for act in (opened.config, lambda: opened.copy_file("config.json", tmp_path / "c"), opened.config):
        with pytest.raises(NotServable, match=r"'config\.json'"):
            act()
    assert not (tmp_path / "c").exists()


def test_a_damaged_file_is_refused_by_name_and_not_copied(store: ModelStore, source: Path, tmp_path: Path) -> None:
    manifest = store.import_path(source)
    chunks(store, manifest, "tokenizer.json")[0].write_bytes(b"x")
    with pytest.raises(CorruptObject, match=r"'tokenizer\.json' of model 'small' is truncated"):
        store.open(manifest).copy_file("tokenizer.json", tmp_path / "copy.json")
    assert list(tmp_path.glob("copy*")) == []


# -- verify ----------------------------------------------------------------------------------------------------------


def test_a_sound_model_verifies(store: ModelStore, source: Path) -> None:
    manifest = store.import_path(source)
    seen: list[int] = []
    result = store.verify("small", lambda done, total: seen.append(done))
    assert result.sound
    assert result.checked_bytes == seen[-1] == manifest.total_bytes


def test_each_kind_of_damage_is_named_by_file(store: ModelStore, source: Path) -> None:
    manifest = store.import_path(source)
    first = {file.path: chunks(store, manifest, file.path)[0] for file in manifest.files}
    first["config.json"].unlink()
    data = first["tokenizer.json"].read_bytes()
    first["tokenizer.json"].write_bytes(b"#" + data[1:])
    first["tokenizer_config.json"].write_bytes(first["tokenizer_config.json"].read_bytes()[:-1])
    first["generation_config.json"].write_bytes(first["generation_config.json"].read_bytes() + b"\n")
    first["model.safetensors"].unlink()
    first["model.safetensors"].mkdir()
    result = store.verify("small")
    assert {fault.path: fault.problem for fault in result.faults} == {
        "config.json": "missing",
        "tokenizer.json": "altered",
        "tokenizer_config.json": "truncated",
        "generation_config.json": "altered",
        "model.safetensors": "unreadable",
    }
    assert not result.sound


def test_a_damaged_tree_is_named_by_file(store: ModelStore, source: Path) -> None:
    manifest = store.import_path(source)
    tree = next(file.tree for file in manifest.files if file.path == "config.json")
    (store.root / "objects" / tree[:2] / tree).write_text("[]")
    [fault] = store.verify("small").faults
    assert isinstance(fault, FileFault)
    assert (fault.path, fault.problem) == ("config.json", "altered")


@pytest.mark.parametrize("damage", ["remove", "truncate", "alter"])
def test_importing_again_heals_a_damaged_model(damage: str, store: ModelStore, source: Path) -> None:
    manifest = store.import_path(source)
    victim = chunks(store, manifest, "model.safetensors")[2]
    data = victim.read_bytes()
    if damage == "remove":
        victim.unlink()
    else:
        victim.write_bytes(data[:-1] if damage == "truncate" else b"?" + data[1:])
    assert not store.verify("small").sound
    store.import_path(source)
    assert store.verify("small").sound


def test_importing_again_heals_a_damaged_manifest(store: ModelStore, source: Path) -> None:
    manifest = store.import_path(source)
    (store.root / "manifests" / "small" / "latest.json").write_text("{")
    store.import_path(source)
    assert store.get("small") == manifest


def test_an_unknown_model_cannot_be_verified(store: ModelStore) -> None:
    with pytest.raises(ModelNotFound):
        store.verify("tiny")


# -- remove and sweep ------------------------------------------------------------------------------------------------


def test_removing_deletes_what_no_other_needs(
    store: ModelStore, source: Path, tmp_path: Path, events: Recorder
) -> None:
    store.import_path(source, ModelName("a"))
    alone = objects(store)
    store.import_path(make_model(tmp_path / "other", seed=1), ModelName("b"))
    swept = store.remove("b")
    assert swept.complete
    assert swept.freed_bytes > 0
    assert objects(store) == alone
    assert [str(manifest.name) for manifest in store.list()] == ["a"]
    assert store.verify("a").sound
    assert [told.model for told in events_of(events, ModelRemoved)] == ["b"]
    assert len(events_of(events, StoreSwept)) == 1
    store.remove("a")
    assert objects(store) == {}
    assert list((store.root / "aliases").iterdir()) == []
    assert list((store.root / "manifests").iterdir()) == []


def test_one_tag_may_go_while_another_stays(store: ModelStore, source: Path) -> None:
    store.import_path(source, ModelName("m", "a"))
    store.import_path(source, ModelName("m", "b"))
    store.remove("m:a")
    assert store.verify("m:b").sound


def test_a_second_name_shares_every_byte_and_outlives_the_first(
    store: ModelStore, source: Path, tmp_path: Path
) -> None:
    first = store.import_path(source, ModelName("m"))
    before = objects(store)
    second = store.copy(ModelName("m"), ModelName("n", "v2"))
    assert (second.digest, second.card, second.files) == (first.digest, first.card, first.files)
    assert objects(store) == before
    store.remove("m")
    assert store.verify("n:v2").sound
    with pytest.raises(ModelNotFound):
        store.copy(ModelName("m"), ModelName("x"))
    (source / "extra.json").write_text("{}")
    store.import_path(source, ModelName("other"))
    with pytest.raises(NameTaken):
        store.copy(ModelName("n", "v2"), ModelName("other"))
    assert store.copy(ModelName("n", "v2"), ModelName("other"), replace=True).digest == first.digest
    assert store.get("other").digest == first.digest


def test_an_unknown_model_cannot_be_removed(store: ModelStore, source: Path) -> None:
    with pytest.raises(ModelNotFound):
        store.remove("tiny")
    store.import_path(source)
    store.remove("small")
    with pytest.raises(ModelNotFound):
        store.remove("small")


def test_a_model_in_use_is_not_removed(store: ModelStore, source: Path) -> None:
    manifest = store.import_path(source)
    with pytest.raises(ModelInUse, match="'small'"):
        store.remove("small", in_use=lambda asked: asked == manifest)
    assert store.verify("small").sound
    store.remove("small", in_use=lambda asked: False)


def test_a_model_with_a_damaged_manifest_can_be_removed(store: ModelStore, source: Path) -> None:
    store.import_path(source)
    (store.root / "manifests" / "small" / "latest.json").write_text("{")
    assert store.remove("small").complete
    assert objects(store) == {}


def test_a_sweep_takes_leftovers_and_nothing_else(store: ModelStore, source: Path) -> None:
    manifest = store.import_path(source)
    before = objects(store)
    folder = store.root / "objects" / "00"
    folder.mkdir(exist_ok=True)
    (folder / f"{'0' * 64}.99.1.partial").write_bytes(b"half")
    (folder / ("0" * 64)).write_bytes(b"nobody's")
    (store.root / "aliases" / ("0" * 64)).write_text("0" * 64)
    (store.root / "manifests" / "small" / "latest.json.99.1.partial").write_text("{")
    swept = store.sweep()
    assert swept is not None
    assert (swept.num_files, swept.complete) == (4, True)
    assert objects(store) == before
    assert store.get("small") == manifest
    again = store.sweep()
    assert again is not None
    assert again.num_files == 0


@pytest.mark.parametrize("damage", ["manifest", "tree"])
def test_a_sweep_that_cannot_know_what_is_needed_deletes_only_leftovers(
    damage: str, store: ModelStore, source: Path, tmp_path: Path, events: Recorder
) -> None:
    manifest = store.import_path(source)
    store.import_path(make_model(tmp_path / "other", seed=1))
    if damage == "manifest":
        (store.root / "manifests" / "small" / "latest.json").write_text("{")
    else:
        tree = next(file.tree for file in manifest.files if file.path == "model.safetensors")
        (store.root / "objects" / tree[:2] / tree).unlink()
    before = objects(store)
    (store.root / "objects" / "00").mkdir(exist_ok=True)
    (store.root / "objects" / "00" / "x.partial").write_bytes(b"half")
    swept = store.sweep()
    assert swept is not None
    assert (swept.num_files, swept.complete) == (1, False)
    assert objects(store) == before
    assert events_of(events, ManifestUnreadable)
    store.remove("small")
    assert store.verify("other").sound


def test_a_store_that_cannot_be_written_says_so_and_not_that_the_model_is_wrong(source: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StateUnusable, match="store"):
        ModelStore(tmp_path / "file" / "store", ManualClock()).import_path(source, ModelName("m"))


def test_a_limit_on_the_size_of_files_leaves_nothing_half_written(store: ModelStore, source: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    signals = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(StateUnusable, match="File too large"):
            store.import_path(source, ModelName("m"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, signals)
    assert store.list() == []
    assert list(store.root.rglob("*.partial")) == []
