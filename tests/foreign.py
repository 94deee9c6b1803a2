"""Models of other formats, made from `tests.models`: GGUF as llama.cpp writes it, AWQ, GPTQ and compressed-tensors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from gguf import GGMLQuantizationType, quants

from tests.gguf_files import Blocks, Typed, encode_gguf
from tests.models import encode_safetensors
from thaloom.hal.tensors import Tensor, bf16_from_f32

Values = np.ndarray
NAMES = {
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}  # fmt: skip


def gguf_name(name: str) -> str:
    whole = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
    stem, _, kind = name.rpartition(".")
    if stem in whole:
        return f"{whole[stem]}.{kind}"
    _, _, layer, part = stem.split(".", 3)
    return f"blk.{layer}.{NAMES[part]}.{kind}"


def interleaved(values: Values, heads: int) -> Values:
    """As llama.cpp's converter puts the rows of queries and keys. Source: convert_hf_to_gguf.py, LlamaModel.permute."""
    shape = values.shape
    return values.reshape(heads, 2, shape[0] // heads // 2, *shape[1:]).swapaxes(1, 2).reshape(shape)


def blocks(values: Values, kind: str) -> Blocks:
    """A tensor quantised by the format's own package, or stored in floats."""
    if kind == "BF16":
        return Blocks(30, values.shape, bf16_from_f32(values.astype(np.float32)).tobytes())
    number = GGMLQuantizationType[kind]
    data = quants.quantize(np.ascontiguousarray(values, np.float32), number)
    return Blocks(int(number.value), values.shape, data.tobytes())


def gguf_metadata(config: Mapping[str, Any], tokenizer: Mapping[str, Any] | None, **changed: Any) -> dict[str, Any]:
    """What llama.cpp's converter writes for a model of this config.json and tokenizer.json."""
    family = config["model_type"]
    metadata: dict[str, Any] = {
        "general.architecture": family,
        "general.name": "Test",
        "general.license": "mit",
        f"{family}.block_count": config["num_hidden_layers"],
        f"{family}.context_length": config["max_position_embeddings"],
        f"{family}.embedding_length": config["hidden_size"],
        f"{family}.feed_forward_length": config["intermediate_size"],
        f"{family}.attention.head_count": config["num_attention_heads"],
        f"{family}.attention.head_count_kv": config["num_key_value_heads"],
        f"{family}.attention.key_length": config["head_dim"],
        f"{family}.attention.layer_norm_rms_epsilon": float(config["rms_norm_eps"]),
        f"{family}.rope.freq_base": float(config["rope_theta"]),
        f"{family}.vocab_size": config["vocab_size"],
    }
    if tokenizer is not None:
        tokens, merges, kinds = _vocabulary(tokenizer)
        metadata |= {
            "tokenizer.ggml.model": "gpt2",
            "tokenizer.ggml.pre": "gpt-2",
            "tokenizer.ggml.tokens": tokens,
            "tokenizer.ggml.token_type": Typed("i32", kinds),
            "tokenizer.ggml.merges": merges,
            "tokenizer.ggml.eos_token_id": tokens.index("<|im_end|>"),
            "tokenizer.ggml.padding_token_id": tokens.index("<|endoftext|>"),
            "tokenizer.ggml.add_bos_token": False,
        }
    return {key: value for key, value in (metadata | changed).items() if value is not None}


def _vocabulary(tokenizer: Mapping[str, Any]) -> tuple[list[str], list[str], list[int]]:
    vocabulary = dict(tokenizer["model"]["vocab"]) | {t["content"]: t["id"] for t in tokenizer["added_tokens"]}
    tokens = sorted(vocabulary, key=lambda token: vocabulary[token])
    special = {t["content"] for t in tokenizer["added_tokens"]}
    merges = [m if isinstance(m, str) else " ".join(m) for m in tokenizer["model"]["merges"]]
    return tokens, merges, [3 if token in special else 1 for token in tokens]


def gguf_tensors(
    config: Mapping[str, Any], weights: Mapping[str, Values], kinds: Mapping[str, str] | str
) -> dict[str, Blocks]:
    """As llama.cpp's converter names, orders and quantises them."""
    tensors = {}
    for name, values in weights.items():
        if config["model_type"] == "llama" and (".q_proj" in name or ".k_proj" in name):
            heads = config["num_attention_heads" if ".q_proj" in name else "num_key_value_heads"]
            values = interleaved(values, heads)
        kind = kinds if isinstance(kinds, str) else kinds.get(name, "F32")
        tensors[gguf_name(name)] = blocks(values, kind if values.ndim > 1 else "F32")
    return tensors


def make_gguf(
    path: Path, config: Mapping[str, Any], weights: Mapping[str, Values], *, kinds: Mapping[str, str] | str = "F32",
    tokenizer: Mapping[str, Any] | None = None, **changed: Any,
) -> Path:  # fmt: skip
    """`kinds`: type of the matrices, by our name or for all; vectors are F32, as llama.cpp leaves them."""
    tensors = gguf_tensors(config, weights, kinds)
    path.write_bytes(encode_gguf(gguf_metadata(config, tokenizer, **changed), tensors))
    return path


def pack_words(numbers: Values, order: tuple[int, ...] = tuple(range(8))) -> Values:
    """(rows, columns) numbers of 4 bits as (rows, columns / 8) words; nibble i of a word is its column order[i]."""
    parts = numbers.reshape(len(numbers), -1, 8).astype(np.uint32)[:, :, list(order)]
    return (parts << (4 * np.arange(8, dtype=np.uint32))).sum(axis=2, dtype=np.uint32).view(np.int32)


def make_checkpoint(
    folder: Path, method: Literal["awq", "gptq"], config: Mapping[str, Any], weights: Mapping[str, Values],
    numbers: Mapping[str, tuple[Values, Values, Values]], settings: Mapping[str, Any], indices: Mapping[str, Values],
) -> Path:  # fmt: skip
    """`numbers`: name of a projection -> (numbers, zeros, scales), (inputs, outputs) and (groups, outputs) twice."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: Tensor("f16", values.astype(np.float16)) for name, values in weights.items()}
    awq = (0, 2, 4, 6, 1, 3, 5, 7)
    for name, (whole, zeros, scales) in numbers.items():
        stem = name.removesuffix(".weight")
        del tensors[name]
        if method == "awq":
            parts = {"qweight": pack_words(whole, awq), "qzeros": pack_words(zeros, awq)}
        else:
            parts = {"qweight": pack_words(whole.T).T, "qzeros": pack_words(zeros - 1)}
        tensors |= {f"{stem}.{part}": Tensor("i32", np.ascontiguousarray(words)) for part, words in parts.items()}
        tensors[f"{stem}.scales"] = Tensor("f16", scales.astype(np.float16))
        if name in indices:
            tensors[f"{stem}.g_idx"] = Tensor("i32", indices[name].astype(np.int32))
    (folder / "model.safetensors").write_bytes(encode_safetensors(tensors))
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": dict(settings)}))
    return folder
