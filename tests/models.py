"""Small random models in Hugging Face's folder layout, for everybody's tests. NumPy and `tokenizers` only.

`make_model(folder, family="llama")` writes config.json, model.safetensors (or shards and an index), a byte-level
tokenizer.json, tokenizer_config.json with a ChatML template, and generation_config.json. The same arguments give the
same bytes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE

from thaloom.hal.tensors import Tensor, bf16_from_f32

Family = Literal["llama", "qwen2", "qwen3"]
ARCHITECTURES: dict[Family, str] = {
    "llama": "LlamaForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}
SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
MERGES = (("Ġ", "t"), ("h", "e"), ("Ġt", "he"), ("Ġ", "a"), ("i", "n"), ("e", "r"), ("o", "n"), ("in", "g"))
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_FORMAT_NAMES = {"f32": "F32", "f16": "F16", "bf16": "BF16", "i8": "I8", "i32": "I32"}
_TORCH_NAMES = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}


def make_model(
    folder: Path,
    family: Family = "llama",
    seed: int = 0,
    dtype: Literal["f32", "f16", "bf16"] = "bf16",
    *,
    num_shards: int = 1,
    with_tokenizer: bool = True,
    **config: Any,
) -> Path:
    """Write a random model into `folder` (made if absent) and return the folder. `config` overrides config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    facts = make_config(family, dtype=dtype, **config)
    if with_tokenizer:
        tokenizer = make_tokenizer()
        if facts["vocab_size"] < tokenizer.get_vocab_size():
            raise ValueError(f"vocab_size {facts['vocab_size']} is below the tokenizer's {tokenizer.get_vocab_size()}")
        tokenizer.save(str(folder / "tokenizer.json"))
        _write_json(folder / "tokenizer_config.json", _tokenizer_config(facts["max_position_embeddings"]))
        eos = [tokenizer.token_to_id("<|im_end|>"), tokenizer.token_to_id("<|endoftext|>")]
        facts["eos_token_id"] = config.get("eos_token_id", eos[0])
        _write_json(folder / "generation_config.json", {"eos_token_id": eos, "do_sample": False})
    _write_json(folder / "config.json", facts)
    write_weights(folder, make_weights(facts, seed=seed, dtype=dtype), num_shards=num_shards)
    return folder


def make_config(family: Family = "llama", *, dtype: str = "bf16", **config: Any) -> dict[str, Any]:
    """The contents of config.json: a model of two layers with grouped heads, changed by `config`."""
    facts: dict[str, Any] = {
        "architectures": [ARCHITECTURES[family]],
        "model_type": family,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 256,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "rope_scaling": None,
        "tie_word_embeddings": False,
        "attention_bias": False,
        "mlp_bias": False,
        "hidden_act": "silu",
        "vocab_size": 256 + len(MERGES) + len(SPECIAL_TOKENS),
        "bos_token_id": None,
        "eos_token_id": None,
        "torch_dtype": _TORCH_NAMES[dtype],
    }
    if family == "qwen2":
        del facts["attention_bias"], facts["mlp_bias"]  # its query, key and value always have biases
    if family == "qwen3":
        del facts["mlp_bias"]
    return facts | config


def make_weights(facts: Mapping[str, Any], *, seed: int = 0, dtype: str = "bf16") -> dict[str, Tensor]:
    """Random weights under Hugging Face's names: unit-scale results everywhere, so that logits differ well."""
    random = np.random.default_rng(seed)
    weights: dict[str, Tensor] = {}
    for name, shape in weight_shapes(facts).items():
        values = random.standard_normal(shape, dtype=np.float32)
        if name.endswith("norm.weight"):
            values = 1.0 + 0.1 * values
        elif name.endswith(".bias"):
            values = 0.1 * values
        elif not name.startswith("model.embed_tokens"):
            values = values / math.sqrt(shape[-1])
        weights[name] = _stored(np.asarray(values, dtype=np.float32), dtype)
    return weights


