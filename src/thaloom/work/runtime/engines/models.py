"""What a foreign engine would be given to serve, looked at before it is: is it there, is it safe, how large is it."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thaloom.base.errors import BadParameter, NotServable
from thaloom.base.plugins import Registry
from thaloom.base.units import GIB
from thaloom.kernel.models.gguf import read_gguf
from thaloom.kernel.models.import_files import choose, read_json
from thaloom.kernel.models.store import ModelStore
from thaloom.kernel.models.types import Manifest
from thaloom.work.runtime.architectures import Architecture

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
    return _told_by(read_json(file), sum(weights.num_bytes for weights in chosen.weights))


def stored_model(store: ModelStore, manifest: Manifest) -> ForeignModel:
    """Raises NotServable for what is no language model that continues texts."""
    if not takes(manifest.card.architecture):
        raise NotServable(
            f"engine 'transformers' serves models that continue texts; {str(manifest.name)!r} is "
            f"{manifest.card.architecture or 'of no architecture its config.json names'}",
            param="engine",
        )
    if manifest.encrypted:
        raise NotServable(
            f"engine 'transformers' reads files, and {str(manifest.name)!r} is encrypted: its bytes are "
            "written nowhere in plain (thaloom decrypt)",
            param="engine",
        )
    return _told_by(store.open(manifest).config(), manifest.card.weight_bytes)


def takes(architecture: str) -> bool:
    """Whether engine `transformers` may serve it; whether the library knows it shows when it loads."""
    return architecture.endswith(("ForCausalLM", "LMHeadModel"))


@functools.cache
def own_architectures() -> frozenset[str]:
    """Those our own engine serves, by their names in config.json."""
    known: Registry[Architecture] = Registry("architecture")
    known.discover()
    return frozenset(name for family in known.names() for name in known.manifest(family).provides)


def why_foreign(architecture: str) -> str:
    """The reason of the Degraded condition."""
    if architecture in own_architectures():
        return f"served by transformers as asked, though {architecture} has an own model"
    return f"served by transformers: no own model for architecture {architecture}"


def _told_by(config: Mapping[str, Any], weight_bytes: int) -> ForeignModel:
    """By the names most have, and by those of GPT-2 and its kin."""
    heads = _number(config, "num_attention_heads", "n_head")
    head_dim = _number(config, "head_dim") or (_number(config, "hidden_size", "n_embd") // heads if heads else 0)
    kv_heads = _number(config, "num_key_value_heads") or heads
    return ForeignModel(
        weight_bytes=weight_bytes,
        context_length=_number(config, "max_position_embeddings", "n_positions", "n_ctx") or None,
        kv_bytes_per_token=4 * _number(config, "num_hidden_layers", "n_layer") * kv_heads * head_dim or None,
    )


def _number(facts: Mapping[str, Any], *keys: str) -> int:
    """The first of them that is there, else 0."""
    found = (facts.get(key) for key in keys)
    return next((value for value in found if isinstance(value, int) and not isinstance(value, bool) and value > 0), 0)
