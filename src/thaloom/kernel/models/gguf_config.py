"""From a GGUF file's metadata to config.json, and from its tensors' names to ours: llama, qwen2 and qwen3.

Every key below `<architecture>.` is either used, known to change nothing, or refused by name: a model that asks for
something must not be run without it. Source: ggml docs/gguf.md, "LLM"; gguf-py constants.py (keys and tensor names).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, NoReturn, TypeVar

import numpy as np
from numpy.typing import NDArray

from thaloom.base.errors import MalformedFile, NotServable
from thaloom.kernel.models.gguf import GgufHeader, Value

Number = TypeVar("Number", bound=np.generic)

FAMILIES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}
ROPE_FACTORS = "rope_freqs.weight"
"""What Llama 3.1 divides its rotary frequencies by: a tensor here, four numbers in config.json."""

_WHOLE = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_IN_LAYER = {
    "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj", "attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm",
    "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}  # fmt: skip
_LAYER_TENSOR = re.compile(r"blk\.(\d{1,4})\.([a-z_]+)\.(weight|bias)")
_WHOLE_TENSOR = re.compile(r"([a-z_]+)\.(weight|bias)")
_HARMLESS = frozenset({"vocab_size", "rope.scaling.finetuned", "tensor_data_layout"})
_LOW_FREQUENCY, _HIGH_FREQUENCY, _ORIGINAL_CONTEXT = 1.0, 4.0, 8192
"""What every Llama 3 has in `rope_scaling`; only the factor differs (8 in 3.1, 32 in 3.2)."""


def tensor_name(name: str) -> str | None:
    """Our name of a tensor: Hugging Face's. None if no family here has such a tensor."""
    if match := _LAYER_TENSOR.fullmatch(name):
        part = _IN_LAYER.get(match[2])
        return None if part is None else f"model.layers.{int(match[1])}.{part}.{match[3]}"
    match = _WHOLE_TENSOR.fullmatch(name)
    part = None if match is None else _WHOLE.get(match[1])
    return None if part is None or match is None else f"{part}.{match[2]}"


def rotary_heads(name: str, config: Mapping[str, Any]) -> int:
    """Heads whose rows the writer interleaved, 0 if it did not: queries and keys of `llama` files alone.

    Source: llama.cpp, convert_hf_to_gguf.py, LlamaModel.permute.
    """
    if config["model_type"] != "llama":
        return 0
    if ".self_attn.q_proj." in name:
        return int(config["num_attention_heads"])
    return int(config["num_key_value_heads"]) if ".self_attn.k_proj." in name else 0


