"""Makes record.json and logits.npz again, with torch and transformers. `make goldens` runs it in a venv of its own.

The model's own weights' names and shapes must be exactly those of our program: a difference stops it here.
"""

from __future__ import annotations

import json
import platform
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import torch
import transformers

from tests.goldens.cases import CONFIGS, LOGITS, RECORD, make_tokens, make_weights, seed_of
from thaloom.hal.ops import Program
from thaloom.work.runtime.architectures.llama import Llama
from thaloom.work.runtime.architectures.qwen2 import Qwen2
from thaloom.work.runtime.architectures.qwen3 import Qwen3

FAMILIES = {"llama": Llama(), "qwen2": Qwen2(), "qwen3": Qwen3()}


def main() -> None:
    torch.set_num_threads(1)
    cases, logits = [], {}
    for name, config in sorted(CONFIGS.items()):
        program = FAMILIES[config["model_type"]].build(config)
        tokens = make_tokens(name, config["vocab_size"])
        logits[name] = compute(config, program, seed_of(name), tokens)
        cases.append({"name": name, "config": config, "seed": seed_of(name), "tokens": tokens})
        print(f"{name}: |logits| up to {np.abs(logits[name]).max():.2f}")
    record = {
        "made_with": {
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
            "machine": platform.machine(),
        },
        "cases": cases,
    }
    RECORD.write_text(dump(record), encoding="utf-8")
    np.savez(LOGITS, **logits)
    print(f"{len(cases)} cases, {LOGITS.stat().st_size + RECORD.stat().st_size} bytes")


def compute(config: dict[str, object], program: Program, seed: int, tokens: list[int]) -> np.ndarray:
    """Logits of every position, (len(tokens), vocab_size), in f32 on one thread."""
    settings = transformers.AutoConfig.for_model(config["model_type"]).__class__.from_dict(
        json.loads(json.dumps(config))
    )
    model = transformers.AutoModelForCausalLM.from_config(settings, dtype=torch.float32, attn_implementation="eager")
    weights = {name: torch.from_numpy(tensor.to_f32().copy()) for name, tensor in make_weights(program, seed).items()}
    expected = set(model.state_dict())
    if settings.tie_word_embeddings:
        expected -= {"lm_head.weight"}
    if set(weights) != expected:
        raise SystemExit(f"names of weights differ: {sorted(set(weights) ^ expected)}")
    model.load_state_dict(weights, strict=not settings.tie_word_embeddings)
    model.tie_weights()
    model.eval()
    with torch.no_grad():
        return model(input_ids=torch.tensor([tokens])).logits[0].numpy().astype(np.float32)


def dump(record: dict[str, object]) -> str:
    """One line for each case, so that a difference in the history shows which changed."""
    cases = ",\n".join(json.dumps(case) for case in record["cases"])
    return f'{{"made_with": {json.dumps(record["made_with"])},\n"cases": [\n{cases}\n]}}\n'


if __name__ == "__main__":
    main()
