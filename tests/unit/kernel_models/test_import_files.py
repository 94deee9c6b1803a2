"""Which files are taken from a folder, and every refusal on the way."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.models import encode_safetensors, make_model
from thaloom.base.clock import ManualClock
from thaloom.base.errors import (
    BadParameter,
    CorruptObject,
    DiskFull,
    MalformedFile,
    NotServable,
    ThaloomError,
    UnsafeFormat,
)
from thaloom.base.events import Recorder
from thaloom.hal.tensors import Tensor
from thaloom.kernel.models import import_files, importing, trees
from thaloom.kernel.models.events import FilesIgnored
from thaloom.kernel.models.store import ModelStore
from thaloom.kernel.models.types import Manifest, ModelName

INDEX = "model.safetensors.index.json"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_model(tmp_path / "source")


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    return make_model(tmp_path / "sharded", num_shards=3)


class Importer:
    def __init__(self, root: Path) -> None:
        self.events = Recorder()
        self.store = ModelStore(root, ManualClock(), self.events)

    def __call__(self, path: Path) -> Manifest:
        return self.store.import_path(path, ModelName("m"))

    def refused(self, kind: type[ThaloomError], path: Path) -> ThaloomError:
        with pytest.raises(kind) as caught:
            self(path)
        assert type(caught.value) is kind
        assert self.store.list() == []
        return caught.value

    def ignored(self) -> dict[str, tuple[str, ...]]:
        return {event.reason: event.files for event in self.events.of(FilesIgnored) if isinstance(event, FilesIgnored)}


@pytest.fixture
def take(tmp_path: Path) -> Importer:
    return Importer(tmp_path / "store")


def paths(manifest: Manifest) -> list[str]:
    return [file.path for file in manifest.files]


def edit_index(folder: Path, change: dict[str, Any]) -> None:
    index = json.loads((folder / INDEX).read_text())
    index["weight_map"] |= change
    (folder / INDEX).write_text(json.dumps(index))


def test_a_folder_gives_weights_and_the_small_files_beside_them(folder: Path, take: Importer) -> None:
    extra = ("LICENSE", "README.md", "MODEL_CARD.md", "chat_template.jinja", "special_tokens_map.json", "merges.txt")
    for name in extra:
        (folder / name).write_text("{}")
    always = ("config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
    assert paths(take(folder)) == sorted((*always, *extra))
    assert take.ignored() == {}


def test_hidden_files_and_folders_are_not_looked_at(folder: Path, take: Importer) -> None:
    (folder / ".gitattributes").write_text("x")
    (folder / ".cache").mkdir()
    (folder / "onnx").mkdir()
    (folder / "onnx" / "model.bin").write_text("x")
    assert len(take(folder).files) == 5
    assert take.ignored() == {}


def test_shards_come_with_their_index(sharded: Path, take: Importer) -> None:
    manifest = take(sharded)
    assert INDEX in paths(manifest)
    assert sum(path.endswith(".safetensors") for path in paths(manifest)) == 3


def test_shards_in_a_folder_the_index_names_are_taken(sharded: Path, take: Importer) -> None:
    (sharded / "parts").mkdir()
    shard = sharded / "model-00001-of-00003.safetensors"
    index = json.loads((sharded / INDEX).read_text())
    for name in ("model-00001-of-00003", "model-00002-of-00003", "model-00003-of-00003"):
        (sharded / f"{name}.safetensors").rename(sharded / "parts" / f"{name}.safetensors")
    index["weight_map"] = {tensor: f"parts/{file}" for tensor, file in index["weight_map"].items()}
    (sharded / INDEX).write_text(json.dumps(index))
    assert f"parts/{shard.name}" in paths(take(sharded))


def test_several_files_without_an_index_are_all_taken(tmp_path: Path, take: Importer) -> None:
    for name in ("a", "b"):
        (tmp_path / "two").mkdir(exist_ok=True)
        weights = {name: Tensor("f32", np.zeros(3, np.float32))}
        (tmp_path / "two" / f"{name}.safetensors").write_bytes(encode_safetensors(weights))
    assert paths(take(tmp_path / "two")) == ["a.safetensors", "b.safetensors"]


def test_other_weights_beside_the_model_are_left_and_told(sharded: Path, take: Importer) -> None:
    (sharded / "consolidated.safetensors").write_bytes(b"whatever")
    (sharded / "model.gguf").write_bytes(b"GGUF")
    (sharded / "modeling.py").write_text("import os")
    assert "consolidated.safetensors" not in paths(take(sharded))
    assert take.ignored() == {"not part of the model": ("consolidated.safetensors", "model.gguf", "modeling.py")}


def test_a_single_file_brings_what_lies_beside_it(folder: Path, take: Importer) -> None:
    (folder / "other.safetensors").write_bytes(b"whatever")
    assert paths(take(folder / "model.safetensors")) == [
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]


def test_a_single_file_alone_is_a_model_without_config(tmp_path: Path, take: Importer) -> None:
    file = tmp_path / "alone" / "weights.safetensors"
    file.parent.mkdir()
    file.write_bytes(encode_safetensors({"a": Tensor("f32", np.zeros(3, np.float32))}))
    manifest = take(file)
    assert paths(manifest) == ["weights.safetensors"]
    assert (manifest.card.architecture, manifest.card.family, manifest.card.has_tokenizer) == ("", "", False)


def test_one_shard_of_several_is_not_a_model(sharded: Path, take: Importer) -> None:
    error = take.refused(MalformedFile, sharded / "model-00002-of-00003.safetensors")
    assert "'model-00001-of-00003.safetensors' is missing" in error.message


# -- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["pytorch_model.bin", "m.pt", "m.pth", "m.ckpt", "m.pkl", "m.joblib", "m.npy", "M.PT"])
def test_a_folder_of_pickles_alone_is_refused_by_name(name: str, tmp_path: Path, take: Importer) -> None:
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / name).write_bytes(pickle.dumps({"a": 1}))
    (tmp_path / "p" / "config.json").write_text("{}")
    error = take.refused(UnsafeFormat, tmp_path / "p")
    assert repr(name) in error.message
    assert repr(name) in take.refused(UnsafeFormat, tmp_path / "p" / name).message


def test_pickles_beside_safetensors_are_left_and_told(folder: Path, take: Importer) -> None:
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({}))
    (folder / "training_args.pt").write_bytes(pickle.dumps({}))
    assert not {"pytorch_model.bin", "training_args.pt"} & set(paths(take(folder)))
    assert take.ignored() == {"pickle or code that runs on load": ("pytorch_model.bin", "training_args.pt")}


def test_a_pickle_called_safetensors_is_refused_as_a_pickle(folder: Path, take: Importer) -> None:
    (folder / "model.safetensors").write_bytes(pickle.dumps(list(range(1000)), protocol=4))
    assert "'model.safetensors'" in take.refused(UnsafeFormat, folder).message
    with zipfile.ZipFile(folder / "model.safetensors", "w") as archive:
        archive.writestr("data.pkl", "x")
    take.refused(UnsafeFormat, folder)


def test_no_weights_at_all_is_refused(tmp_path: Path, take: Importer) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "model.tflite").write_bytes(b"TFL3")
    assert "no .safetensors weights" in take.refused(NotServable, tmp_path / "empty").message


def test_a_path_that_is_not_there_is_refused(tmp_path: Path, take: Importer) -> None:
    assert take.refused(BadParameter, tmp_path / "nowhere").param == "path"


def test_a_file_of_another_kind_is_refused(tmp_path: Path, take: Importer) -> None:
    (tmp_path / "model.tflite").write_bytes(b"TFL3")
    assert take.refused(BadParameter, tmp_path / "model.tflite").param == "path"


def test_a_link_that_leaves_the_folder_is_refused(folder: Path, tmp_path: Path, take: Importer) -> None:
    (tmp_path / "secret.json").write_text("{}")
    (folder / "extra.json").symlink_to(tmp_path / "secret.json")
    error = take.refused(MalformedFile, folder)
    assert "'extra.json' is a link that leaves the folder" in error.message
    (folder / "extra.json").unlink()
    (tmp_path / "outside.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to("../outside.safetensors")
    assert "'model.safetensors'" in take.refused(MalformedFile, folder).message


def test_a_link_inside_the_folder_is_followed(folder: Path, take: Importer) -> None:
    (folder / "model.safetensors").rename(folder / "blob")
    (folder / "model.safetensors").symlink_to("blob")
    assert "model.safetensors" in paths(take(folder))


def test_a_link_to_nowhere_is_refused(folder: Path, take: Importer) -> None:
    (folder / "extra.json").symlink_to("missing.json")
    assert "'extra.json' cannot be read" in take.refused(MalformedFile, folder).message


def test_a_pipe_is_refused_without_waiting_for_a_writer(folder: Path, take: Importer) -> None:
    os.mkfifo(folder / "extra.json")
    assert "not an ordinary file" in take.refused(MalformedFile, folder).message


@pytest.mark.parametrize(
    "name",
    [
        "../outside.safetensors",
        "/etc/passwd.safetensors",
        "a/../../b.safetensors",
        "./a.safetensors",
        "a//b.safetensors",
        "a\\b.safetensors",
        "a\0.safetensors",
        "a\ud800.safetensors",
        "x" * 300 + ".safetensors",
        "model.bin",
        "",
        1,
        None,
    ],
)
def test_an_index_that_points_elsewhere_is_refused(name: Any, sharded: Path, take: Importer) -> None:
    edit_index(sharded, {"model.norm.weight": name})
    assert repr(INDEX) in take.refused(MalformedFile, sharded).message


def test_an_index_without_a_map_is_refused(sharded: Path, take: Importer) -> None:
    for text in ('{"weight_map": {}}', "{}", '{"weight_map": []}'):
        (sharded / INDEX).write_text(text)
        assert "no 'weight_map'" in take.refused(MalformedFile, sharded).message


def test_a_file_whose_name_is_no_text_is_left_or_refused(folder: Path, tmp_path: Path, take: Importer) -> None:
    (folder / "bad\udcff.json").write_text("{}")
    (folder / "bad\udcff.safetensors").write_bytes(b"x")
    error = take.refused(MalformedFile, folder / "bad\udcff.safetensors")
    assert json.dumps(error.to_dict(), ensure_ascii=False).encode()
    assert len(take(folder).files) == 5
    assert take.ignored() == {"not part of the model": ("bad\\udcff.json", "bad\\udcff.safetensors")}


def test_a_folder_whose_name_is_no_text_is_taken(folder: Path, take: Importer) -> None:
    renamed = folder.rename(folder.with_name("bad\udcff"))
    assert take(renamed).source.endswith("bad\\udcff")


def test_a_file_that_cannot_be_opened_is_refused(folder: Path, take: Importer, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Path.open

    def deny(path: Path, *args: Any, **options: Any) -> Any:
        if path.name == "tokenizer.json":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path, *args, **options)

    monkeypatch.setattr(Path, "open", deny)
    assert "'tokenizer.json' cannot be read: Permission denied" in take.refused(MalformedFile, folder).message


def test_a_disk_that_fails_while_a_file_is_read_is_told(
    folder: Path, take: Importer, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Failing(io.BytesIO):
        def readinto(self, buffer: Any) -> int:
            raise OSError(errno.EIO, "Input/output error")

    def hash_failing(file: Any, chunk_bytes: int, visit: Any) -> Any:
        return trees.hash_file(Failing(), chunk_bytes, visit)

    monkeypatch.setattr(importing, "hash_file", hash_failing)
    assert "cannot be read: Input/output error" in take.refused(CorruptObject, folder).message


def test_a_missing_shard_is_refused_by_name(sharded: Path, take: Importer) -> None:
    (sharded / "model-00002-of-00003.safetensors").unlink()
    assert "'model-00002-of-00003.safetensors', which is not there" in take.refused(MalformedFile, sharded).message
    (sharded / INDEX).unlink()
    assert "'model-00002-of-00003.safetensors' is missing" in take.refused(MalformedFile, sharded).message


def test_a_tensor_the_index_places_wrongly_is_refused(sharded: Path, take: Importer) -> None:
    edit_index(sharded, {"no.such.tensor": "model-00001-of-00003.safetensors"})
    assert "'no.such.tensor'" in take.refused(MalformedFile, sharded).message


def test_a_tensor_missing_from_the_index_is_refused(sharded: Path, take: Importer) -> None:
    index = json.loads((sharded / INDEX).read_text())
    del index["weight_map"]["model.norm.weight"]
    (sharded / INDEX).write_text(json.dumps(index))
    assert "'model.norm.weight', which" in take.refused(MalformedFile, sharded).message


def test_a_tensor_in_two_files_is_refused(tmp_path: Path, take: Importer) -> None:
    (tmp_path / "two").mkdir()
    for name in ("a", "b"):
        weights = {"same": Tensor("f32", np.zeros(3, np.float32))}
        (tmp_path / "two" / f"{name}.safetensors").write_bytes(encode_safetensors(weights))
    assert "'b.safetensors' holds tensor 'same'" in take.refused(MalformedFile, tmp_path / "two").message


def test_a_truncated_file_is_refused_by_name(folder: Path, take: Importer) -> None:
    data = (folder / "model.safetensors").read_bytes()
    for length in (0, 5, 100, len(data) - 1):
        (folder / "model.safetensors").write_bytes(data[:length])
        assert "'model.safetensors'" in take.refused(MalformedFile, folder).message


@pytest.mark.parametrize("text", ["", "{", "not json", "[]", "1", '"x"', "\xff", "[" * 100_000])
@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_settings_that_are_no_json_object_are_refused(name: str, text: str, folder: Path, take: Importer) -> None:
    (folder / name).write_bytes(text.encode("latin-1"))
    assert repr(name) in take.refused(MalformedFile, folder).message


def test_settings_of_absurd_size_are_refused(folder: Path, take: Importer) -> None:
    with (folder / "config.json").open("r+b") as file:
        file.truncate(17 * 1024 * 1024)
    assert "at most" in take.refused(MalformedFile, folder).message


def test_a_file_that_changes_while_it_is_read_is_refused(folder: Path, take: Importer) -> None:
    def disturb(done: int, total: int) -> None:
        (folder / "tokenizer_config.json").write_text("{}   ")

    with pytest.raises(CorruptObject, match="changed while"):
        take.store.import_path(folder, ModelName("m"), progress=disturb)
    assert take.store.list() == []


def cached(folder: Path, repo: Path) -> Path:
    """The same model as Hugging Face's cache keeps it."""
    snapshot = repo / "snapshots" / "0123abcd"
    snapshot.mkdir(parents=True)
    (repo / "blobs").mkdir()
    for file in folder.iterdir():
        data = file.read_bytes()
        blob = repo / "blobs" / hashlib.sha256(data).hexdigest()
        blob.write_bytes(data)
        (snapshot / file.name).symlink_to(f"../../blobs/{blob.name}")
    return snapshot


