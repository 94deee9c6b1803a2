"""SentencePiece BPE vocabularies as `tokenizers` runs them, where the two can be shown to agree.

SentencePiece joins, again and again, the two neighbours whose joint piece has the highest score, the leftmost of
several. `tokenizers` joins by the rank of a pair. So each pair of pieces that make a piece becomes a merge, ranked by
the piece's score: what transformers does (convert_slow_tokenizer.py, `generate_merges`). It is the same as long as no
two pieces share a score, and as long as equal pieces that could be made in two ways do not meet; the first is checked
outright, the second by encoding probes with both, every piece doubled and tripled among them.
Source: Kudo & Richardson 2018, "SentencePiece"; its bpe_model.cc, `SampleEncode`.
"""

from __future__ import annotations

import heapq
import json
from collections.abc import Iterable, Mapping
from typing import Any

from tokenizers import Tokenizer

from thaloom.base.errors import MalformedFile, NotServable
from thaloom.kernel.models.gguf import Value
from thaloom.kernel.models.gguf_vocabulary import BYTE, NORMAL, USER_DEFINED, Vocabulary

SPACE = "▁"
_PROBES = (
    "", " ", "   two   spaces ", "The quick brown fox jumps over 13 lazy dogs.\n\n\tdef f(x):\n        return x ** 2\n",
    "aaaaaaaaaa bbbbbbb ======== -------- ........ ________ \t\t\t\t", "Zażółć gęślą jaźń, 你好，世界 🙂 naïve façade",
    "http://localhost:8080/v1/models?x=1&y=2", "1234567890 3.14159 0x7fff 1e-05", "\x00\x01é\u0301\u200b",
)  # fmt: skip
_MAX_PROBED_PIECES = 4000
MAX_PIECE = 256
"""Characters. Trainers make pieces of at most 16 unless told otherwise; the work grows with the square."""


def sentencepiece(file: str, metadata: Mapping[str, Value], vocabulary: Vocabulary) -> dict[str, Any]:
    """tokenizer.json. Raises NotServable if it would not give SentencePiece's own tokens, MalformedFile."""
    if metadata.get("tokenizer.ggml.remove_extra_whitespaces", False) is True:
        raise NotServable(f"{file!r}: its vocabulary joins spaces, which is not read", param="path")
    normal = [i for i, kind in enumerate(vocabulary.kinds) if kind == NORMAL]
    scores = {vocabulary.tokens[i]: float(vocabulary.scores[i]) for i in normal}
    if any(len(piece) > MAX_PIECE for piece in scores):
        raise NotServable(f"{file!r}: its vocabulary has a piece of over {MAX_PIECE} characters", param="path")
    joined = [score for piece, score in scores.items() if len(piece) > 1]
    if len(set(joined)) != len(joined):
        raise NotServable(
            f"{file!r}: pieces of its vocabulary share a score; such a one cannot be run exactly", param="path"
        )
    has_bytes = sum(1 for kind in vocabulary.kinds if kind == BYTE) == 256
    unknown = vocabulary.token_id("tokenizer.ggml.unknown_token_id")
    if unknown is None and not has_bytes:
        raise MalformedFile(f"{file!r} has no token for what it does not know", file=file)
    prefix = metadata.get("tokenizer.ggml.add_space_prefix", True) is not False
    spaces = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    normalizer = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": SPACE}, spaces]}
    strip = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if prefix else []
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": vocabulary.added_tokens(),
        "normalizer": normalizer if prefix else spaces,
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                *strip,
            ],
        },
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None if unknown is None else vocabulary.tokens[unknown],
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": has_bytes,
            "ignore_merges": False,
            "vocab": vocabulary.numbers(),
            "merges": merges_of(scores, vocabulary.numbers()),
        },
    }
    _check_equal(file, tokenizer, scores, vocabulary, prefix=prefix)
    return tokenizer


def merges_of(scores: Mapping[str, float], numbers: Mapping[str, int]) -> list[list[str]]:
    """Pairs of pieces that make a piece, the one with the highest score first."""
    merges: list[tuple[float, int, int, str, str]] = []
    for piece, score in scores.items():
        for cut in range(1, len(piece)):
            left, right = piece[:cut], piece[cut:]
            if left in scores and right in scores:
                merges.append((-score, numbers[left], numbers[right], left, right))
    return [[left, right] for _, _, _, left, right in sorted(merges)]


def join_pieces(text: str, scores: Mapping[str, float]) -> list[str]:
    """What SentencePiece makes of a text whose spaces are marked already: the definition, and the judge."""
    symbols: list[str | None] = list(text)
    after, before = [*range(1, len(text)), -1], list(range(-1, len(text) - 1))
    heap: list[tuple[float, int, int, str]] = []

    def offer(left: int, right: int) -> None:
        if left >= 0 and right >= 0:
            piece = f"{symbols[left]}{symbols[right]}"
            if piece in scores:
                heapq.heappush(heap, (-scores[piece], left, right, piece))

    for i in range(len(text) - 1):
        offer(i, i + 1)
    while heap:
        _, left, right, piece = heapq.heappop(heap)
        if after[left] != right or f"{symbols[left]}{symbols[right]}" != piece or symbols[left] is None:
            continue
        symbols[left], symbols[right] = piece, None
        after[left] = after[right]
        if after[left] >= 0:
            before[after[left]] = left
        offer(before[left], left)
        offer(left, after[left])
    return [symbol for symbol in symbols if symbol is not None]


def _check_equal(
    file: str, tokenizer: dict[str, Any], scores: Mapping[str, float], vocabulary: Vocabulary, *, prefix: bool
) -> None:
    try:
        fast = Tokenizer.from_str(json.dumps(tokenizer))
    except Exception as error:  # `tokenizers` raises bare Exception for whatever it cannot read
        raise MalformedFile(f"{file!r} has a vocabulary that cannot be read: {error}", file=file) from error
    looked_for = [t for i, t in enumerate(vocabulary.tokens) if vocabulary.kinds[i] == USER_DEFINED and t]
    for text in _probes(scores):
        if any(token in text for token in looked_for):
            continue
        marked = text.replace(" ", SPACE)
        expected = join_pieces(SPACE + marked if prefix and text else marked, scores)
        if _known(expected, scores) != _known(fast.encode(text, add_special_tokens=False).tokens, scores):
            raise NotServable(f"{file!r}: its vocabulary cannot be run exactly ({text[:40]!r} differs)", param="path")


def _probes(scores: Mapping[str, float]) -> Iterable[str]:
    yield from _PROBES
    step = max(1, len(scores) // _MAX_PROBED_PIECES)
    for piece in list(scores)[::step]:
        yield (piece * 3).replace(SPACE, " ")


def _known(pieces: Iterable[str], scores: Mapping[str, float]) -> list[str]:
    """Only the pieces of the vocabulary: how the rest falls back to bytes is the same in both."""
    return [piece for piece in pieces if piece in scores]
