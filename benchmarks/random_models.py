"""Make a model of random weights in a published shape: `python benchmarks/random_models.py qwen2.5-0.5b FOLDER`.

Speed does not depend on what the weights are, so a benchmark needs no download, and nobody's licence. What comes out
is an ordinary Hugging Face folder: config.json, generation_config.json, tokenizer.json, tokenizer_config.json and
model.safetensors in bf16. Matrices are normal with deviation 0.02, biases too, norms are 1.

* The weights depend on the shape and the seed alone. The vocabulary is byte-level BPE learnt from this Python's own
  standard library, then filled up with made-up words: every id that a model may answer has a text.
* `--outlier-channels N` gives N channels of every norm a weight of `--outlier-gain`: activations then have the few
  large channels that trained models have and that whole-number formats suffer from. Quality is judged on such a model,
  never on plain random weights, whose channels are all alike.

Cost: the 0.5 B shape takes some 10 s, 1 GB of disk and 1 GB of memory. A folder that is there and was made by the same
recipe is left as it is.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from thaloom.hal.tensors import bf16_from_f32

DEVIATION = 0.02
LEARNT_ENTRIES = 8000
END_OF_TEXT = "<|endoftext|>"
CHAT_TEMPLATE = "{%- for message in messages -%}{{- message['content'] -}}{{- '\n\n' -}}{%- endfor -%}"
RECIPE = "random_model.json"
_CHUNK = 1 << 24
"""Weights drawn at once, so that a large table is never whole in f32."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What decides the work of a forward pass, and the recipe of the numbers."""

    family: Literal["llama", "qwen2"]
    layers: int
    hidden: int
    mlp: int
    heads: int
    kv_heads: int
    head_size: int
    vocab: int
    context: int
    rope_theta: float
    outlier_channels: int = 0
    outlier_gain: float = 1.0

    @property
    def qkv_bias(self) -> bool:
        return self.family == "qwen2"


SHAPES = {
    "qwen2.5-0.5b": Shape(
        family="qwen2", layers=24, hidden=896, mlp=4864, heads=14, kv_heads=2, head_size=64,
        vocab=151_936, context=32_768, rope_theta=1e6,
    ),
    "llama-135m": Shape(
        family="llama", layers=30, hidden=576, mlp=1536, heads=9, kv_heads=3, head_size=64,
        vocab=49_152, context=8192, rope_theta=1e5,
    ),
    "toy": Shape(
        family="qwen2", layers=2, hidden=64, mlp=160, heads=4, kv_heads=2, head_size=16,
        vocab=512, context=512, rope_theta=1e4,
    ),
}  # fmt: skip
"""Qwen2.5-0.5B (494.0 M parameters), SmolLM2-135M (134.5 M), and one that is made in an instant."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--outlier-channels", type=int, default=0)
    parser.add_argument("--outlier-gain", type=float, default=20.0)
    given = parser.parse_args()
    shape = SHAPES[given.shape]
    if given.outlier_channels:
        shape = replace(shape, outlier_channels=given.outlier_channels, outlier_gain=given.outlier_gain)
    make(shape, given.folder, seed=given.seed)
    return 0


def make(shape: Shape, folder: Path, *, seed: int = 0) -> Path:
    """The model in `folder`, made now or found there from before. Anything else in its place is replaced."""
    recipe = {**asdict(shape), "seed": seed, "version": 1}
    try:
        if json.loads((folder / RECIPE).read_text()) == recipe:
            return folder
    except (OSError, ValueError):
        pass
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    with (partial / "model.safetensors").open("wb") as file:
        write_weights(shape, seed, file)
    write_tokenizer(shape, partial)
    write_json(partial / "config.json", config(shape))
    write_json(
        partial / "generation_config.json",
        {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0, "do_sample": False},
    )
    write_json(partial / RECIPE, recipe)
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)
    return folder


def config(shape: Shape) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "architectures": [{"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM"}[shape.family]],
        "model_type": shape.family,
        "vocab_size": shape.vocab,
        "hidden_size": shape.hidden,
        "intermediate_size": shape.mlp,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_size,
        "max_position_embeddings": shape.context,
        "rope_theta": shape.rope_theta,
        "rms_norm_eps": 1e-6,
        "hidden_act": "silu",
        "tie_word_embeddings": True,
        "initializer_range": DEVIATION,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "pad_token_id": 0,
        "torch_dtype": "bfloat16",
    }
    if shape.family == "qwen2":
        return {**fields, "use_sliding_window": False, "max_window_layers": shape.layers, "sliding_window": None}
    return {**fields, "attention_bias": False, "mlp_bias": False}


def tensor_shapes(shape: Shape) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Every tensor by its Hugging Face name, in the order of the file. The head is the embedding's table."""
    yield "model.embed_tokens.weight", (shape.vocab, shape.hidden)
    q, kv = shape.heads * shape.head_size, shape.kv_heads * shape.head_size
    for layer in range(shape.layers):
        at = f"model.layers.{layer}"
        yield f"{at}.input_layernorm.weight", (shape.hidden,)
        for name, rows in (("q", q), ("k", kv), ("v", kv)):
            yield f"{at}.self_attn.{name}_proj.weight", (rows, shape.hidden)
            if shape.qkv_bias:
                yield f"{at}.self_attn.{name}_proj.bias", (rows,)
        yield f"{at}.self_attn.o_proj.weight", (shape.hidden, q)
        yield f"{at}.post_attention_layernorm.weight", (shape.hidden,)
        yield f"{at}.mlp.gate_proj.weight", (shape.mlp, shape.hidden)
        yield f"{at}.mlp.up_proj.weight", (shape.mlp, shape.hidden)
        yield f"{at}.mlp.down_proj.weight", (shape.hidden, shape.mlp)
    yield "model.norm.weight", (shape.hidden,)