def weight_shapes(facts: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Every weight a config asks for, by Hugging Face's name. Matrices are (out, in)."""
    family = facts["model_type"]
    hidden, inner = facts["hidden_size"], facts["intermediate_size"]
    heads, kv_heads = facts["num_attention_heads"], facts["num_key_value_heads"]
    head = facts.get("head_dim") or hidden // heads
    query, key = heads * head, kv_heads * head
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (facts["vocab_size"], hidden)}
    for layer in range(facts["num_hidden_layers"]):
        at = f"model.layers.{layer}."
        shapes[at + "input_layernorm.weight"] = (hidden,)
        for part, rows, columns in (("q", query, hidden), ("k", key, hidden), ("v", key, hidden), ("o", hidden, query)):
            shapes[f"{at}self_attn.{part}_proj.weight"] = (rows, columns)
            if facts.get("attention_bias") or (family == "qwen2" and part != "o"):
                shapes[f"{at}self_attn.{part}_proj.bias"] = (rows,)
        if family == "qwen3":
            shapes[at + "self_attn.q_norm.weight"] = (head,)
            shapes[at + "self_attn.k_norm.weight"] = (head,)
        shapes[at + "post_attention_layernorm.weight"] = (hidden,)
        for part, rows, columns in (("gate", inner, hidden), ("up", inner, hidden), ("down", hidden, inner)):
            shapes[f"{at}mlp.{part}_proj.weight"] = (rows, columns)
            if facts.get("mlp_bias"):
                shapes[f"{at}mlp.{part}_proj.bias"] = (rows,)
    shapes["model.norm.weight"] = (hidden,)
    if not facts["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (facts["vocab_size"], hidden)
    return shapes


def make_tokenizer() -> Tokenizer:
    """Every byte is a token, some pairs are merged, and three special tokens come last."""
    symbols = sorted(pre_tokenizers.ByteLevel.alphabet()) + [left + right for left, right in MERGES]
    tokenizer = Tokenizer(BPE({symbol: i for i, symbol in enumerate(symbols)}, list(MERGES)))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in SPECIAL_TOKENS])
    return tokenizer


def write_weights(folder: Path, weights: Mapping[str, Tensor], *, num_shards: int = 1) -> None:
    """`model.safetensors`, or `model-0000i-of-0000n.safetensors` with an index of which tensor is where."""
    if num_shards == 1:
        (folder / "model.safetensors").write_bytes(encode_safetensors(weights))
        return
    where: dict[str, str] = {}
    for shard in range(num_shards):
        names = list(weights)[shard::num_shards]
        path = folder / f"model-{shard + 1:05}-of-{num_shards:05}.safetensors"
        path.write_bytes(encode_safetensors({name: weights[name] for name in names}))
        where |= dict.fromkeys(names, path.name)
    total = sum(tensor.data.nbytes for tensor in weights.values())
    _write_json(
        folder / "model.safetensors.index.json",
        {"metadata": {"total_size": total}, "weight_map": dict(sorted(where.items()))},
    )


def encode_safetensors(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> bytes:
    """A whole safetensors file. Source: github.com/huggingface/safetensors, README, "Format"."""
    header: dict[str, Any] = {} if metadata is None else {"__metadata__": dict(metadata)}
    at = 0
    for name, tensor in tensors.items():
        end = at + tensor.data.nbytes
        header[name] = {"dtype": _FORMAT_NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    data = b"".join(np.ascontiguousarray(tensor.data).tobytes() for tensor in tensors.values())
    return len(text).to_bytes(8, "little") + text + data


def _stored(values: np.ndarray[Any, np.dtype[np.float32]], dtype: str) -> Tensor:
    if dtype == "bf16":
        return Tensor("bf16", bf16_from_f32(values))
    return Tensor("f16", values.astype(np.float16)) if dtype == "f16" else Tensor("f32", values)


def _tokenizer_config(context_length: int) -> dict[str, Any]:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": None,
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "model_max_length": context_length,
        "clean_up_tokenization_spaces": False,
        "chat_template": CHAT_TEMPLATE,
    }


def _write_json(path: Path, data: Any) -> None:
    path.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
