"""Weights through the chunk tree: right, checked once, and refused by name when they are not what was stored."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest

from tests.models import encode_safetensors, make_config, make_model, make_weights
from thaloom.base.clock import ManualClock
from thaloom.base.errors import CorruptObject, MalformedFile, NotServable
from thaloom.hal.tensors import Tensor
from thaloom.kernel.models import objects
from thaloom.kernel.models.store import ModelStore
from thaloom.kernel.models.types import Manifest


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "store", ManualClock(), chunk_bytes=4096)


def object_path(store: ModelStore, digest: str) -> Path:
    return store.root / "objects" / digest[:2] / digest


def chunk_paths(store: ModelStore, manifest: Manifest, path: str = "model.safetensors") -> list[Path]:
    tree = next(file.tree for file in manifest.files if file.path == path)
    return [object_path(store, digest) for digest, _ in json.loads(object_path(store, tree).read_bytes())]


@pytest.mark.parametrize("dtype", ["f32", "f16", "bf16"])
@pytest.mark.parametrize("num_shards", [1, 3])
def test_every_tensor_is_what_was_written(dtype: str, num_shards: int, store: ModelStore, tmp_path: Path) -> None:
    folder = make_model(tmp_path / "m", "qwen2", dtype=dtype, num_shards=num_shards)  # type: ignore[arg-type]
    expected = make_weights(make_config("qwen2", dtype=dtype), dtype=dtype)
    reader = store.open(store.import_path(folder)).weights()
    assert set(reader.names()) == set(expected)
    for name, tensor in expected.items():
        read = reader.read(name)
        assert read.dtype == dtype
        assert read.shape == tensor.shape
        assert read.data.dtype == tensor.data.dtype
        assert read.data.tobytes() == tensor.data.tobytes()
        assert read.data.flags.c_contiguous
        assert not read.data.flags.writeable
    reader.close()


def test_scalars_and_empty_tensors_are_read(store: ModelStore, tmp_path: Path) -> None:
    weights = {
        "scalar": Tensor("f32", np.array(3.5, np.float32)),
        "empty": Tensor("f16", np.zeros((3, 0), np.float16)),
    }
    (tmp_path / "w.safetensors").write_bytes(encode_safetensors(weights))
    reader = store.open(store.import_path(tmp_path / "w.safetensors")).weights()
    assert reader.read("scalar").data == np.float32(3.5)
    assert reader.read("empty").shape == (3, 0)


def test_each_chunk_is_checked_once_whatever_the_order(
    store: ModelStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = store.import_path(make_model(tmp_path / "m", "qwen3"))
    expected = make_weights(make_config("qwen3"))
    checked: list[str] = []
    real = objects.digest_of

    def count(data: bytes | bytearray | memoryview) -> str:
        digest = real(data)
        checked.append(digest)
        return digest

    reader = store.open(manifest).weights()
    monkeypatch.setattr(objects, "digest_of", count)
    order = list(expected) * 2
    random.Random(7).shuffle(order)
    for name in order:
        assert reader.read(name).data.tobytes() == expected[name].data.tobytes()
    assert len(checked) == len(set(checked))
    assert len(checked) > 10


def test_a_missing_tensor_is_refused(store: ModelStore, tmp_path: Path) -> None:
    reader = store.open(store.import_path(make_model(tmp_path / "m"))).weights()
    with pytest.raises(MalformedFile, match=r"model 'm' has no tensor 'lm_head\.bias'"):
        reader.read("lm_head.bias")


def test_a_dtype_that_cannot_be_served_is_refused_by_name(store: ModelStore, tmp_path: Path) -> None:
    weights = {"ids": Tensor("i32", np.arange(4, dtype=np.int32)), "w": Tensor("f32", np.ones(2, np.float32))}
    (tmp_path / "w.safetensors").write_bytes(encode_safetensors(weights))
    reader = store.open(store.import_path(tmp_path / "w.safetensors")).weights()
    with pytest.raises(NotServable, match="'ids' of model 'w' is I32"):
        reader.read("ids")
    assert reader.read("w").data.tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    ("damage", "problem"), [("alter", "altered"), ("truncate", "truncated"), ("remove", "missing"), ("grow", "altered")]
)
def test_damage_is_refused_naming_file_and_model(damage: str, problem: str, store: ModelStore, tmp_path: Path) -> None:
    manifest = store.import_path(make_model(tmp_path / "m"))
    victim = chunk_paths(store, manifest)[-1]
    data = victim.read_bytes()
    if damage == "remove":
        victim.unlink()
    else:
        changed = {"alter": data[:-1] + bytes([data[-1] ^ 1]), "truncate": data[:-1], "grow": data + b"x"}
        victim.write_bytes(changed[damage])
    reader = store.open(manifest).weights()
    with pytest.raises(CorruptObject, match=rf"'model\.safetensors' of model 'm' is {problem}") as caught:
        for name in reader.names():
            reader.read(name)
    assert caught.value.details == {"file": "model.safetensors", "model": "m"}


def test_a_chunk_cut_off_after_it_was_checked_is_refused(store: ModelStore, tmp_path: Path) -> None:
    manifest = store.import_path(make_model(tmp_path / "m"))
    reader = store.open(manifest).weights()
    for name in reader.names():
        reader.read(name)
    for path in chunk_paths(store, manifest)[:-2]:
        path.write_bytes(b"")
    with pytest.raises(CorruptObject, match="is truncated"):
        reader.read("model.embed_tokens.weight")


def test_a_damaged_tree_is_refused_on_opening(store: ModelStore, tmp_path: Path) -> None:
    manifest = store.import_path(make_model(tmp_path / "m"))
    tree = next(file.tree for file in manifest.files if file.path == "model.safetensors")
    object_path(store, tree).write_bytes(b"[]")
    with pytest.raises(CorruptObject, match=r"'model\.safetensors' of model 'm' is altered"):
        store.open(manifest).weights()


def test_nothing_is_swept_while_weights_are_read(store: ModelStore, tmp_path: Path) -> None:
    expected = make_weights(make_config())
    reader = store.open(store.import_path(make_model(tmp_path / "m"))).weights()
    assert not store.remove("m").complete
    assert store.list() == []
    assert store.sweep() is None
    for name, tensor in expected.items():
        assert reader.read(name).data.tobytes() == tensor.data.tobytes()
    reader.close()
    reader.close()
    swept = store.sweep()
    assert swept is not None
    assert swept.freed_bytes > 0


def test_a_forgotten_reader_does_not_block_sweeping(store: ModelStore, tmp_path: Path) -> None:
    manifest = store.import_path(make_model(tmp_path / "m"))
    reader = store.open(manifest).weights()
    assert store.sweep() is None
    del reader
    assert store.sweep() is not None
