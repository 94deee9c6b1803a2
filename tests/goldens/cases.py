"""The small random models whose logits are kept: their configs, and weights that NumPy makes again from a seed.

Each config is written as a model's author would write it (both the older and the newer form of rope settings), and
together they cover grouped, single and full key/value heads, tied and untied heads, biases, QK-norm, every rope
scaling, sliding windows, activations, and sizes that are no power of two.
"""

from __future__ import annotations

import json
import math
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thaloom.hal.ops import Program
from thaloom.hal.tensors import Tensor

FOLDER = Path(__file__).parent
RECORD = FOLDER / "record.json"
LOGITS = FOLDER / "logits.npz"
NUM_TOKENS = 40

_FAMILIES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}


def _config(family: str, **changes: Any) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "architectures": [_FAMILIES[family]],
        "model_type": family,
        "vocab_size": 59,
        "hidden_size": 48,
        "intermediate_size": 80,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "hidden_act": "silu",
        "max_position_embeddings": 128,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    if family == "qwen3":
        facts["head_dim"] = 16
    return facts | changes


def _rope(kind: str, **settings: Any) -> dict[str, Any]:
    """The form of transformers 5."""
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 10000.0} | settings}


_LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 16}
_YARN = {"factor": 4.0, "original_max_position_embeddings": 32}

CONFIGS: dict[str, dict[str, Any]] = {
    "llama-grouped": _config("llama"),
    "llama-tied": _config("llama", tie_word_embeddings=True, rope_theta=500000.0),
    "llama-all-heads": _config("llama", num_key_value_heads=4, rms_norm_eps=1e-5),
    "llama-odd-sizes": _config(
        "llama",
        hidden_size=45,
        intermediate_size=71,
        num_hidden_layers=3,
        num_attention_heads=3,
        num_key_value_heads=1,
        head_dim=14,
        vocab_size=61,
    ),
    "llama-attention-bias": _config("llama", attention_bias=True),
    "llama-all-biases": _config("llama", attention_bias=True, mlp_bias=True, tie_word_embeddings=True),
    "llama-gelu-tanh": _config("llama", hidden_act="gelu_pytorch_tanh"),
    "llama-gelu": _config("llama", hidden_act="gelu"),
    "llama-relu": _config("llama", hidden_act="relu"),
    "llama-rope-default": _config("llama", **_rope("default", rope_theta=100.0)),
    "llama-rope-linear": _config("llama", **_rope("linear", factor=3.0)),
    "llama-rope-linear-old": _config("llama", rope_theta=2000.0, rope_scaling={"type": "linear", "factor": 2.0}),
    "llama-rope-llama3": _config("llama", **_rope("llama3", **_LLAMA3)),
    "llama-rope-llama3-old": _config("llama", rope_theta=5000.0, rope_scaling={"rope_type": "llama3"} | _LLAMA3),
    "llama-rope-yarn": _config("llama", **_rope("yarn", **_YARN)),
    "llama-rope-yarn-old": _config("llama", rope_theta=1000.0, rope_scaling={"type": "yarn"} | _YARN),
    "llama-rope-yarn-given": _config(
        "llama", **_rope("yarn", **_YARN, beta_fast=16.0, beta_slow=2.0, attention_factor=0.8)
    ),
    "llama-rope-yarn-mscale": _config("llama", **_rope("yarn", **_YARN, mscale=1.5, mscale_all_dim=0.5)),
    "qwen2-tied": _config("qwen2", tie_word_embeddings=True),
    "qwen2-one-kv-head": _config("qwen2", num_attention_heads=6, num_key_value_heads=1, rope_theta=1000000.0),
    "qwen2-yarn-old": _config("qwen2", rope_theta=1000.0, rope_scaling={"type": "yarn"} | _YARN),
    "qwen2-window": _config("qwen2", use_sliding_window=True, sliding_window=7, max_window_layers=1),
    "qwen2-layer-types": _config(
        "qwen2",
        use_sliding_window=True,
        sliding_window=18,
        layer_types=["sliding_attention", "full_attention"],
    ),
    "qwen3-tied": _config("qwen3", tie_word_embeddings=True),
    "qwen3-untied": _config("qwen3", num_key_value_heads=4, head_dim=20),
    "qwen3-bias": _config("qwen3", attention_bias=True, num_hidden_layers=3),
    "qwen3-window": _config("qwen3", use_sliding_window=True, sliding_window=5, max_window_layers=0),
    "qwen3-linear": _config("qwen3", **_rope("linear", factor=2.5)),
    "qwen3-yarn": _config("qwen3", **_rope("yarn", **_YARN)),
    "qwen3-odd-sizes": _config(
        "qwen3",
        hidden_size=39,
        intermediate_size=50,
        num_attention_heads=3,
        num_key_value_heads=3,
        head_dim=10,
        vocab_size=53,
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Golden:
    """One model and what transformers computed for it: logits (NUM_TOKENS, vocab_size), f32."""

    name: str
    config: dict[str, Any]
    seed: int
    tokens: NDArray[np.int32]
    logits: NDArray[np.float32]


def load() -> list[Golden]:
    """All that is kept, in order of name. The record says with which versions it was made."""
    record = json.loads(RECORD.read_text(encoding="utf-8"))
    with np.load(LOGITS, allow_pickle=False) as logits:
        return [
            Golden(
                name=case["name"],
                config=case["config"],
                seed=case["seed"],
                tokens=np.array(case["tokens"], np.int32),
                logits=logits[case["name"]],
            )
            for case in record["cases"]
        ]


def seed_of(name: str) -> int:
    return zlib.crc32(name.encode())


def make_tokens(name: str, vocab_size: int) -> list[int]:
    return (_uniform(seed_of(name), "tokens", (NUM_TOKENS,)) * vocab_size).astype(np.int64).tolist()


def make_weights(program: Program, seed: int) -> dict[str, Tensor]:
    """Weights of the program that keep activations near unit scale, with scores sharp enough to tell rows apart.

    From raw bits of a counter-based generator, whose stream NumPy promises not to change (NEP 19).
    """
    tensors = {}
    for name, shape in program.weights.items():
        spread = (_uniform(seed, name, shape) - 0.5) * math.sqrt(12)
        if name.endswith("norm.weight"):
            values = 1 + 0.2 * spread
        elif len(shape) == 1:
            values = 0.3 * spread
        else:
            values = spread if "embed" in name else 1.5 * spread / math.sqrt(shape[1])
        tensors[name] = Tensor("f32", values.astype(np.float32))
    return tensors


def _uniform(seed: int, name: str, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Multiples of 2**-24 in [0, 1), by seed and name."""
    bits = np.random.Philox(key=[seed, zlib.crc32(name.encode())]).random_raw(math.prod(shape))
    return (np.asarray(bits, np.uint64) >> np.uint64(40)).reshape(shape) * 2.0**-24
