"""Writes a checkpoint as a Hugging Face model folder: bf16 safetensors and two configurations.

    python export.py RUN/checkpoint.pt ../tiny

The training log of the run goes along.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from batches import END_OF_TEXT_ID
from model import Shape

MAX_FILE_BYTES = 12_000_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    state = torch.load(arguments.checkpoint, weights_only=True)
    export(state["model"], Shape(**state["shape"]), arguments.out)
    shutil.copyfile(arguments.checkpoint.with_name("training_log.csv"), arguments.out / "training_log.csv")
    run = {"progress": state["progress"], "recipes": state["recipes"]}
    write_json(arguments.out / "training.json", run)


def export(weights: dict[str, torch.Tensor], shape: Shape, out: Path) -> None:
    tensors = {f"model.{name}": tensor.to(torch.bfloat16).contiguous() for name, tensor in weights.items()}
    out.mkdir(parents=True, exist_ok=True)
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    write_json(out / "config.json", config_of(shape))
    write_json(out / "generation_config.json", GENERATION)
    (out / "model.safetensors").chmod(0o644)
    size = (out / "model.safetensors").stat().st_size
    assert size <= MAX_FILE_BYTES, f"{size} bytes of weights"
    print(f"{sum(tensor.numel() for tensor in tensors.values())} parameters, {size} bytes")


def config_of(shape: Shape) -> dict[str, Any]:
    """The `config.json` of a LlamaForCausalLM with this shape."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": shape.vocab_size,
        "hidden_size": shape.hidden_size,
        "intermediate_size": shape.intermediate_size,
        "num_hidden_layers": shape.num_layers,
        "num_attention_heads": shape.num_heads,
        "num_key_value_heads": shape.num_kv_heads,
        "head_dim": shape.head_size,
        "max_position_embeddings": shape.context,
        "rope_theta": shape.rope_theta,
        "rms_norm_eps": shape.norm_epsilon,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": True,
        "bos_token_id": END_OF_TEXT_ID,
        "eos_token_id": END_OF_TEXT_ID,
        "pad_token_id": END_OF_TEXT_ID,
        "torch_dtype": "bfloat16",
    }


GENERATION: dict[str, Any] = {
    "bos_token_id": END_OF_TEXT_ID,
    "eos_token_id": END_OF_TEXT_ID,
    "pad_token_id": END_OF_TEXT_ID,
    "do_sample": True,
    "temperature": 0.9,  # colder, a model this small falls into loops
    "top_p": 0.95,
    "max_new_tokens": 256,
}


def write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n")


if __name__ == "__main__":
    main()