def test_a_snapshot_of_the_hub_cache_is_taken(folder: Path, tmp_path: Path, take: Importer) -> None:
    assert len(take(cached(folder, tmp_path / "models--org--name")).files) == 5


def test_a_snapshot_of_the_hub_cache_must_have_the_digests_in_its_names(
    folder: Path, tmp_path: Path, take: Importer
) -> None:
    snapshot = cached(folder, tmp_path / "models--org--name")
    data = (snapshot / "model.safetensors").read_bytes()
    (snapshot / "model.safetensors").resolve().write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert "'model.safetensors' does not have" in take.refused(CorruptObject, snapshot).message


def test_a_snapshot_of_the_hub_cache_may_not_link_elsewhere(folder: Path, tmp_path: Path, take: Importer) -> None:
    snapshot = cached(folder, tmp_path / "models--org--name")
    (tmp_path / "secret.json").write_text("{}")
    (snapshot / "extra.json").symlink_to("../../../secret.json")
    assert "leaves the folder" in take.refused(MalformedFile, snapshot).message


# -- SHA256SUMS ------------------------------------------------------------------------------------------------------


def test_sums_that_hold_are_quietly_used(folder: Path, take: Importer) -> None:
    sums = {file.path: file.sha256 for file in take(folder).files}
    take.store.remove("m")
    (folder / "SHA256SUMS").write_text("".join(f"{digest}  {path}\n" for path, digest in sums.items()) + "\n")
    assert "SHA256SUMS" not in paths(take(folder))
    assert take.ignored() == {}


