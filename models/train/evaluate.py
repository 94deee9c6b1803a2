"""Bits per byte of an exported model on the held-out documents, beside `xz -9e` of the same text.

    python evaluate.py ../tiny WORK_FOLDER/corpus/heldout.jsonl

The model reads each document after an end-of-text token, in windows of 1024
tokens that advance by 512; a token is scored in the first window that
reaches it, so it has at least 512 tokens of context, or all its document
offers. The end-of-text token closing each document is scored too. xz
compresses the documents joined end to end, as one stream. The record goes to
evaluation.json beside the weights.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from tokenizers import Tokenizer

from batches import END_OF_TEXT_ID
from model import Shape, TinyLlama

STRIDE = 512
BATCH = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("heldout", type=Path)
    parser.add_argument("--fast", action="store_true", help="products in bfloat16: a fifth of the time")
    parser.add_argument("--dry", action="store_true", help="print only; leave evaluation.json alone")
    arguments = parser.parse_args()
    with arguments.heldout.open() as lines:
        texts = [json.loads(line)["text"] for line in lines]
    text = "".join(texts).encode()
    tokenizer = Tokenizer.from_file(str(arguments.model / "tokenizer.json"))
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=arguments.fast):
        num_tokens, bits = score(load(arguments.model), tokenizer, texts)
    xz_bytes = len(subprocess.run(["xz", "-9e", "-c"], input=text, capture_output=True, check=True).stdout)
    record = {
        "heldout_documents": len(texts),
        "heldout_bytes": len(text),
        "heldout_sha256": sha256(text).hexdigest(),
        "heldout_tokens": num_tokens,
        "bits_per_byte": round(bits / len(text), 4),
        "bits_per_token": round(bits / num_tokens, 4),
        "xz_9e_bytes": xz_bytes,
        "xz_9e_bits_per_byte": round(8 * xz_bytes / len(text), 4),
        "window_tokens": 2 * STRIDE,
        "stride_tokens": STRIDE,
        "weights_sha256": sha256((arguments.model / "model.safetensors").read_bytes()).hexdigest(),
        "arithmetic": "weights bf16, products in " + ("bfloat16" if arguments.fast else "float32"),
        "torch": torch.__version__,
    }
    print(json.dumps(record, indent=2))
    if not arguments.dry:
        (arguments.model / "evaluation.json").write_text(json.dumps(record, indent=2) + "\n")


def load(folder: Path) -> TinyLlama:
    """Reads an exported folder back into the plain torch network, in float32."""
    config = json.loads((folder / "config.json").read_text())
    shape = Shape(
        vocab_size=config["vocab_size"],
        hidden_size=config["hidden_size"],
        intermediate_size=config["intermediate_size"],
        num_layers=config["num_hidden_layers"],
        num_heads=config["num_attention_heads"],
        num_kv_heads=config["num_key_value_heads"],
        head_size=config["head_dim"],
        context=config["max_position_embeddings"],
        rope_theta=config["rope_theta"],
        norm_epsilon=config["rms_norm_eps"],
    )
    model = TinyLlama(shape)
    tensors = load_file(folder / "model.safetensors")
    model.load_state_dict({name.removeprefix("model."): tensor.float() for name, tensor in tensors.items()})
    return model.eval()


@torch.inference_mode()
def score(model: TinyLlama, tokenizer: Tokenizer, texts: list[str]) -> tuple[int, float]:
    """Returns the number of scored tokens and their total surprise in bits."""
    torch.set_num_threads(2)
    jobs = [job for text in texts for job in windows([END_OF_TEXT_ID, *tokenizer.encode(text).ids, END_OF_TEXT_ID])]
    jobs.sort(key=lambda job: len(job[0]))
    num_tokens, nats = 0, 0.0
    for start in range(0, len(jobs), BATCH):
        batch = jobs[start : start + BATCH]
        length = max(len(tokens) for tokens, _ in batch)
        padded = torch.tensor([tokens + [END_OF_TEXT_ID] * (length - len(tokens)) for tokens, _ in batch])
        logits_BTV, targets_BT = model(padded[:, :-1]).float(), padded[:, 1:]
        losses = F.cross_entropy(logits_BTV.flatten(0, 1), targets_BT.flatten(), reduction="none").view_as(targets_BT)
        for row, (tokens, num_context) in zip(losses, batch, strict=True):
            scored = row[num_context - 1 : len(tokens) - 1]
            num_tokens, nats = num_tokens + len(scored), nats + float(scored.double().sum())
    return num_tokens, nats / math.log(2)


def windows(tokens: list[int]) -> Iterator[tuple[list[int], int]]:
    """Yields (window, number of leading tokens that are context only); the rest are scored once each."""
    size = 2 * STRIDE
    yield tokens[: size + 1], 1
    for start in range(STRIDE, len(tokens) - STRIDE - 1, STRIDE):
        yield tokens[start : start + size + 1], STRIDE + 1


if __name__ == "__main__":
    main()
