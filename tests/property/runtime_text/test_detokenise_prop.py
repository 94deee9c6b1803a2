"""However a text is cut into tokens and tokens into pieces, what is shown adds up to the text."""

from __future__ import annotations

import itertools
import json

from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as FastTokenizer

from tests.unit.runtime_text.tokenizers_of_the_field import byte_fallback, byte_level, metaspace
from thaloom.work.runtime.text.detokenise import Detokeniser, read_decoding

KINDS = {"byte_level": byte_level(), "byte_fallback": byte_fallback(), "metaspace": metaspace()}
DECODINGS = {name: read_decoding(json.loads(fast.to_str())["decoder"]) for name, fast in KINDS.items()}
texts = st.text(st.characters(codec="utf-8"), max_size=60) | st.text("the tin ▁é世🚀\n", max_size=60)


def pieces_of(kind: str, tokens: list[int], cuts: list[int], *, at_start: bool = True) -> list[str]:
    fast = KINDS[kind]
    special = {token for token, entry in fast.get_added_tokens_decoder().items() if entry.special}
    detokeniser = Detokeniser(
        DECODINGS[kind], lambda token: None if token in special else fast.id_to_token(token), at_start=at_start
    )
    bounds = [0, *sorted(min(cut, len(tokens)) for cut in cuts), len(tokens)]
    shown = [detokeniser.feed(tokens[begin:end]) for begin, end in itertools.pairwise(bounds)]
    return [*shown, detokeniser.finish()]


def decoded(fast: FastTokenizer, tokens: list[int]) -> str:
    text: str = fast.decode(tokens, skip_special_tokens=True)
    return text


cuts = st.lists(st.integers(0, 200), max_size=8)


@given(st.sampled_from(sorted(KINDS)), texts, cuts)
def test_pieces_of_any_text_add_up_to_its_full_decoding(kind: str, text: str, cuts: list[int]) -> None:
    tokens = KINDS[kind].encode(text, add_special_tokens=False).ids
    assert "".join(pieces_of(kind, tokens, cuts)) == decoded(KINDS[kind], tokens)


@given(texts, cuts)
def test_byte_level_and_byte_fallback_give_the_text_itself_back(text: str, cuts: list[int]) -> None:
    for kind in ("byte_level", "byte_fallback"):
        written = text.replace("▁", " ") if kind == "byte_fallback" else text
        tokens = KINDS[kind].encode(text, add_special_tokens=False).ids
        assert "".join(pieces_of(kind, tokens, cuts)) == written


@given(st.lists(st.integers(0, 266), max_size=40), cuts)
def test_any_byte_level_tokens_add_up_to_their_full_decoding(tokens: list[int], cuts: list[int]) -> None:
    assert "".join(pieces_of("byte_level", tokens, cuts)) == decoded(KINDS["byte_level"], tokens)


@given(st.sampled_from(sorted(KINDS)), st.lists(st.integers(0, 290), max_size=40), cuts)
def test_how_tokens_are_cut_makes_no_difference(kind: str, tokens: list[int], cuts: list[int]) -> None:
    assert "".join(pieces_of(kind, tokens, cuts)) == "".join(pieces_of(kind, tokens, []))


@given(texts)
def test_no_piece_holds_half_a_character(text: str) -> None:
    if "�" not in text:
        tokens = KINDS["byte_level"].encode(text, add_special_tokens=False).ids
        assert not any("�" in piece for piece in pieces_of("byte_level", tokens, list(range(len(tokens)))))
