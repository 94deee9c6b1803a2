"""The program of engine `transformers` over a language that needs no library: bytes are tokens, and the answer to a
prompt is the prompt again, backwards, then the end. What draws do to that, they do.

Run as the real one: `python fake_language.py --host H --port P --store DIR --model NAME --name SERVED --context N`.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from thaloom.base.errors import BadParameter
from thaloom.work.runtime.engines.transformers.drawing import Logits
from thaloom.work.runtime.engines.transformers.server import KEY_VARIABLE, Server

END = 256


class Backwards:
    """Implements answering.Language."""

    ends = frozenset({END})
    defaults: Mapping[str, float] = {"temperature": 0.0}

    def __init__(self, context_length: int = 64) -> None:
        self.context_length = context_length

    def tokens(self, text: str) -> list[int]:
        return list(text.encode())

    def chat(self, messages: Sequence[Mapping[str, Any]], **options: Any) -> list[int]:
        if options.get("broken"):
            raise BadParameter("the chat template refuses this", param="messages")
        return self.tokens(messages[-1]["content"])

    def text(self, tokens: Sequence[int], *, special: bool) -> str:
        plain = bytes(token for token in tokens if token < END).decode(errors="replace")
        return plain + ("<end>" if special and END in tokens else "")

    def generate(self, prompt: Sequence[int], choose: Callable[[Logits], int], enough: Callable[[], bool]) -> None:
        script = [*reversed(prompt), END]
        step = 0
        while not enough():
            logits = np.zeros(257, np.float32)
            logits[script[min(step, len(script) - 1)]] = 9.0
            choose(logits)
            step += 1

    def embed(self, tokens: Sequence[int]) -> list[float]:
        return [float(len(tokens)), 1.0]


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("--host", "--port", "--store", "--model", "--name", "--context", "--threads"):
        parser.add_argument(name)
    asked = parser.parse_args()
    address = (asked.host, int(asked.port))
    Server(address, asked.name, Backwards(int(asked.context)), os.environ[KEY_VARIABLE]).serve_forever()


if __name__ == "__main__":
    main()
