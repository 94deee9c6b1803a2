"""A model's tokenizer as its own files describe it: text to tokens, tokens to text, and which tokens end an answer."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec
from tokenizers import Tokenizer as FastTokenizer

from thaloom.base.errors import BadParameter, MalformedFile, NotServable
from thaloom.work.runtime.text.detokenise import Detokeniser, read_decoding
from thaloom.work.runtime.text.guarding import Guard, check_unmarked


@dataclass(frozen=True, slots=True, kw_only=True)
class TextFiles:
    """What the files beside a model's weights say about its text, parsed. Missing files are empty."""

    tokenizer_path: Path
    tokenizer_config: Mapping[str, Any]
    special_tokens: Mapping[str, Any]
    generation_config: Mapping[str, Any]
    config: Mapping[str, Any]
    chat_template: str | None


def read_text_files(files: Mapping[str, str]) -> TextFiles:
    """`files` are paths by name, as in Route.tokenizer_files. Raises NotServable without a tokenizer.json,
    MalformedFile naming the file that cannot be read."""
    if "tokenizer.json" not in files:
        raise NotServable("the model has no tokenizer.json")
    tokenizer_config = _read_object(files, "tokenizer_config.json")
    return TextFiles(
        tokenizer_path=Path(files["tokenizer.json"]),
        tokenizer_config=tokenizer_config,
        special_tokens=_read_object(files, "special_tokens_map.json"),
        generation_config=_read_object(files, "generation_config.json"),
        config=_read_object(files, "config.json"),
        chat_template=_chat_template(files, tokenizer_config),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Vocabulary:
    """What a parser over tokens needs of a tokenizer."""

    tokens: tuple[bytes, ...]
    """The bytes each stands for, by id; special ones as they are written."""
    special: tuple[int, ...]
    encode: Callable[[str], list[int]]
    """Without special tokens."""


def read_vocabulary(data: bytes, vocab_size: int) -> Vocabulary:
    """`data`: a tokenizer.json. Raises MalformedFile, NotServable."""
    fast, decoder = _parse(data, "tokenizer.json")
    decoding = read_decoding(decoder)
    special = tuple(token for token, entry in fast.get_added_tokens_decoder().items() if entry.special)
    written = [fast.id_to_token(token) for token in range(vocab_size)]
    tokens = [b"" if word is None else decoding.token_bytes(word) for word in written]
    for token in special:
        if token < vocab_size:
            tokens[token] = (written[token] or "").encode()

    def encode(text: str) -> list[int]:
        found: list[int] = fast.encode(text, add_special_tokens=False).ids
        return found

    return Vocabulary(tokens=tuple(tokens), special=special, encode=encode)


class Tokenizer:
    """Text to tokens and back. Safe for several threads at once; nothing in it changes."""

    def __init__(self, files: TextFiles) -> None:
        self._fast, decoder = _load(files.tokenizer_path)
        self._decoding = read_decoding(decoder)
        added = self._fast.get_added_tokens_decoder()
        self._special = frozenset(token for token, entry in added.items() if entry.special)
        self.special = {entry.content: token for token, entry in added.items() if entry.special}
        """Tokens that are no text, by how they are written."""
        self.added = tuple(entry.content for entry in added.values())
        """All that were added to the vocabulary proper, special or not."""
        self.guard = Guard(self._fast)
        self.bos_token = _special_token(files, "bos_token")
        self.eos_token = _special_token(files, "eos_token")
        self._bos = None if self.bos_token is None else self._fast.token_to_id(self.bos_token)
        self._add_bos: bool | None = files.tokenizer_config.get("add_bos_token")
        self.vocab_size: int = _integer(files.config, "vocab_size") or self._fast.get_vocab_size(with_added_tokens=True)
        """Tokens the model knows; at least those of the tokenizer."""
        self.stop_tokens = self._stop_tokens(files)
        """Tokens that end an answer, ascending."""
        self._text_token = lru_cache(maxsize=16_384)(self._spelled)
        """How a token is written in the vocabulary; None for those that are not text."""
        self.token_bytes = lru_cache(maxsize=16_384)(self._token_bytes)
        """The bytes a token stands for; special tokens as they are written, unknown ones empty."""

    def encode_prompt(self, text: str) -> list[int]:
        """A text to go on from. Begins with the model's own first token where its files ask for one.

        `add_bos_token`, where the files say it, has the last word over the post-processor; never two of them.
        Raises BadParameter for text the tokenizer has no tokens for.
        """
        check_unmarked(text, "prompt")
        tokens = self._encode(text, "prompt", special=True)
        if self._bos is not None:
            begins = tokens[:1] == [self._bos]
            if begins and tokens[1:2] == [self._bos]:
                del tokens[0]
            elif self._add_bos is True and not begins:
                tokens.insert(0, self._bos)
            elif self._add_bos is False and begins:
                tokens = self._encode(text, "prompt", special=False)
            if not tokens:  # nothing to go on from: the start of any text
                tokens = [self._bos]
        return tokens

    def encode_rendered(self, text: str) -> list[int]:
        """A rendered chat: the template has written every special token already. What the caller wrote is `guarded`."""
        return self._encode(text, "messages", special=False)

    def detokeniser(self, *, at_start: bool, special: bool = False, shown: frozenset[int] = frozenset()) -> Detokeniser:
        """`special`: with special tokens as they are written; or only those that are to be `shown`."""

        def some(token: int) -> str | None:
            return self._written(token) if token in shown else self._text_token(token)

        token_of = self._written if special else some if shown else self._text_token
        return Detokeniser(self._decoding, token_of, at_start=at_start)

    def decode(self, tokens: Iterable[int], *, at_start: bool = True, special: bool = False) -> str:
        """All of them at once; with special tokens as they are written if `special`."""
        detokeniser = self.detokeniser(at_start=at_start, special=special)
        return detokeniser.feed(tokens) + detokeniser.finish()

    def check_tokens(self, tokens: Iterable[int], param: str = "prompt") -> None:
        """Raises BadParameter on `param` for a number that is no token of this model."""
        for index, token in enumerate(tokens):
            if not 0 <= token < self.vocab_size:
                raise BadParameter(
                    f"{param}[{index}] is {token}, the model's tokens are 0 to {self.vocab_size - 1}", param=param
                )

    def spelled(self, token: int) -> str:
        """As the vocabulary writes it; empty for a number it has no word for."""
        return self._written(token) or ""

    def _encode(self, text: str, param: str, *, special: bool) -> list[int]:
        """`special`: with what the post-processor adds. Raises BadParameter for text it has no tokens for."""
        try:
            tokens: list[int] = self._fast.encode(text, add_special_tokens=special).ids
        except Exception as error:  # `tokenizers` raises bare Exception for whatever it cannot do
            raise BadParameter(f"the model's tokenizer cannot take this text: {error}", param=param) from error
        return tokens

    def _spelled(self, token: int) -> str | None:
        return None if token in self._special else self._written(token)

    def _token_bytes(self, token: int) -> bytes:
        written = self._written(token)
        if written is None:
            return b""
        return written.encode() if token in self._special else self._decoding.token_bytes(written)

    def _written(self, token: int) -> str | None:
        try:
            written: str | None = self._fast.id_to_token(token)
        except OverflowError:
            return None
        return written

    def _stop_tokens(self, files: TextFiles) -> tuple[int, ...]:
        """`eos_token_id` of the generation config, or of the config if that is silent, and the tokenizer's own."""
        named = _integers(files.generation_config, "eos_token_id") or _integers(files.config, "eos_token_id")
        if self.eos_token is not None and (own := self._fast.token_to_id(self.eos_token)) is not None:
            named = [*named, own]
        return tuple(sorted({token for token in named if 0 <= token < self.vocab_size}))


def _load(path: Path) -> tuple[FastTokenizer, dict[str, Any] | None]:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise MalformedFile(f"{path.name}: {error}") from error
    return _parse(data, path.name)


def _parse(data: bytes, name: str) -> tuple[FastTokenizer, dict[str, Any] | None]:
    try:
        decoder = _read_decoder(data).decoder
    except (msgspec.MsgspecError, RecursionError) as error:
        raise MalformedFile(f"{name}: {error}") from error
    try:
        fast = FastTokenizer.from_buffer(data)
    except Exception as error:  # `tokenizers` raises bare Exception for whatever it cannot read
        raise MalformedFile(f"{name}: {error}") from error
    fast.no_truncation()  # files often carry the settings of some training run: nothing is ever truncated here
    fast.no_padding()
    return fast, decoder


class _TokenizerFile(msgspec.Struct):
    """The one entry we read ourselves; the vocabulary, often of many megabytes, is skipped."""

    decoder: dict[str, Any] | None = None


_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
"""Half a character, which JSON can name and no text can hold."""
_read_decoder = msgspec.json.Decoder(_TokenizerFile).decode


def _read_object(files: Mapping[str, str], name: str) -> dict[str, Any]:
    if name not in files:
        return {}
    try:
        data = json.loads(Path(files[name]).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise MalformedFile(f"{name}: {error}") from error
    if not isinstance(data, dict):
        raise MalformedFile(f"{name}: an object was expected, not {type(data).__name__}")
    return data


def _chat_template(files: Mapping[str, str], tokenizer_config: Mapping[str, Any]) -> str | None:
    """The file of its own before the entry in tokenizer_config.json; of several named ones, `default`."""
    if "chat_template.jinja" in files:
        try:
            return Path(files["chat_template.jinja"]).read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise MalformedFile(f"chat_template.jinja: {error}") from error
    entry = tokenizer_config.get("chat_template")
    if isinstance(entry, list):
        named = {item.get("name"): item.get("template") for item in entry if isinstance(item, dict)}
        entry = named.get("default")
    return entry if isinstance(entry, str) else None


def _special_token(files: TextFiles, name: str) -> str | None:
    for source in (files.tokenizer_config, files.special_tokens):
        entry = source.get(name)
        if isinstance(entry, dict):
            entry = entry.get("content")
        if isinstance(entry, str) and not _LONE_SURROGATE.search(entry):
            return entry
    return None


def _integer(source: Mapping[str, Any], name: str) -> int | None:
    value = source.get(name)
    return value if isinstance(value, int) and value > 0 else None


def _integers(source: Mapping[str, Any], name: str) -> list[int]:
    value = source.get(name)
    values = value if isinstance(value, list) else [value]
    return [item for item in values if isinstance(item, int) and not isinstance(item, bool)]
