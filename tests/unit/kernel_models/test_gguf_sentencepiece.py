"""SentencePiece vocabularies: run exactly as SentencePiece would, or refused by name."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from thaloom.base.errors import MalformedFile, NotServable
from thaloom.kernel.models.gguf_sentencepiece import SPACE, join_pieces, sentencepiece
from thaloom.kernel.models.gguf_tokenizer import text_files
from thaloom.kernel.models.gguf_vocabulary import Vocabulary

WORDS = ("▁", "t", "h", "e", "i", "n", "g", "r", "th", "▁th", "▁the", "in", "ing", "er", "he", "▁t", "ring", "▁▁", "ee")
BYTES = tuple(f"<0x{i:02X}>" for i in range(256))
TOKENS = ("<unk>", "<s>", "</s>", *BYTES, *WORDS)
KINDS = np.array([2, 3, 3, *[6] * 256, *[1] * len(WORDS)])


def metadata(words: tuple[str, ...] = WORDS, **changed: Any) -> dict[str, Any]:
    tokens = ("<unk>", "<s>", "</s>", *BYTES, *words)
    fields: dict[str, Any] = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": -np.arange(len(tokens), dtype=np.float32),
        "tokenizer.ggml.token_type": np.array([2, 3, 3, *[6] * 256, *[1] * len(words)]),
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
    }
    return fields | changed


def build(fields: dict[str, Any]) -> Tokenizer:
    vocabulary = Vocabulary.read("m.gguf", fields, len(fields["tokenizer.ggml.tokens"]))
    return Tokenizer.from_str(json.dumps(sentencepiece("m.gguf", fields, vocabulary)))


SCORES = {word: -float(i) for i, word in enumerate(WORDS)}
FAST = build(metadata())


@given(st.text(alphabet="theingr  é你\n", max_size=60))
@settings(max_examples=300)
def test_every_text_is_cut_as_sentencepiece_cuts_it(text: str) -> None:
    expected = join_pieces(SPACE + text.replace(" ", SPACE), SCORES) if text else []
    pieces: list[str] = []
    for piece in expected:
        pieces += [piece] if piece in SCORES else [f"<0x{byte:02X}>" for byte in piece.encode()]
    assert FAST.encode(text, add_special_tokens=False).tokens == pieces
    assert FAST.decode(FAST.encode(text).ids) == text


def test_the_highest_score_is_joined_first_and_the_leftmost_of_several() -> None:
    scores = {"a": 0.0, "b": 0.0, "ab": -2.0, "ba": -1.0, "aa": -3.0}
    assert join_pieces("aba", scores) == ["a", "ba"]
    assert join_pieces("aaa", scores) == ["aa", "a"]


def test_special_tokens_are_found_and_named() -> None:
    config: dict[str, Any] = {"vocab_size": len(TOKENS), "max_position_embeddings": 64}
    files = text_files("m.gguf", metadata(), config)
    facts = files["tokenizer_config.json"]
    assert (facts["bos_token"], facts["eos_token"], facts["unk_token"]) == ("<s>", "</s>", "<unk>")
    assert facts["add_bos_token"] is True
    assert (config["bos_token_id"], config["eos_token_id"]) == (1, 2)
    assert FAST.encode("the</s>").ids[-1] == 2


def test_without_a_space_in_front() -> None:
    fast = build(metadata(**{"tokenizer.ggml.add_space_prefix": False}))
    assert fast.encode("the ring").tokens == join_pieces("the▁ring", SCORES)


REFUSED: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "joined spaces": (metadata(**{"tokenizer.ggml.remove_extra_whitespaces": True}), NotServable, "joins spaces"),
    "equal scores": (
        metadata(**{"tokenizer.ggml.scores": np.zeros(len(TOKENS), np.float32)}), NotServable, "share a score"
    ),
    "long piece": (metadata((*WORDS, "x" * 300)), NotServable, "over 256 characters"),
    "nothing for the unknown": (
        metadata(**{
            "tokenizer.ggml.unknown_token_id": None,
            "tokenizer.ggml.token_type": np.array([2, 3, 3, *[1] * 256, *[1] * len(WORDS)]),
        }),
        MalformedFile, "does not know",
    ),
    "scores that are none": (
        metadata(**{"tokenizer.ggml.scores": np.full(len(TOKENS), np.nan, np.float32)}), MalformedFile, "scores"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_run_exactly_is_refused(case: str) -> None:
    fields, error, words = REFUSED[case]
    with pytest.raises(error, match=words):
        build(fields)


def test_a_vocabulary_that_two_ways_of_joining_tell_apart_is_refused() -> None:
    """`aaa` from `a` and `aa` in either order: SentencePiece takes the leftmost, a ranked merge one of the two."""
    pieces = ("▁", "a", "aa", "aaa", "▁a")
    fields = metadata(pieces)
    kept = {piece: -float(i) for i, piece in enumerate(("<unk>", "<s>", "</s>", *BYTES, *pieces))}
    scores = {piece: kept[piece] for piece in pieces}
    text = "aaaaaaa"
    expected = join_pieces(text, scores)
    try:
        fast = build(fields)
    except NotServable:
        return
    assert fast.encode(text, add_special_tokens=False).tokens == join_pieces(SPACE + text, scores)
    assert expected
