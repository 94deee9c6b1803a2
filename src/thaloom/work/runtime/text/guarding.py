"""What a caller wrote is text, even where it is written like one of the model's control tokens.

A chat template puts the caller's words between control tokens it writes itself, and only then is the whole turned
into tokens: `<|im_end|>` in a message would end the message. So every such word in the caller's text is broken up by a
mark, two code points that are no characters, before the template sees it. Tokenizers look for control tokens first and
normalise what is left afterwards; the mark is taken out by a step put before the model's own normalisation. What the
caller wrote so becomes the tokens it would be in a model without control tokens. A text without such words is
untouched, whatever the kind of tokenizer.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from typing import Any

from tokenizers import AddedToken, normalizers
from tokenizers import Tokenizer as FastTokenizer

from thaloom.base.errors import BadParameter

MARK = "\ufdd0\ufdef"
_CONTROL_FORM = re.compile(r"<[|｜].*[|｜]>", re.DOTALL)
"""How control tokens look that some files forget to call special (DeepSeek's `<｜User｜>`)."""


class Guard:
    """Knows one tokenizer's control tokens. Safe for several threads at once."""

    def __init__(self, fast: FastTokenizer) -> None:
        """Prepares `fast` to take marks out."""
        words = tuple(_guard(fast))
        _take_out_marks(fast)
        self._control = re.compile(_any_of(words)) if words else None
        self._begins = re.compile(f"(?={_any_of(words)})(.)", re.DOTALL)
        self._beginnings = frozenset(word[:length] for word in words for length in range(1, len(word)))
        self._longest = max(map(len, words), default=0)

    def text(self, text: str) -> str:
        """With all control words broken up, and with what another text behind it could make one of."""
        check_unmarked(text + MARK[1:], "messages")  # whatever text comes behind it
        if self._control is None:
            return text
        if self._control.search(text):
            text = self._begins.sub(rf"\1{MARK}", text)
        for length in range(min(len(text), self._longest), 0, -1):
            if text[-length:] in self._beginnings:
                return text[: 1 - length or None] + MARK + text[1 - length or len(text) :]
        return text

    def value(self, value: Any) -> Any:
        """The same, for every text within."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, dict):
            return {self.value(key): self.value(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.value(item) for item in value]
        return value


def check_unmarked(text: str, param: str) -> None:
    """Raises BadParameter for a text that holds the mark: the tokenizer would drop it in silence."""
    if MARK in text:
        raise BadParameter(f"{param} holds U+FDD0 before U+FDEF: these two are no characters", param=param)


def _any_of(words: Iterable[str]) -> str:
    """A pattern for the beginning of any of these, shared beginnings written once: hundreds of reserved tokens that
    begin alike cost no more than one."""
    by_first: dict[str, list[str]] = {}
    for word in words:
        by_first.setdefault(word[:1], []).append(word)
    if "" in by_first:
        return ""
    parts: list[str] = []
    for group in by_first.values():
        shared = os.path.commonprefix(group)  # noqa: RUF071 - of texts, which is what it does
        parts.append(re.escape(shared) + _any_of(word[len(shared) :] for word in group))
    return parts[0] if len(parts) == 1 else f"(?:{'|'.join(parts)})"


def _guard(fast: FastTokenizer) -> Iterable[str]:
    """The control tokens, made to be looked for before normalisation. One that normalisation would change cannot be;
    no tokenizer of the field is known to have such."""
    normalizer = fast.normalizer
    for token in fast.get_added_tokens_decoder().values():
        if len(token.content) < 2 or not (token.special or _CONTROL_FORM.fullmatch(token.content)):
            continue
        if token.normalized:
            if normalizer is not None and normalizer.normalize_str(token.content) != token.content:
                continue
            early = AddedToken(
                token.content,
                single_word=token.single_word,
                lstrip=token.lstrip,
                rstrip=token.rstrip,
                normalized=False,
                special=token.special,
            )
            (fast.add_special_tokens if token.special else fast.add_tokens)([early])
        yield token.content


def _take_out_marks(fast: FastTokenizer) -> None:
    first = normalizers.Replace(MARK, "")
    own = fast.normalizer
    fast.normalizer = first if own is None else normalizers.Sequence([first, own])
