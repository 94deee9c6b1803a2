"""Token streams: documents packed end to end, cut into windows, the same for the same seed and step."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

END_OF_TEXT_ID = 0


class PackedDocuments:
    """Training tokens with one end-of-text token after each document.

    In every epoch the documents are shuffled and concatenated anew, each as
    often as the weight of its package says.
    """

    def __init__(self, folder: Path) -> None:
        self.tokens = np.load(folder / "tokens.npy", mmap_mode="r")  # (num_tokens,), uint16
        self.ends = np.load(folder / "ends.npy")  # (num_documents,), int64
        self.weights = np.load(folder / "weights.npy")  # (num_documents,), int64
        self.starts = np.concatenate([[0], self.ends[:-1]])
        self.epoch_tokens = int(((self.ends - self.starts) * self.weights).sum())

    def epoch(self, number: int, window: int, seed: int, *, sharpened: bool) -> np.ndarray:
        """Returns (num_windows, window + 1) of uint16, shuffled; neighbours share one token.

        `sharpened` squares the weights.
        """
        generator = np.random.default_rng([seed, number])
        repeats = self.weights**2 if sharpened else self.weights
        order = generator.permutation(np.repeat(np.arange(len(self.ends)), repeats))
        stream = np.concatenate([self.tokens[self.starts[index] : self.ends[index]] for index in order])
        num_windows = (len(stream) - 1) // window
        windows = np.lib.stride_tricks.sliding_window_view(stream, window + 1)[: num_windows * window : window]
        return windows[generator.permutation(num_windows)]


def pack(corpus: Path, tokenizer_file: Path, package_weights: dict[str, int], folder: Path) -> None:
    """Tokenizes train.jsonl into `folder`."""
    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    encoded: list[np.ndarray] = []
    weights: list[int] = []
    with corpus.open() as lines:
        documents = [json.loads(line) for line in lines]
    for start in range(0, len(documents), 512):
        some = documents[start : start + 512]
        for document, encoding in zip(some, tokenizer.encode_batch([d["text"] for d in some]), strict=True):
            encoded.append(np.array([*encoding.ids, END_OF_TEXT_ID], dtype=np.uint16))
            weights.append(package_weights[document["package"]])
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "tokens.npy", np.concatenate(encoded))
    np.save(folder / "ends.npy", np.cumsum([len(ids) for ids in encoded]))
    np.save(folder / "weights.npy", np.array(weights))
