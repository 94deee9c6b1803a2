"""Compares the exported model with another implementation of Llama: the transformers library.

    python verify.py ../tiny WORK_FOLDER/corpus/heldout.jsonl

Both read the same held-out tokens in float32; their logits must agree to
rounding, and the tokenizers must give the same ids and the text back.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

from evaluate import load

TOLERANCE = 2e-3
NUM_TEXTS = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("heldout", type=Path)
    arguments = parser.parse_args()
    ours, theirs = load(arguments.model), AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.float32)
    tokenizer = Tokenizer.from_file(str(arguments.model / "tokenizer.json"))
    their_tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    worst, agreeing, total = 0.0, 0, 0
    with arguments.heldout.open() as lines, torch.inference_mode():
        for _, line in zip(range(NUM_TEXTS), lines, strict=False):
            text = json.loads(line)["text"]
            ids = tokenizer.encode(text).ids
            assert tokenizer.decode(ids) == text, "the tokenizer does not give the text back"
            assert their_tokenizer(text)["input_ids"] == ids, "the tokenizers disagree"
            tokens_BT = torch.tensor([ids[:1024]])
            our_BTV, their_BTV = ours(tokens_BT), theirs(tokens_BT).logits
            worst = max(worst, float((our_BTV - their_BTV).abs().max()))
            agreeing += int((our_BTV.argmax(-1) == their_BTV.argmax(-1)).sum())
            total += tokens_BT.numel()
    print(f"largest difference of a logit {worst:.2e}; same likeliest token at {agreeing} of {total} positions")
    assert worst < TOLERANCE
    chat = [{"role": "user", "content": "The socket option"}, {"role": "assistant", "content": "SO_KEEPALIVE"}]
    print(repr(their_tokenizer.apply_chat_template(chat, tokenize=False)))


if __name__ == "__main__":
    main()
