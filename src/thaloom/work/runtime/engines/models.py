"""What a foreign engine would be given to serve, looked at before it is: is it there, is it safe, how large is it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thaloom.base.errors import BadParameter, NotServable
from thaloom.base.units import GIB
from thaloom.kernel.models.gguf import read_gguf
from thaloom.kernel.models.import_files import choose, read_json

DEFAULT_CONTEXT = 8192
DEFAULT_KV_BYTES = GIB
"""Booked where the files do not say what a token takes: an estimate, marked as one in the ledger."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignModel:
    """`kv_bytes_per_token`: 16 bits a number; None where the files do not say."""

    weight_bytes: int
    context_length: int | None
    kv_bytes_per_token: int | None

    def context(self, wanted: int | None) -> int:
        """Raises BadParameter beyond what the model was made for."""
        if wanted is not None and self.context_length is not None and wanted > self.context_length:
            raise BadParameter(
                f"a context of {wanted} tokens is asked for; the model was made for {self.context_length}",
                param="context_length",
            )
        return wanted or min(self.context_length or DEFAULT_CONTEXT, DEFAULT_CONTEXT)

    def kv_bytes(self, context_length: int, num_contexts: int) -> int:
        if self.kv_bytes_per_token is None:
            return DEFAULT_KV_BYTES
        return self.kv_bytes_per_token * context_length * num_contexts


def foreign_model(engine: str, model: str) -> ForeignModel:
    """Raises BadParameter for what is no such file, UnsafeFormat for pickles, MalformedFile, NotServable. Blocks."""
    path = Path(model)
    if not path.is_absolute():
        raise BadParameter(f"engine {engine!r} takes the absolute path of a model, not {model!r}", param="model")
    return _gguf(path) if engine == "llama.cpp" else _folder(path)


def _gguf(path: Path) -> ForeignModel:
    if not path.is_file() or path.suffix.lower() != ".gguf":
        raise BadParameter(f"engine 'llama.cpp' serves a .gguf file; {str(path)!r} is none", param="model")
    num_bytes = path.stat().st_size
    with path.open("rb", buffering=0) as file:
        try:
            header = read_gguf(path.name, num_bytes, lambda at, length: os.pread(file.fileno(), length, at))
        except NotServable:  # newer than we read: the engine may
            return ForeignModel(weight_bytes=num_bytes, context_length=None, kv_bytes_per_token=None)
    prefix = f"{header.metadata.get('general.architecture', '')}."
    own = {key.removeprefix(prefix): value for key, value in header.metadata.items() if key.startswith(prefix)}
    heads, kv_heads = _number(own, "attention.head_count"), _number(own, "attention.head_count_kv")
    head_dim = _number(own, "attention.key_length") or (_number(own, "embedding_length") // heads if heads else 0)
    return ForeignModel(
        weight_bytes=num_bytes,
        context_length=_number(own, "context_length") or None,
        kv_bytes_per_token=4 * _number(own, "block_count") * (kv_heads or heads) * head_dim or None,
    )


def _folder(path: Path) -> ForeignModel:
    if not path.is_dir():
        raise BadParameter(f"not a folder: {str(path)!r}", param="model")
    chosen = choose(path)  # pickles beside safetensors are left alone: the engine is told to load safetensors only
    file = chosen.find("config.json")
    if file is None:
        raise NotServable(f"{str(path)!r} has no config.json", param="model")
    config = read_json(file)
    heads = _number(config, "num_attention_heads")
    head_dim = _number(config, "head_dim") or (_number(config, "hidden_size") // heads if heads else 0)
    kv_heads = _number(config, "num_key_value_heads") or heads
    return ForeignModel(
        weight_bytes=sum(weights.num_bytes for weights in chosen.weights),
        context_length=_number(config, "max_position_embeddings") or None,
        kv_bytes_per_token=4 * _number(config, "num_hidden_layers") * kv_heads * head_dim or None,
    )


def _number(facts: Mapping[str, Any], key: str) -> int:
    value = facts.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0
