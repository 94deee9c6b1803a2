"""From tokens back to text, a few at a time, without ever showing half a character.

A token stands for bytes; what a tokenizer file calls its `decoder` says which. Once that is known, decoding a stream
is joining bytes and holding back an unfinished UTF-8 sequence.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from thaloom.base.errors import NotServable

_BYTE_TOKEN = re.compile(r"<0x([0-9a-fA-F]{2})>")


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoding:
    """What a tokenizer's `decoder` does to each token and to the start of a text."""

    replacements: tuple[tuple[str, str], ...] = ()
    byte_fallback: bool = False
    """Tokens written `<0xNN>` are single bytes."""
    byte_level: bool = False
    """Characters of a token stand for bytes, as in GPT-2."""
    strip_text: tuple[str, int] = ("", 0)
    """This many of this character are dropped at the start of a text ..."""
    strip_token: str = ""
    """... and every one of this character in its first token."""

    def token_bytes(self, token: str) -> bytes:
        if self.byte_fallback and (match := _BYTE_TOKEN.fullmatch(token)):
            return bytes([int(match[1], 16)])
        if self.byte_level:
            try:
                return bytes(map(_BYTE_OF_CHARACTER.__getitem__, token))
            except KeyError:  # an added token, kept as it is written
                return token.encode()
        for old, new in self.replacements:
            token = token.replace(old, new)
        return token.encode()


def read_decoding(decoder: dict[str, Any] | None) -> Decoding:
    """The `decoder` entry of tokenizer.json, understood. Raises NotServable for a kind we have no words for.

    Source: huggingface/tokenizers, tokenizers/src/decoders and pre_tokenizers/{byte_level,metaspace}.rs.
    """
    steps = _flatten(decoder)
    kinds = [step.get("type") for step in steps]
    if kinds == ["ByteLevel"]:
        return Decoding(byte_level=True)
    if kinds == ["Metaspace"]:
        mark, scheme = steps[0].get("replacement", "▁"), steps[0].get("prepend_scheme", "always")
        return Decoding(replacements=((mark, " "),), strip_token="" if scheme == "never" else mark)
    replacements: list[tuple[str, str]] = []
    byte_fallback = fused = False
    strip = ("", 0)
    for step in steps:
        match step:
            case {"type": "Replace", "pattern": {"String": str(old)}, "content": str(new)} if not fused:
                replacements.append((old, new))
            case {"type": "ByteFallback"} if not fused:
                byte_fallback = True
            case {"type": "Fuse"}:
                fused = True
            case {"type": "Strip", "content": str(content), "start": int(start), "stop": 0} if fused:
                strip = (content, start)
            case _:
                raise NotServable(f"the tokenizer's decoder is of a kind not known here: {step.get('type')!r}")
    if not fused:
        raise NotServable(f"the tokenizer's decoder is of a kind not known here: {kinds or None!r}")
    return Decoding(replacements=tuple(replacements), byte_fallback=byte_fallback, strip_text=strip)


def _flatten(decoder: dict[str, Any] | None) -> list[dict[str, Any]]:
    if decoder is None:
        return []
    if decoder.get("type") == "Sequence":
        return [step for inner in decoder.get("decoders", []) for step in _flatten(inner)]
    return [decoder]


class Detokeniser:
    """Decodes one answer. What all `feed`s and `finish` give, joined, is what decoding all tokens at once gives.

    Bytes that are not UTF-8 become U+FFFD, one for each longest invalid part, as byte-level decoders do. (The
    byte-fallback decoder of `tokenizers` throws a whole run of byte tokens away for one bad byte; that cannot be
    told before the run ends, and loses good characters, so we do not follow it there.)
    `at_start` says that the tokens begin a text of their own, and do not go on from a prompt.
    """

    def __init__(self, decoding: Decoding, token_of: Callable[[int], str | None], *, at_start: bool) -> None:
        self._decoding = decoding
        self._token_of = token_of
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._first = at_start
        self._strip_left = decoding.strip_text[1] if at_start else 0

    def feed(self, tokens: Iterable[int]) -> str:
        """The characters that are whole now. `token_of` gives None for tokens that are not text."""
        text = ""
        for token in tokens:
            written = self._token_of(token)
            if written is None:
                continue
            if self._first:
                self._first = False
                written = written.replace(self._decoding.strip_token, "") if self._decoding.strip_token else written
            text += self._strip(self._decoder.decode(self._decoding.token_bytes(written)))
        return text

    def finish(self) -> str:
        """What is left of an unfinished character."""
        return self._strip(self._decoder.decode(b"", final=True))

    def _strip(self, text: str) -> str:
        while self._strip_left and text:
            if text[0] != self._decoding.strip_text[0]:
                self._strip_left = 0
                break
            text = text[1:]
            self._strip_left -= 1
        return text


def _byte_of_character() -> dict[str, int]:
    """GPT-2's alphabet: printable bytes stand for themselves, the others for characters from U+0100 on.

    Source: openai/gpt-2, src/encoder.py, bytes_to_unicode.
    """
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    table = {chr(byte): byte for byte in printable}
    others = [byte for byte in range(256) if byte not in set(printable)]
    return table | {chr(256 + index): byte for index, byte in enumerate(others)}


_BYTE_OF_CHARACTER = _byte_of_character()
