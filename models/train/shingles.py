"""Word shingles as 64-bit numbers: the measure of how much one text repeats another."""

from __future__ import annotations

import re
from functools import lru_cache
from zlib import crc32

import numpy as np

WIDTH = 8
WORD = re.compile(r"\w+")
FACTORS = np.array([pow(0x9E3779B97F4A7C15, power + 1, 1 << 64) for power in range(WIDTH)], dtype=np.uint64)


def shingles(text: str) -> np.ndarray:
    """One uint64 per run of 8 words, in order; short texts give none."""
    words = np.array([word_hash(word) for word in WORD.findall(text)], dtype=np.uint64)
    num_shingles = len(words) - WIDTH + 1
    if num_shingles <= 0:
        return np.empty(0, dtype=np.uint64)
    total = np.zeros(num_shingles, dtype=np.uint64)
    for offset in range(WIDTH):
        total += (words[offset : offset + num_shingles] + np.uint64(offset)) * FACTORS[offset]
    return total ^ (total >> np.uint64(29))


@lru_cache(maxsize=1_000_000)
def word_hash(word: str) -> int:
    return crc32(word.lower().encode()) * 0x9E3779B1 & 0xFFFF_FFFF_FFFF
