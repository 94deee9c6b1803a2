"""Continues a prompt with an exported model, in plain torch: the reference for reading its prose.

    python generate.py ../tiny "The socket option" --seed 1

No cache of keys and values: it reads everything again for each token.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from tokenizers import Tokenizer

from batches import END_OF_TEXT_ID
from evaluate import load
from model import TinyLlama


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("prompt", nargs="+")
    parser.add_argument("--tokens", type=int, default=120)
    parser.add_argument("--temperature", type=float, default=0.9, help="0 takes the likeliest token always")
    parser.add_argument("--top-p", type=float, default=0.95)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    tokenizer = Tokenizer.from_file(str(arguments.model / "tokenizer.json"))
    model = load(arguments.model)
    for prompt in arguments.prompt:
        torch.manual_seed(arguments.seed)
        ids = continued(model, tokenizer.encode(prompt).ids, arguments.tokens, arguments.temperature, arguments.top_p)
        print(tokenizer.decode(ids), end="\n\n---\n\n")


@torch.inference_mode()
def continued(model: TinyLlama, ids: list[int], num_tokens: int, temperature: float, top_p: float) -> list[int]:
    """Returns the prompt's ids and their continuation, up to the end of text."""
    for _ in range(num_tokens):
        logits_V = model(torch.tensor([ids[-model.shape.context :]]))[0, -1]
        token = int(logits_V.argmax()) if temperature == 0 else nucleus_sample(logits_V / temperature, top_p)
        if token == END_OF_TEXT_ID:
            break
        ids = [*ids, token]
    return ids


def nucleus_sample(logits_V: torch.Tensor, top_p: float) -> int:
    """Draws from the smallest set of tokens whose probabilities reach top_p."""
    chances_V, order_V = logits_V.softmax(-1).sort(descending=True)
    chances_V[chances_V.cumsum(-1) - chances_V > top_p] = 0
    return int(order_V[torch.multinomial(chances_V, 1)])


if __name__ == "__main__":
    main()
