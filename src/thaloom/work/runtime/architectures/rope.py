"""Rotary embedding settings as config.json writes them: `rope_theta` with `rope_scaling`, or `rope_parameters`.

Source: transformers 5, modeling_rope_utils (standardize_rope_params and the _compute functions): which form wins,
defaults, and where the original context length comes from.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import cast

from thaloom.hal.ops import RopeScaling
from thaloom.work.runtime.architectures.keys import Keys

_DEFAULT_BASE = 10_000.0


def read_rope(keys: Keys, context_length: int) -> tuple[float, RopeScaling]:
    """Base and scaling. Takes every key of the two forms; raises NotServable for a kind or setting we do not have."""
    base = keys.number("rope_theta", _DEFAULT_BASE)
    outer = keys.integer("original_max_position_embeddings", 0, least=0)
    old, new = _table(keys, "rope_scaling"), _table(keys, "rope_parameters")
    where, table = ("rope_scaling.", old) if old else ("rope_parameters.", new)
    inner = Keys(table, where=where)
    for holder in (keys, inner):
        share = holder.number("partial_rotary_factor", 1.0)
        if share != 1.0:
            holder.refuse("partial_rotary_factor", share, "1: this family turns whole heads")
    base = inner.number("rope_theta", base)
    kind = inner.word("type", inner.word("rope_type", "default"))
    kind = inner.word("rope_type", kind)
    scaling = _scaling(inner, kind, original_context=outer, context_length=context_length)
    inner.finish(())
    return base, scaling


def _table(keys: Keys, key: str) -> Mapping[str, object]:
    value = keys.raw(key)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        keys.refuse(key, value, "a table")
    return cast(Mapping[str, object], value)


def _scaling(keys: Keys, kind: str, *, original_context: int, context_length: int) -> RopeScaling:
    if kind == "default":
        return RopeScaling()
    if kind == "linear":
        return RopeScaling(kind="linear", factor=keys.number("factor"))
    if kind not in ("llama3", "yarn"):
        keys.refuse("rope_type", kind, "one of default, linear, llama3, yarn")
    written = keys.integer("original_max_position_embeddings", context_length)
    original = original_context or written
    if kind == "llama3":
        return RopeScaling(
            kind="llama3",
            factor=keys.number("factor"),
            original_context=original,
            low_freq_factor=keys.number("low_freq_factor"),
            high_freq_factor=keys.number("high_freq_factor"),
        )
    if not keys.flag("truncate", True):
        keys.refuse("truncate", False, "true")
    factor = keys.number("factor", context_length / original)
    return RopeScaling(
        kind="yarn",
        factor=factor,
        original_context=original,
        beta_fast=keys.number("beta_fast", 32.0),
        beta_slow=keys.number("beta_slow", 1.0),
        attention_factor=_attention_factor(keys, factor),
    )


def _attention_factor(keys: Keys, factor: float) -> float | None:
    """What YaRN multiplies cos and sin by, where the config says; None: by the paper's formula."""
    above, below = keys.raw("mscale"), keys.raw("mscale_all_dim")
    if keys.has("attention_factor"):
        return keys.number("attention_factor")
    if not above or not below:
        keys.raw("attention_factor")
        return None
    grow = 0.1 * math.log(factor) if factor > 1 else 0.0
    return (grow * keys.number("mscale") + 1.0) / (grow * keys.number("mscale_all_dim") + 1.0)
