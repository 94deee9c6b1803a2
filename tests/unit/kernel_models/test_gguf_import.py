"""GGUF files through the store: the same model comes out, and what changed is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGMLQuantizationType, quants
from tokenizers import Tokenizer

from tests.foreign import interleaved, make_gguf
from tests.models import CHAT_TEMPLATE, Family, make_config, make_tokenizer, weight_shapes
from thaloom.base.clock import ManualClock
from thaloom.base.errors import MalformedFile, NameTaken, NotServable
from thaloom.hal.tensors import QuantTensor, Tensor
from thaloom.kernel.models.gguf_config import in_halves
from thaloom.kernel.models.reading import StoredModel
from thaloom.kernel.models.store import ModelStore
from thaloom.kernel.models.types import ModelName

SIZES = {"hidden_size": 64, "intermediate_size": 96, "head_dim": 16, "vocab_size": 272}
WIDE = SIZES | {"hidden_size": 256, "intermediate_size": 512, "head_dim": 64}
TEXTS = (
    "the thing in a ring",
    "  two  spaces\n\n\tand 1234 numbers",
    "naïve 你好 🙂",
    "<|im_start|>user\nhi<|im_end|>",
)


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "store", ManualClock())


def random_weights(config: dict[str, Any], seed: int = 0) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    return {name: random.standard_normal(shape, dtype=np.float32) for name, shape in weight_shapes(config).items()}


def pulled(store: ModelStore, path: Path, **settings: Any) -> StoredModel:
    return store.open(store.import_path(path, ModelName("m"), **settings))


def read_all(model: StoredModel) -> dict[str, Tensor | QuantTensor]:
    reader = model.weights()
    tensors = {name: reader.read(name) for name in reader.names()}
    reader.close()
    return tensors


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("kind", ["F32", "F16", "BF16"])
def test_floats_come_out_as_they_are(store: ModelStore, tmp_path: Path, family: Family, kind: str) -> None:
    config = make_config(family, **SIZES, tie_word_embeddings=family == "qwen3")
    weights = random_weights(config)
    model = pulled(store, make_gguf(tmp_path / "m.gguf", config, weights, kinds=kind))
    found = read_all(model)
    assert found.keys() == weights.keys()
    for name, tensor in found.items():
        expected = weights[name] if weights[name].ndim == 1 or kind == "F32" else rounded(weights[name], kind)
        assert isinstance(tensor, Tensor)
        assert np.array_equal(tensor.to_f32(), expected), name
    read = model.config()
    for key in ("architectures", "hidden_size", "num_key_value_heads", "head_dim", "rms_norm_eps", "rope_theta",
                "tie_word_embeddings", "vocab_size", "max_position_embeddings", "intermediate_size"):  # fmt: skip
        assert read[key] == config[key], key
    assert read.get("attention_bias") == config.get("attention_bias")
    card = model.manifest.card
    assert card.quantisation is not None
    assert (card.quantisation.source, card.quantisation.relative_error, card.license) == ("GGUF", 0.0, "mit")


def rounded(values: np.ndarray, kind: str) -> np.ndarray:
    if kind == "F16":
        return values.astype(np.float16).astype(np.float32)
    return quants.dequantize(quants.quantize(values, GGMLQuantizationType.BF16), GGMLQuantizationType.BF16)


@pytest.mark.parametrize(("kind", "bits"), [("Q8_0", 8), ("Q4_0", 4)])
def test_whole_numbers_are_taken_over_exactly(store: ModelStore, tmp_path: Path, kind: str, bits: int) -> None:
    config = make_config("llama", **SIZES)
    weights = random_weights(config)
    found = read_all(pulled(store, make_gguf(tmp_path / "m.gguf", config, weights, kinds=kind)))
    for name, values in weights.items():
        tensor = found[name]
        if values.ndim == 1:
            continue
        number = GGMLQuantizationType[kind]
        assert isinstance(tensor, QuantTensor)
        assert (tensor.bits, tensor.group) == (bits, 32)
        assert np.array_equal(tensor.to_f32(), quants.dequantize(quants.quantize(values, number), number)), name


@pytest.mark.parametrize("kind", ["Q4_1", "Q5_0", "Q5_1"])
def test_what_is_made_anew_is_measured(store: ModelStore, tmp_path: Path, kind: str) -> None:
    config = make_config("llama", **SIZES)
    weights = random_weights(config)
    model = pulled(store, make_gguf(tmp_path / "m.gguf", config, weights, kinds=kind))
    record = model.manifest.card.quantisation
    assert record is not None
    assert record.tensors[f"{kind} to int8"] == sum(values.ndim == 2 for values in weights.values())
    assert 0 < record.relative_error < 0.01
    assert record.quality is None
    number, error, total = GGMLQuantizationType[kind], 0.0, 0.0
    for name, tensor in read_all(model).items():
        if isinstance(tensor, QuantTensor):
            before = quants.dequantize(quants.quantize(weights[name], number), number)
            error += float(np.sum((tensor.to_f32() - before).astype(np.float64) ** 2))
            total += float(np.sum(before.astype(np.float64) ** 2))
    assert record.relative_error == pytest.approx(np.sqrt(error / total), rel=1e-4)


@pytest.mark.parametrize("kind", ["Q4_K", "Q5_K", "Q6_K"])
def test_blocks_of_256_come_out_in_8_bits(store: ModelStore, tmp_path: Path, kind: str) -> None:
    """The package writes none of these, so the bytes are random and the scales sane."""
    config = make_config("qwen2", **WIDE)
    weights = random_weights(config)
    path = make_gguf(tmp_path / "m.gguf", config, weights, kinds="F32")
    expected = replace_matrix(path, "blk.0.ffn_up.weight", kind)
    model = pulled(store, path)
    tensor = read_all(model)["model.layers.0.mlp.up_proj.weight"]
    assert isinstance(tensor, QuantTensor)
    assert tensor.shape == expected.shape
    assert np.abs(tensor.to_f32() - expected).max() <= np.abs(expected).max() / 127
    record = model.manifest.card.quantisation
    assert record is not None
    assert record.tensors[f"{kind} to int8"] == 1


def replace_matrix(path: Path, name: str, kind: str) -> np.ndarray:
    """Write the file again with one matrix of random blocks; its values."""
    from gguf import GGML_QUANT_SIZES, GGUFReader

    from tests.gguf_files import Blocks, encode_gguf
    from thaloom.kernel.models.gguf import read_gguf

    data = path.read_bytes()
    header = read_gguf("m", len(data), lambda at, length: data[at : at + length])
    number = GGMLQuantizationType[kind]
    elements, num_bytes = GGML_QUANT_SIZES[number]
    tensors = {}
    values = np.zeros(0)
    for tensor in header.tensors:
        content = data[tensor.start : tensor.end]
        code = 0
        if tensor.name == name:
            count = int(np.prod(tensor.shape)) // elements
            random = np.random.default_rng(3).integers(0, 256, (count, num_bytes), dtype=np.uint8)
            for at in {"Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,)}[kind]:
                random[:, at : at + 2] = np.frombuffer(np.float16(0.01).tobytes(), np.uint8)
            content, code = random.tobytes(), int(number.value)
            values = quants.dequantize(random.reshape(tensor.shape[0], -1), number)
        tensors[tensor.name] = Blocks(code, tensor.shape, content)
    config = json.loads(
        json.dumps({key: value for key, value in header.metadata.items() if not hasattr(value, "shape")})
    )
    path.write_bytes(encode_gguf(config, tensors))
    assert GGUFReader(path).tensors  # the format's own reader takes it too
    return values


def test_a_number_no_writer_writes_is_made_anew(store: ModelStore, tmp_path: Path) -> None:
    config = make_config("qwen3", **SIZES)
    path = make_gguf(tmp_path / "m.gguf", config, random_weights(config), kinds="Q8_0")
    data = bytearray(path.read_bytes())
    data[-1] = 0x80  # -128
    path.write_bytes(data)
    record = pulled(store, path).manifest.card.quantisation
    assert record is not None
    assert record.relative_error > 0


def test_rows_of_queries_and_keys_are_put_back() -> None:
    values = np.arange(24.0).reshape(12, 2)
    assert np.array_equal(in_halves(interleaved(values, 3), 3), values)
    assert not np.array_equal(interleaved(values, 3), values)


@pytest.mark.parametrize("cut", ["gpt-2", "qwen2", "llama-bpe", "smollm", "default"])
def test_the_vocabulary_works(store: ModelStore, tmp_path: Path, cut: str) -> None:
    config = make_config("llama", **SIZES)
    tokenizer = json.loads(make_tokenizer().to_str())
    path = make_gguf(
        tmp_path / "m.gguf", config, random_weights(config), tokenizer=tokenizer,
        **{"tokenizer.ggml.pre": cut, "tokenizer.chat_template": CHAT_TEMPLATE},
    )  # fmt: skip
    model = pulled(store, path)
    ours, theirs = Tokenizer.from_buffer(model.read_file("tokenizer.json")), make_tokenizer()
    for text in TEXTS:
        tokens = ours.encode(text).ids
        assert ours.decode(tokens, skip_special_tokens=False) == text
        if cut == "gpt-2":
            assert tokens == theirs.encode(text).ids
    assert model.manifest.card.has_tokenizer
    assert model.manifest.card.has_chat_template
    facts = json.loads(model.read_file("tokenizer_config.json"))
    assert (facts["eos_token"], facts["pad_token"], facts["add_bos_token"]) == ("<|im_end|>", "<|endoftext|>", False)
    assert json.loads(model.read_file("generation_config.json")) == {"eos_token_id": [theirs.token_to_id("<|im_end|>")]}


def test_the_same_file_gives_the_same_model(store: ModelStore, tmp_path: Path) -> None:
    config = make_config("llama", **SIZES)
    path = make_gguf(tmp_path / "m.gguf", config, random_weights(config), kinds="Q4_0")
    first = store.import_path(path)
    assert first.name == ModelName("m")
    assert store.import_path(path, ModelName("other")).digest == first.digest
    assert store.import_path(path) == first
    assert not list((store.root / "staging").glob("*"))


def test_another_file_does_not_take_a_name(store: ModelStore, tmp_path: Path) -> None:
    config = make_config("llama", **SIZES)
    store.import_path(make_gguf(tmp_path / "a.gguf", config, random_weights(config)), ModelName("m"))
    other = make_gguf(tmp_path / "b.gguf", config, random_weights(config, 1))
    with pytest.raises(NameTaken):
        store.import_path(other, ModelName("m"))
    replaced = store.import_path(other, ModelName("m"), replace=True)
    assert store.get("m").digest == replaced.digest


def test_progress_runs_to_the_end_and_may_give_up(store: ModelStore, tmp_path: Path) -> None:
    config = make_config("llama", **SIZES)
    path = make_gguf(tmp_path / "m.gguf", config, random_weights(config))
    told: list[tuple[int, int]] = []
    store.import_path(path, progress=lambda done, total: told.append((done, total)))
    shares = [done / total for done, total in told]
    assert shares == sorted(shares)
    assert shares[-1] == 1.0

    def give_up(done: int, total: int) -> None:
        if done > total // 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.import_path(path, ModelName("n"), progress=give_up)
    assert [str(manifest.name) for manifest in store.list()] == ["m"]
    assert not list((store.root / "staging").glob("*"))


def test_llama3_scaling_is_found_in_its_factors(store: ModelStore, tmp_path: Path) -> None:
    config = make_config("llama", **SIZES, rope_theta=500_000.0)
    weights = random_weights(config)
    path = make_gguf(tmp_path / "m.gguf", config, weights)
    lengths = 2 * np.pi * 500_000.0 ** (np.arange(0, 16, 2) / 16)
    smooth = np.clip((8192 / lengths - 1) / 3, 0, 1)
    add_tensor(path, "rope_freqs.weight", (1 / ((1 - smooth) / 32 + smooth)).astype(np.float32))
    assert pulled(store, path).config()["rope_scaling"] == {
        "rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }  # fmt: skip
    add_tensor(path, "rope_freqs.weight", np.linspace(1, 8, 8, dtype=np.float32))
    with pytest.raises(NotServable, match="rope_freqs"):
        store.import_path(path, ModelName("other"))


def add_tensor(path: Path, name: str, values: np.ndarray) -> None:
    from tests.gguf_files import encode_gguf, f32
    from thaloom.kernel.models.gguf import read_gguf

    data = path.read_bytes()
    header = read_gguf("m", len(data), lambda at, length: data[at : at + length])
    tensors = {
        tensor.name: f32(np.frombuffer(data[tensor.start : tensor.end], "<f4").reshape(tensor.shape))
        for tensor in header.tensors
    }
    path.write_bytes(encode_gguf(header.metadata, tensors | {name: f32(values)}))


REFUSED: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "architecture": ({"general.architecture": "mamba"}, NotServable, "architecture 'mamba'"),
    "no architecture": ({"general.architecture": None}, NotServable, "architecture None"),
    "experts": ({"llama.expert_count": 8}, NotServable, "llama.expert_count"),
    "window": ({"llama.attention.sliding_window": 128}, NotServable, "sliding_window"),
    "unknown key": ({"llama.logit_scale": 0.5}, NotServable, "logit_scale"),
    "partial rotary": ({"llama.rope.dimension_count": 8}, NotServable, "dimension_count"),
    "rope kind": ({"llama.rope.scaling.type": "longrope"}, NotServable, "rope.scaling.type"),
    "no layers": ({"llama.block_count": None}, MalformedFile, "no metadata 'llama.block_count'"),
    "layers of text": ({"llama.block_count": "two"}, MalformedFile, "llama.block_count"),
    "kind of vocabulary": ({"tokenizer.ggml.model": "bert"}, NotServable, "'bert'"),
    "kind of words": ({"tokenizer.ggml.pre": "tekken"}, NotServable, "'tekken'"),
    "no merges": ({"tokenizer.ggml.merges": None}, MalformedFile, "without"),
    "merge of nothing": ({"tokenizer.ggml.merges": ["zz qq"]}, MalformedFile, "zz qq"),
    "short types": ({"tokenizer.ggml.token_type": [1, 1]}, MalformedFile, "token_type"),
    "token twice": ({"tokenizer.ggml.tokens": ["a"] * 5, "tokenizer.ggml.token_type": None}, MalformedFile, "twice"),
    "no such eos": ({"tokenizer.ggml.eos_token_id": 9999}, MalformedFile, "eos_token_id"),
    "too many tokens": ({"tokenizer.ggml.tokens": [f"t{i}" for i in range(300)]}, MalformedFile, "list of tokens"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_run_is_refused_by_name(store: ModelStore, tmp_path: Path, case: str) -> None:
    changed, error, words = REFUSED[case]
    config = make_config("llama", **SIZES)
    tokenizer = json.loads(make_tokenizer().to_str())
    path = make_gguf(tmp_path / "m.gguf", config, random_weights(config), tokenizer=tokenizer, **changed)
    with pytest.raises(error, match=words):
        store.import_path(path)
    assert not store.list()


def test_a_folder_with_one_file_is_that_file(store: ModelStore, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    config = make_config("llama", **SIZES)
    make_gguf(folder / "a.gguf", config, random_weights(config))
    assert store.import_path(folder).name == ModelName("folder")
    make_gguf(folder / "b.gguf", config, random_weights(config))
    with pytest.raises(NotServable, match="2 GGUF files"):
        store.import_path(folder, ModelName("x"))
