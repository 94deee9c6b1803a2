"""Parts the corpus into training and held-out documents by a seeded hash."""

from __future__ import annotations

from hashlib import sha256

import numpy as np

from documents import Document
from shingles import shingles

SEED = "thaloom-tiny-1"
DRAWN_BYTES = 5_200_000
MAX_HELDOUT_DOCUMENT_BYTES = 120_000
MAX_SHARED = 0.10


def split(documents: list[Document]) -> tuple[list[Document], list[Document]]:
    """Returns (train, heldout); the hash depends on package, path and seed alone.

    Documents are drawn in the order of their hash until
    DRAWN_BYTES are reached. Then every drawn document more than 10 % of whose 8-word
    shingles also occur in training goes back to training, until none does.
    """
    order = sorted(range(len(documents)), key=lambda index: draw(documents[index]))
    chosen: set[int] = set()
    size = 0
    for index in order:
        num_bytes = len(documents[index].text.encode())
        if size >= DRAWN_BYTES:
            break
        if num_bytes <= MAX_HELDOUT_DOCUMENT_BYTES:
            chosen.add(index)
            size += num_bytes
    chosen = without_leaks(documents, chosen)
    train = [document for index, document in enumerate(documents) if index not in chosen]
    heldout = [documents[index] for index in order if index in chosen]
    return train, heldout


def draw(document: Document) -> bytes:
    return sha256(f"{SEED}\0{document.package}\0{document.path}".encode()).digest()


def without_leaks(documents: list[Document], chosen: set[int]) -> set[int]:
    hashes = {index: shingles(documents[index].text) for index in chosen}
    candidates = np.unique(np.concatenate(list(hashes.values())))
    in_training = np.zeros(len(candidates), dtype=bool)
    for index, document in enumerate(documents):
        if index not in chosen:
            mark(in_training, candidates, shingles(document.text))
    while leaks := [index for index in sorted(chosen) if shared(in_training, candidates, hashes[index]) > MAX_SHARED]:
        chosen = chosen.difference(leaks)
        for index in leaks:
            mark(in_training, candidates, hashes[index])
    return chosen


def mark(in_training: np.ndarray, candidates: np.ndarray, found: np.ndarray) -> None:
    places = np.minimum(np.searchsorted(candidates, found), len(candidates) - 1)
    in_training[places[candidates[places] == found]] = True


def shared(in_training: np.ndarray, candidates: np.ndarray, own: np.ndarray) -> float:
    return float(in_training[np.searchsorted(candidates, own)].mean()) if len(own) else 1.0
