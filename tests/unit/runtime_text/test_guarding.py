"""What a caller writes is text: never a control token of the prompt, and otherwise the very same tokens."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, normalizers
from tokenizers import Tokenizer as FastTokenizer

from tests.unit.runtime_text.tokenizers_of_the_field import byte_fallback, byte_level, save
from thaloom.base.errors import BadParameter
from thaloom.work.runtime.text.guarding import MARK
from thaloom.work.runtime.text.tokenizer import Tokenizer, read_text_files


def with_deepseek_tokens() -> FastTokenizer:
    """Control tokens that are not called special, and looked for after normalisation, as DeepSeek's files have them."""
    tokenizer = byte_level()
    tokenizer.normalizer = normalizers.Sequence([])
    tokenizer.add_tokens([AddedToken("<｜User｜>", normalized=True, special=False)])
    tokenizer.add_special_tokens([AddedToken("<｜end｜>", normalized=True, special=True)])
    tokenizer.add_tokens([AddedToken("<think>", normalized=False, special=False)])
    return tokenizer


def with_nfc() -> FastTokenizer:
    """As Qwen's."""
    tokenizer = byte_level()
    tokenizer.normalizer = normalizers.NFC()
    return tokenizer


def opened(make: Callable[[], FastTokenizer]) -> Tokenizer:
    with tempfile.TemporaryDirectory() as folder:
        return Tokenizer(read_text_files(save(Path(folder), make())))


KINDS = {make.__name__: (opened(make), make()) for make in (byte_level, byte_fallback, with_deepseek_tokens, with_nfc)}
CONTROL = {
    "byte_level": ("<|im_end|>", "<|im_start|>", "<|endoftext|>"),
    "byte_fallback": ("</s>", "<s>", "<unk>"),
    "with_deepseek_tokens": ("<｜User｜>", "<｜end｜>", "<|im_end|>", "<|im_start|>", "<|endoftext|>"),
    "with_nfc": ("<|im_end|>", "<|im_start|>", "<|endoftext|>"),
}


def control_ids(kind: str) -> set[int]:
    return {KINDS[kind][1].token_to_id(word) for word in CONTROL[kind]}


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_templates_own_control_tokens_stay_what_they_are(kind: str) -> None:
    tokenizer, plain = KINDS[kind]
    for word in CONTROL[kind]:
        rendered = f"the{word} tin\n{word}on"
        assert tokenizer.encode_rendered(rendered) == plain.encode(rendered, add_special_tokens=False).ids
        assert plain.token_to_id(word) in tokenizer.encode_rendered(rendered)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_callers_control_word_is_spelled_out(kind: str) -> None:
    tokenizer, plain = KINDS[kind]
    for word in CONTROL[kind]:
        tokens = tokenizer.encode_rendered(tokenizer.guard.text(f"the {word} tin"))
        assert not control_ids(kind) & set(tokens)
        assert tokenizer.decode(tokens) == f"the {word} tin"
    assert plain.token_to_id("<think>") is None or tokenizer.guard.text("<think>a</think>") == "<think>a</think>"


def texts() -> st.SearchStrategy[str]:
    words = sorted({word for words in CONTROL.values() for word in words})
    parts = [*words, *(word[:3] for word in words), *(word[3:] for word in words), "the", " ", "\n", "é", "<", "|"]
    other = st.text(st.characters(exclude_characters=MARK, exclude_categories=["Cs"]), max_size=2)
    return st.lists(st.sampled_from(parts) | other, max_size=8).map("".join)


@given(st.sampled_from(sorted(set(KINDS) - {"byte_fallback"})), st.lists(texts(), min_size=1, max_size=4))
def test_no_joining_of_callers_texts_makes_a_control_token(kind: str, pieces: list[str]) -> None:
    tokenizer, plain = KINDS[kind]
    tokens = tokenizer.encode_rendered("".join(map(tokenizer.guard.text, pieces)))
    assert not control_ids(kind) & set(tokens)
    whole = "".join(pieces)
    if kind != "with_nfc":
        assert tokenizer.decode(tokens) == whole
    if not any(word in whole for word in CONTROL[kind]):
        assert tokens == plain.encode(whole, add_special_tokens=False).ids


def test_every_text_within_a_value_is_guarded() -> None:
    guard = KINDS["byte_level"][0].guard
    broken = guard.text("<|im_end|>")
    assert broken == f"<{MARK}|im_end|>"
    value = {"a": ["<|im_end|>", 1, None, {"<|im_end|>": True}], "b": "plain <"}
    assert guard.value(value) == {"a": [broken, 1, None, {broken: True}], "b": f"plain <{MARK}"}


def test_a_text_that_holds_the_mark_is_refused_and_not_changed_in_silence() -> None:
    tokenizer = KINDS["byte_level"][0]
    for text in (f"a{MARK}b", f"a{MARK[0]}"):
        with pytest.raises(BadParameter, match="no characters") as caught:
            tokenizer.guard.text(text)
        assert caught.value.param == "messages"
    with pytest.raises(BadParameter) as caught:
        tokenizer.encode_prompt(f"a{MARK}b")
    assert caught.value.param == "prompt"
    assert tokenizer.decode(tokenizer.encode_prompt("a\ufdd0b\ufdef")) == "a\ufdd0b\ufdef"


def test_a_raw_prompt_is_the_callers_own_business() -> None:
    tokenizer, plain = KINDS["byte_level"]
    assert plain.token_to_id("<|im_end|>") in tokenizer.encode_prompt("a<|im_end|>")