def test_a_file_that_is_not_what_its_maker_made_is_refused_by_name(folder: Path, take: Importer) -> None:
    (folder / "SHA256SUMS").write_text(f"{'0' * 64} *./model.safetensors\n{'0' * 64}  absent.txt\n")
    assert "'model.safetensors' does not have" in take.refused(CorruptObject, folder).message


def test_sums_that_are_none_are_refused(folder: Path, take: Importer) -> None:
    (folder / "SHA256SUMS").write_text("hello\n")
    assert "line 1" in take.refused(MalformedFile, folder).message


@pytest.mark.parametrize("name", ["README.md", "model.safetensors"])
def test_a_link_to_itself_is_refused_by_name(folder: Path, tmp_path: Path, name: str) -> None:
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(name)
    assert name in Importer(tmp_path / "store").refused(MalformedFile, folder).message


@pytest.mark.parametrize("place", ["x/" * 600 + "y.safetensors", "\u65e5" * 120 + ".safetensors"])
def test_a_place_too_long_to_look_up_is_refused(folder: Path, tmp_path: Path, place: str) -> None:
    (folder / INDEX).write_text(json.dumps({"weight_map": {"a": place}}))
    assert "places 'a'" in Importer(tmp_path / "store").refused(MalformedFile, folder).message


def test_a_series_of_files_is_looked_through_once() -> None:
    """It was once for each file, in a list: with the shards of a large model, minutes."""
    names = [f"m-{i:05}-of-03000.safetensors" for i in range(1, 3001)]
    import_files._check_numbering(names)
    with pytest.raises(MalformedFile, match="m-01500-of-03000"):
        import_files._check_numbering(names[:1499] + names[1500:])


def test_a_disk_with_no_room_for_a_folder_is_a_full_disk(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_inodes(path: Path, *_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(Path, "mkdir", no_inodes)
    Importer(tmp_path / "store").refused(DiskFull, folder)