def in_halves(rows: NDArray[Number], num_heads: int) -> NDArray[Number]:
    """Undo the interleaving: rows (heads * size, ...) in pairs become, for each head, first halves, then second."""
    size = len(rows) // num_heads
    pairs = rows.reshape(num_heads, size // 2, 2, *rows.shape[1:])
    return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(rows.shape)


def read_config(file: str, header: GgufHeader, rope_factors: NDArray[np.float32] | None) -> dict[str, Any]:
    """config.json of a model. `rope_factors`: the tensor of that name, if the file has it.

    Raises NotServable naming the key, MalformedFile for a value that cannot be.
    """
    architecture = header.metadata.get("general.architecture")
    if architecture not in FAMILIES or not isinstance(architecture, str):
        raise NotServable(f"{file!r} is of architecture {architecture!r}; read are {', '.join(FAMILIES)}", param="path")
    keys = _Keys(file, header.metadata, architecture)
    tensors = {tensor.name: tensor for tensor in header.tensors}
    if "token_embd.weight" not in tensors:
        raise MalformedFile(f"{file!r} has no tensor 'token_embd.weight'", file=file)
    hidden, heads = keys.whole("embedding_length"), keys.whole("attention.head_count")
    context = keys.whole("context_length")
    head_size = keys.whole("attention.key_length", hidden // heads)
    if keys.whole("attention.value_length", head_size) != head_size:
        keys.refuse("attention.value_length")
    if keys.whole("rope.dimension_count", head_size) != head_size:
        keys.refuse("rope.dimension_count")
    window = keys.whole("attention.sliding_window", 0, least=0)
    if 0 < window < context:
        keys.refuse("attention.sliding_window")
    for key in ("expert_count", "expert_used_count"):
        if keys.whole(key, 0, least=0):
            keys.refuse(key)
    config = {
        "architectures": [FAMILIES[architecture]],
        "model_type": architecture,
        "vocab_size": tensors["token_embd.weight"].shape[0],
        "hidden_size": hidden,
        "intermediate_size": keys.whole("feed_forward_length"),
        "num_hidden_layers": keys.whole("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": keys.whole("attention.head_count_kv", heads),
        "head_dim": head_size,
        "max_position_embeddings": context,
        "rms_norm_eps": keys.number("attention.layer_norm_rms_epsilon"),
        "rope_theta": keys.number("rope.freq_base", 10_000.0),
        "rope_scaling": _rope_scaling(keys, rope_factors, head_size),
        "hidden_act": "silu",
        "tie_word_embeddings": "output.weight" not in tensors,
    }
    if architecture != "qwen2":
        config["attention_bias"] = "blk.0.attn_q.bias" in tensors
    if architecture == "llama":
        config["mlp_bias"] = "blk.0.ffn_gate.bias" in tensors
    keys.finish()
    return config


def _rope_scaling(keys: _Keys, factors: NDArray[np.float32] | None, head_size: int) -> dict[str, Any] | None:
    kind = keys.word("rope.scaling.type", "none")
    factor = keys.number("rope.scaling.factor", 0.0, least=0.0) or keys.number("rope.scale_linear", 1.0)
    original = keys.whole("rope.scaling.original_context_length", 0, least=0)
    attention = keys.number("rope.scaling.attn_factor", 1.0)
    if factors is not None:
        return _llama3_scaling(keys, factors, head_size, original or _ORIGINAL_CONTEXT)
    if attention != 1.0:
        keys.refuse("rope.scaling.attn_factor")
    if kind == "yarn":
        return {"rope_type": "yarn", "factor": factor, "original_max_position_embeddings": original or None}
    if kind not in ("none", "linear"):
        keys.refuse("rope.scaling.type")
    return None if factor == 1.0 else {"rope_type": "linear", "factor": factor}


def _llama3_scaling(keys: _Keys, factors: NDArray[np.float32], head_size: int, original: int) -> dict[str, Any]:
    """The numbers that give these factors. Raises NotServable if none of Llama 3's do."""
    base = keys.number("rope.freq_base", 10_000.0)
    factor = round(float(factors.max()), 3) if factors.size else 0.0
    if factors.shape != (head_size // 2,) or not 1.0 <= factor <= 1024.0:
        raise NotServable(f"{keys.file!r}: {ROPE_FACTORS!r} is not what Llama 3 has", param="path")
    lengths = 2 * math.pi * base ** (np.arange(0, head_size, 2) / head_size)
    smooth = (original / lengths - _LOW_FREQUENCY) / (_HIGH_FREQUENCY - _LOW_FREQUENCY)
    expected = 1.0 / ((1.0 - np.clip(smooth, 0.0, 1.0)) / factor + np.clip(smooth, 0.0, 1.0))
    if not np.allclose(expected, factors, rtol=1e-4):
        raise NotServable(f"{keys.file!r}: {ROPE_FACTORS!r} is not what Llama 3 has", param="path")
    return {
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": _LOW_FREQUENCY,
        "high_freq_factor": _HIGH_FREQUENCY,
        "original_max_position_embeddings": original,
    }


class _Keys:
    """One pass over the keys of an architecture: take each that is understood, then `finish`."""

    def __init__(self, file: str, metadata: Mapping[str, Value], architecture: str) -> None:
        self.file = file
        self._prefix = architecture + "."
        self._metadata = metadata
        self._taken: set[str] = set()

    def whole(self, key: str, default: int | None = None, *, least: int = 1) -> int:
        value = self._take(key, default)
        if isinstance(value, np.ndarray) and value.size and (value == value.flat[0]).all():
            value = value.flat[0].item()  # one number a layer, all the same
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value < 2**31:
            self._impossible(key, value)
        return value

    def number(self, key: str, default: float | None = None, *, least: float = 1e-12) -> float:
        value = self._take(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value < math.inf:
            self._impossible(key, value)
        return _shortest(value)

    def word(self, key: str, default: str) -> str:
        value = self._take(key, default)
        if not isinstance(value, str):
            self._impossible(key, value)
        return value

    def refuse(self, key: str) -> NoReturn:
        name = self._prefix + key
        shown = str(self._metadata.get(name))[:80]
        raise NotServable(f"{self.file!r} has {name!r} = {shown}, which nothing here can run", param=name)

    def finish(self) -> None:
        """Raises NotServable for the first key, in order of name, that nobody took."""
        for name in sorted(self._metadata):
            key = name.removeprefix(self._prefix)
            if key != name and key not in self._taken | _HARMLESS:
                self.refuse(key)

    def _take(self, key: str, default: Any) -> Any:
        self._taken.add(key)
        value = self._metadata.get(self._prefix + key, default)
        if value is None:
            raise MalformedFile(f"{self.file!r} has no metadata {self._prefix + key!r}", file=self.file)
        return value

    def _impossible(self, key: str, value: object) -> NoReturn:
        raise MalformedFile(f"{self.file!r} has {self._prefix + key!r} = {str(value)[:80]}", file=self.file)


def _shortest(value: float) -> float:
    """The decimal a float32 was most likely written as: 1e-05 and not 9.999999747378752e-06."""
    if math.isfinite(value) and float(np.float32(value)) == value:
        return float(str(np.float32(value)))
    return float(value)
