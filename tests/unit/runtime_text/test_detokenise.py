"""Which decoders are understood, and that half a character is never shown."""

from __future__ import annotations

from typing import Any

import pytest

from thaloom.base.errors import NotServable
from thaloom.work.runtime.text.detokenise import Decoding, Detokeniser, read_decoding


@pytest.mark.parametrize(
    "decoder",
    [
        None,
        {"type": "WordPiece", "prefix": "##", "cleanup": True},
        {"type": "BPEDecoder", "suffix": "</w>"},
        {"type": "CTC"},
        {"type": "Sequence", "decoders": []},
        {"type": "Sequence", "decoders": [{"type": "ByteFallback"}]},
        {"type": "Sequence", "decoders": [{"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 0, "stop": 1}]},
        {
            "type": "Sequence",
            "decoders": [{"type": "Replace", "pattern": {"Regex": "x"}, "content": ""}, {"type": "Fuse"}],
        },
    ],
)
def test_a_decoder_we_have_no_words_for_is_refused_and_not_guessed(decoder: dict[str, Any] | None) -> None:
    with pytest.raises(NotServable, match="decoder"):
        read_decoding(decoder)


def test_gemma_and_llama_decoders_are_understood() -> None:
    steps = [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    gemma = read_decoding({"type": "Sequence", "decoders": steps})
    assert gemma == Decoding(replacements=(("▁", " "),), byte_fallback=True)
    strip = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
    assert read_decoding({"type": "Sequence", "decoders": [*steps, strip]}).strip_text == (" ", 1)
    nested = {"type": "Sequence", "decoders": [{"type": "Sequence", "decoders": [{"type": "ByteLevel"}]}]}
    assert read_decoding(nested).byte_level


def test_a_character_is_shown_when_it_is_whole() -> None:
    tokens = [f"<0x{byte:02X}>" for byte in "é世🚀".encode()]
    decoding = Decoding(byte_fallback=True)
    detokeniser = Detokeniser(decoding, lambda index: tokens[index], at_start=False)
    shown = [detokeniser.feed([index]) for index in range(len(tokens))]
    assert shown == ["", "é", "", "", "世", "", "", "", "🚀"]
    assert detokeniser.finish() == ""


def test_half_a_character_at_the_end_is_told_at_the_end() -> None:
    detokeniser = Detokeniser(Decoding(byte_fallback=True), lambda _: "<0xE4>", at_start=False)
    assert detokeniser.feed([0]) == ""
    assert detokeniser.finish() == "�"


def test_added_tokens_of_a_byte_level_model_may_hold_any_character() -> None:
    assert Decoding(byte_level=True).token_bytes("<tool call 世>") == "<tool call 世>".encode()
