"""Drops what the corpus has already said: copied documents, and paragraphs repeated all over."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from hashlib import blake2b

import numpy as np

from documents import MIN_CHARACTERS, Document
from shingles import shingles

MAX_PARAGRAPH_REPEATS = 3
MIN_PARAGRAPH_CHARACTERS = 60
MAX_SEEN_SHARE = 0.6
SAMPLING = np.uint64(4)


def without_repeats(documents: Iterable[Document]) -> Iterator[Document]:
    """Yields the documents that are new, each without paragraphs seen three times before.

    A document goes when 60 % of its shingles occurred in earlier ones: the
    same page in two packages, a manual in both HTML and roff.
    """
    paragraph_counts: Counter[bytes] = Counter()
    seen: set[int] = set()
    for document in documents:
        trimmed = replace(document, text=without_boilerplate(document.text, paragraph_counts))
        if len(trimmed.text) < MIN_CHARACTERS:
            continue
        every = shingles(trimmed.text)
        sample = set(every[every % SAMPLING == 0].tolist())
        if sample and len(sample & seen) <= MAX_SEEN_SHARE * len(sample):
            seen |= sample
            yield trimmed


def without_boilerplate(text: str, counts: Counter[bytes]) -> str:
    kept = []
    for paragraph in re.split(r"\n\n+", text.strip()):
        if len(paragraph) >= MIN_PARAGRAPH_CHARACTERS:
            digest = blake2b(" ".join(paragraph.split()).encode(), digest_size=8).digest()
            counts[digest] += 1
            if counts[digest] > MAX_PARAGRAPH_REPEATS:
                continue
        kept.append(paragraph)
    return "\n\n".join(kept) + "\n"