def write_weights(shape: Shape, seed: int, file: BinaryIO) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, dimensions in tensor_shapes(shape):
        end = at + 2 * int(np.prod(dimensions))
        header[name] = {"dtype": "BF16", "shape": list(dimensions), "data_offsets": [at, end]}
        at = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)
    for name, dimensions in tensor_shapes(shape):
        for values in draw(shape, seed, name, int(np.prod(dimensions))):
            file.write(bf16_from_f32(values).tobytes())


def draw(shape: Shape, seed: int, name: str, count: int) -> Iterator[NDArray[np.float32]]:
    """The numbers of one tensor, in pieces. Each tensor has a stream of its own, so that layers do not shift others."""
    own = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    generator = np.random.Generator(np.random.SFC64([seed, own]))
    if name.endswith("norm.weight"):
        values = np.ones(count, np.float32)
        chosen = np.random.Generator(np.random.SFC64([seed, 0])).permutation(count)[: shape.outlier_channels]
        values[chosen] = shape.outlier_gain
        yield values
        return
    for start in range(0, count, _CHUNK):
        yield generator.standard_normal(min(_CHUNK, count - start), dtype=np.float32) * np.float32(DEVIATION)


def write_tokenizer(shape: Shape, folder: Path) -> None:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    entries = min(LEARNT_ENTRIES, shape.vocab)
    trainer = trainers.BpeTrainer(
        vocab_size=entries,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_sources(entries // 40), trainer)
    told = json.loads(tokenizer.to_str())
    vocabulary: dict[str, int] = told["model"]["vocab"]
    for number in range(len(vocabulary), shape.vocab):
        vocabulary[f"Ġfiller{number}"] = number  # Ġ: how byte-level BPE writes the space before a word
    write_json(folder / "tokenizer.json", told)
    write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": shape.context,
            "eos_token": END_OF_TEXT,
            "pad_token": END_OF_TEXT,
            "add_bos_token": False,
            "add_eos_token": False,
            "clean_up_tokenization_spaces": False,
            "chat_template": CHAT_TEMPLATE,
        },
    )


def _sources(count: int) -> Iterator[str]:
    """So many files of the standard library; 200 are some 5 MB of text."""
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))[:count]:
        yield path.read_text(encoding="utf-8", errors="replace")


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
