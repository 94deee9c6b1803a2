"""AWQ, GPTQ and compressed-tensors checkpoints through the store: exact where the numbers allow it, measured else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.foreign import make_checkpoint
from tests.models import encode_safetensors, make_config, weight_shapes
from thaloom.base.clock import ManualClock
from thaloom.base.errors import MalformedFile, NotServable, ThaloomError
from thaloom.hal.tensors import QuantTensor, Tensor, bf16_from_f32
from thaloom.kernel.models.store import ModelStore
from thaloom.kernel.models.types import Manifest, ModelName

CONFIG = make_config("llama", hidden_size=256, intermediate_size=512, head_dim=64, vocab_size=64)
SETTINGS: dict[str, dict[str, Any]] = {
    "awq": {"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True, "version": "gemm"},
    "gptq": {"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": False, "sym": True},
}
Parts = dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "store", ManualClock())


def weights(seed: int = 0) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    return {name: random.standard_normal(shape, dtype=np.float32) for name, shape in weight_shapes(CONFIG).items()}


def numbers(*, group: int, zero: tuple[int, int]) -> Parts:
    random = np.random.default_rng(1)
    parts = {}
    for name, (outputs, inputs) in ((n, s) for n, s in weight_shapes(CONFIG).items() if "_proj" in n):
        groups = inputs // group
        whole = random.integers(0, 16, (inputs, outputs))
        scales = random.uniform(0.001, 0.1, (groups, outputs)).astype(np.float16)
        parts[name] = (whole, random.integers(*zero, (groups, outputs)), scales)
    return parts


def values_of(part: tuple[np.ndarray, np.ndarray, np.ndarray], index: np.ndarray | None = None) -> np.ndarray:
    whole, zeros, scales = part
    index = np.arange(len(whole)) // (len(whole) // len(scales)) if index is None else index
    return ((whole - zeros[index]) * scales.astype(np.float32)[index]).T.astype(np.float32)


def make(
    folder: Path, method: str, parts: Parts, *, indices: dict[str, np.ndarray] | None = None, **changed: Any
) -> Path:
    settings = {key: value for key, value in (SETTINGS[method] | changed).items() if value is not None}
    return make_checkpoint(folder, method, CONFIG, weights(), parts, settings, indices or {})  # type: ignore[arg-type]


def read_all(store: ModelStore, manifest: Manifest) -> dict[str, Tensor | QuantTensor]:
    reader = store.open(manifest).weights()
    tensors = {name: reader.read(name) for name in reader.names()}
    reader.close()
    return tensors


@pytest.mark.parametrize("group", [32, 128, 256])
@pytest.mark.parametrize(("method", "zero", "bits"), [("awq", (0, 16), 8), ("gptq", (8, 9), 4), ("gptq", (1, 16), 8)])
def test_whole_numbers_are_taken_over_exactly(
    store: ModelStore, tmp_path: Path, method: str, zero: tuple[int, int], bits: int, group: int
) -> None:
    parts = numbers(group=group, zero=zero)
    manifest = store.import_path(make(tmp_path / "m", method, parts, group_size=group))
    found = read_all(store, manifest)
    assert found.keys() == weights().keys()
    for name, tensor in found.items():
        if name in parts:
            assert isinstance(tensor, QuantTensor)
            assert (tensor.bits, tensor.group) == (bits, 32)
            assert np.array_equal(tensor.to_f32(), values_of(parts[name])), name
        else:
            assert np.array_equal(tensor.to_f32(), weights()[name].astype(np.float16).astype(np.float32))
    record = manifest.card.quantisation
    assert record is not None
    assert (record.source, record.relative_error) == (method.upper(), 0.0)
    assert record.tensors[f"{method.upper()} to int{bits}"] == len(parts)
    assert "quantization_config" not in store.open(manifest).config()


def test_act_order_is_made_anew_and_measured(store: ModelStore, tmp_path: Path) -> None:
    parts = numbers(group=128, zero=(8, 9))
    random = np.random.default_rng(2)
    indices = {name: random.permutation(np.arange(len(part[0])) // 128) for name, part in parts.items()}
    manifest = store.import_path(make(tmp_path / "m", "gptq", parts, indices=indices, desc_act=True))
    record = manifest.card.quantisation
    assert record is not None
    assert record.tensors["GPTQ act-order to int8"] == len(parts)
    assert 0 < record.relative_error < 0.01
    found = read_all(store, manifest)
    for name, part in parts.items():
        expected = values_of(part, indices[name])
        assert np.abs(found[name].to_f32() - expected).max() <= np.abs(expected).max() / 200


def test_an_index_in_order_changes_nothing(store: ModelStore, tmp_path: Path) -> None:
    parts = numbers(group=128, zero=(8, 9))
    indices = {name: np.arange(len(part[0])) // 128 for name, part in parts.items()}
    record = store.import_path(make(tmp_path / "m", "gptq", parts, indices=indices)).card.quantisation
    assert record is not None
    assert record.relative_error == 0.0


def compressed(folder: Path, *, edit: dict[str, np.ndarray] | None = None, **weight_settings: Any) -> Path:
    folder.mkdir()
    tensors = {name: Tensor("bf16", bf16_from_f32(values)) for name, values in weights().items()}
    random = np.random.default_rng(3)
    for name in [name for name in tensors if "_proj" in name]:
        shape = tensors[name].shape
        tensors[name] = Tensor("i8", random.integers(-127, 128, shape).astype(np.int8))
        scales = random.uniform(0.001, 0.01, (shape[0], 1)).astype(np.float32)
        tensors[f"{name}_scale"] = Tensor("bf16", bf16_from_f32(scales))
    for name, values in (edit or {}).items():
        tensors[name] = Tensor("i8", values)
    (folder / "model.safetensors").write_bytes(encode_safetensors(tensors))
    group = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel"} | weight_settings
    settings = {
        "quant_method": "compressed-tensors",
        "format": "int-quantized",
        "config_groups": {"group_0": {"weights": group, "targets": ["Linear"]}},
    }
    (folder / "config.json").write_text(json.dumps(CONFIG | {"quantization_config": settings}))
    return folder


def test_eight_bits_by_row_are_taken_over_exactly(store: ModelStore, tmp_path: Path) -> None:
    manifest = store.import_path(compressed(tmp_path / "m"))
    tensor = read_all(store, manifest)["model.layers.0.mlp.down_proj.weight"]
    assert isinstance(tensor, QuantTensor)
    assert (tensor.bits, tensor.group) == (8, 512)
    record = manifest.card.quantisation
    assert record is not None
    assert (record.source, record.relative_error) == ("compressed-tensors", 0.0)


def test_a_number_below_ours_is_made_anew(store: ModelStore, tmp_path: Path) -> None:
    name = "model.layers.0.mlp.down_proj.weight"
    low = np.full(weight_shapes(CONFIG)[name], -128, np.int8)
    low[:, ::3] = 77
    record = store.import_path(compressed(tmp_path / "m", edit={name: low})).card.quantisation
    assert record is not None
    assert 0 < record.relative_error < 0.01


def awq(**changed: Any) -> Any:
    return lambda folder: make(folder, "awq", numbers(group=128, zero=(0, 16)), **changed)


def gptq(**changed: Any) -> Any:
    return lambda folder: make(folder, "gptq", numbers(group=128, zero=(8, 9)), **changed)


def without(part: str) -> Any:
    """A sound GPTQ checkpoint without one of the tensors of one matrix."""

    def build(folder: Path) -> Path:
        from thaloom.kernel.models.safetensors import read_header

        make(folder, "gptq", numbers(group=128, zero=(8, 9)))
        data = (folder / "model.safetensors").read_bytes()
        header = read_header("m", len(data), lambda at, length: data[at : at + length])
        kinds: dict[str, tuple[Any, str]] = {"I32": ("i32", "<i4"), "F16": ("f16", "<f2")}
        tensors = {
            place.name: Tensor(
                kinds[place.dtype][0],
                np.frombuffer(data[place.start : place.end], kinds[place.dtype][1]).reshape(place.shape),
            )
            for place in header.tensors
            if not place.name.endswith(f"0.mlp.up_proj.{part}")
        }
        (folder / "model.safetensors").write_bytes(encode_safetensors(tensors))
        return folder

    return build


def bad_index(folder: Path) -> Path:
    parts = numbers(group=128, zero=(8, 9))
    return make(folder, "gptq", parts, indices={name: np.full(len(part[0]), 99) for name, part in parts.items()})


def small_groups(folder: Path) -> Path:
    return make(folder, "gptq", numbers(group=16, zero=(8, 9)))


REFUSED: dict[str, tuple[Any, type[ThaloomError], str]] = {
    "another method": (awq(quant_method="bitsandbytes"), NotServable, "'bitsandbytes'"),
    "no method": (awq(quant_method=None), NotServable, "'None'"),
    "three bits": (gptq(bits=3), NotServable, "3 bits"),
    "gemv": (awq(version="gemv"), NotServable, "'gemv'"),
    "marlin": (gptq(checkpoint_format="marlin"), NotServable, "'marlin'"),
    "groups of 16": (small_groups, NotServable, "groups of 16"),
    "no scales": (without("scales"), MalformedFile, "no tensor"),
    "no zeros": (without("qzeros"), MalformedFile, "no tensor"),
    "index beyond": (bad_index, MalformedFile, "groups that are not there"),
    "asymmetric": (lambda folder: compressed(folder, symmetric=False), NotServable, "False"),
    "four bits": (lambda folder: compressed(folder, num_bits=4), NotServable, "(4,"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_read_is_refused_by_name(store: ModelStore, tmp_path: Path, case: str) -> None:
    build, error, words = REFUSED[case]
    with pytest.raises(error) as refused:
        store.import_path(build(tmp_path / "m"), ModelName("m"))
    assert words in refused.value.message
    assert not store.list()
    assert not list((store.root / "staging").glob("*"))
