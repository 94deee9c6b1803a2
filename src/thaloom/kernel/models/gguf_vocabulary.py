"""The tokens of a GGUF file: their texts, kinds and scores, proved to fit together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thaloom.base.errors import MalformedFile
from thaloom.kernel.models.gguf import Value

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
"""Source: gguf-py constants.py, `TokenType`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Vocabulary:
    """Token i is `tokens[i]`, of kind `kinds[i]`, with `scores[i]` (zeros where the file has none)."""

    file: str
    metadata: Mapping[str, Value]
    tokens: tuple[str, ...]
    kinds: NDArray[np.int64]
    scores: NDArray[np.float32]

    @classmethod
    def read(cls, file: str, metadata: Mapping[str, Value], vocab_size: int) -> Vocabulary:
        """Raises MalformedFile if lists are missing or of different lengths, or a token comes twice."""
        tokens = metadata.get("tokenizer.ggml.tokens")
        if not isinstance(tokens, tuple) or not 0 < len(tokens) <= vocab_size:
            raise MalformedFile(f"{file!r} has no list of tokens that fits its embedding of {vocab_size}", file=file)
        kinds = _numbers(file, metadata, "tokenizer.ggml.token_type", len(tokens), NORMAL).astype(np.int64)
        scores = _numbers(file, metadata, "tokenizer.ggml.scores", len(tokens), 0).astype(np.float32)
        vocabulary = cls(file=file, metadata=metadata, tokens=tokens, kinds=kinds, scores=scores)
        used = [token for token, kind in zip(tokens, kinds, strict=True) if kind != UNUSED]
        if len(used) != len(set(used)):
            raise MalformedFile(f"{file!r} has the same token twice", file=file)
        return vocabulary

    def numbers(self) -> dict[str, int]:
        """Text -> number. Tokens the model never uses come last, so that they take nobody's text."""
        unused = {token: i for i, token in enumerate(self.tokens) if self.kinds[i] == UNUSED}
        return unused | {token: i for i, token in enumerate(self.tokens) if self.kinds[i] != UNUSED}

    def added_tokens(self) -> list[dict[str, Any]]:
        """Those looked for in a text before anything else: control tokens, and the model maker's own."""
        return [
            {
                "id": i,
                "content": token,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": bool(self.kinds[i] != USER_DEFINED),
            }
            for i, token in enumerate(self.tokens)
            if self.kinds[i] in (CONTROL, USER_DEFINED, UNKNOWN) and token
        ]

    def token_id(self, key: str) -> int | None:
        """The token a key of the metadata names. Raises MalformedFile if there is no such token."""
        value = self.metadata.get(key)
        if value is None or value == 2**32 - 1:  # writers' way of saying none
            return None
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < len(self.tokens):
            raise MalformedFile(f"{self.file!r} has {key!r} = {str(value)[:40]}: no token", file=self.file)
        return value


def _numbers(file: str, metadata: Mapping[str, Value], key: str, count: int, default: int) -> NDArray[Any]:
    value = metadata.get(key)
    if value is None:
        return np.full(count, default)
    if not isinstance(value, np.ndarray) or value.shape != (count,) or not np.isfinite(value.astype(np.float64)).all():
        raise MalformedFile(f"{file!r} has {key!r} that is not {count} numbers, one for each token", file=file)
    return value
