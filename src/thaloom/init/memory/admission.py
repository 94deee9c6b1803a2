"""How many bytes a service will take, before its worker exists: an estimate, and marked as one in the ledger."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from thaloom.base.errors import BadParameter
from thaloom.base.ids import DeviceId
from thaloom.base.units import GIB, MIB, format_bytes
from thaloom.hal.types import DTYPE_BYTES, Device
from thaloom.kernel.models.types import ModelCard
from thaloom.kernel.sched.drafts import DRAFT_ROWS
from thaloom.kernel.state.types import ServiceSpec
from thaloom.work.runtime.engines.kinds import find
from thaloom.work.runtime.engines.models import ForeignModel
from thaloom.work.runtime.engines.onnx import PASS_BYTES

MAX_DEFAULT_CONTEXT = 8192
DEFAULT_CONTEXTS = 4
MAX_DEFAULT_KV_BYTES = GIB
BLOCK_TOKENS = 16
MOST = {"num_threads": 1024, "max_sequences": 4096, "chunk_tokens": 32768, "max_queue": 100_000}
"""Beyond what any driver takes in one step (native/cpu/read_program.h: 1,024 threads, 65,536 rows) or anybody waits
for."""
WORKER_BASE_BYTES = 80 * MIB
"""An empty worker: interpreter, NumPy, the native library. Measured as resident set of one, rounded up."""

FOREIGN_SCRATCH_BYTES = 256 * MIB
"""Buffers of a foreign engine: a guess, corrected by what its processes are seen to hold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """Bytes on the device, by purpose."""

    weight_bytes: int
    kv_bytes: int
    scratch_bytes: int
    process_bytes: int
    """Interpreter and libraries of the worker."""
    context_length: int
    kv_ceiling_bytes: int = 0
    """What keys and values may grow to on pages that others lend; 0: no further than what is promised."""
    kv_host_bytes: int = 0
    """For keys and values that left the device: of the host's memory, whatever the device is."""

    @property
    def lent_bytes(self) -> int:
        """The most it may hold beyond what is promised."""
        return max(0, self.kv_ceiling_bytes - self.kv_bytes)

    @property
    def total_bytes(self) -> int:
        """What is promised. Of a device with memory of its own the host's is counted too: less is free there, then,
        than could be given."""
        device_bytes = self.weight_bytes + self.kv_bytes + self.scratch_bytes + self.process_bytes
        return device_bytes + self.kv_host_bytes


def estimate(spec: ServiceSpec, card: ModelCard, config: Mapping[str, Any], *, lends: bool = False) -> Estimate:
    """What serving the model like this takes. `config` is the model's config.json. `lends`: pages of keys and values
    are lent where it runs, so that one context is all that must be promised.

    Raises BadParameter for a wish that no worker could ever meet, so that it takes no healthy one's place.
    """
    for name, most in MOST.items():
        wanted = getattr(spec, name)
        if wanted is not None and wanted > most:
            raise BadParameter(f"{name} may be at most {most}, not {wanted}", param=name)
    context_length = context_for(spec, card)
    one_context = -(-context_length // BLOCK_TOKENS) * BLOCK_TOKENS * kv_bytes_per_token(card, config, spec.kv_dtype)
    kv_bytes = spec.kv_bytes
    if kv_bytes is not None and kv_bytes < one_context // 2:  # half: a device may store 16 bits where we guess 32
        raise BadParameter(
            f"kv_bytes is {format_bytes(kv_bytes)}; one context of {context_length} tokens needs "
            f"{format_bytes(one_context)} for keys and values",
            param="kv_bytes",
        )
    ceiling = 0
    if kv_bytes is None and lends:
        kv_bytes, ceiling = one_context, spec.max_sequences * one_context
    elif kv_bytes is None:
        kv_bytes = min(DEFAULT_CONTEXTS * one_context, max(MAX_DEFAULT_KV_BYTES, one_context))
    return Estimate(
        weight_bytes=_weight_bytes(spec, card, config),
        kv_bytes=kv_bytes,
        scratch_bytes=_scratch_bytes(spec, card, config),
        process_bytes=WORKER_BASE_BYTES,
        context_length=context_length,
        kv_ceiling_bytes=ceiling,
        kv_host_bytes=spec.kv_host_bytes,
    )


def foreign_estimate(spec: ServiceSpec, model: Callable[[], ForeignModel]) -> Estimate:
    """What a foreign engine will take, as far as `model`, the files it is to serve, tell; of one that runs already
    nothing but our own worker. Blocks.

    Raises DriverUnavailable for an engine that is not installed, and whatever refuses the model.
    """
    kind = find(spec.engine)
    if kind.command is None:
        return Estimate(
            weight_bytes=0,
            kv_bytes=0,
            scratch_bytes=0,
            process_bytes=WORKER_BASE_BYTES,
            context_length=spec.context_length or 0,
        )
    found = model()
    context_length = found.context(spec.context_length)
    at_once = min(spec.max_sequences, kind.most_sequences or DEFAULT_CONTEXTS)
    return Estimate(
        weight_bytes=found.weight_bytes,
        kv_bytes=spec.kv_bytes or found.kv_bytes(context_length, at_once),
        scratch_bytes=FOREIGN_SCRATCH_BYTES + kind.base_bytes,
        process_bytes=WORKER_BASE_BYTES,
        context_length=context_length,
    )


def onnx_estimate(spec: ServiceSpec, card: ModelCard) -> Estimate:
    """What ONNX Runtime will take: the weights beside what it makes of them, and a guess for what passes between."""
    for name in ("max_sequences", "max_queue", "num_threads"):
        wanted = getattr(spec, name)
        if wanted is not None and wanted > MOST[name]:
            raise BadParameter(f"{name} may be at most {MOST[name]}, not {wanted}", param=name)
    return Estimate(
        weight_bytes=2 * card.weight_bytes,
        kv_bytes=0,
        scratch_bytes=PASS_BYTES,
        process_bytes=WORKER_BASE_BYTES,
        context_length=0,
    )


def context_for(spec: ServiceSpec, card: ModelCard) -> int:
    """The context length asked for, else the model's own, at most 8,192. Raises BadParameter beyond the model's."""
    if spec.context_length is not None:
        if card.context_length is not None and spec.context_length > card.context_length:
            raise BadParameter(
                f"a context of {spec.context_length} tokens is asked for; the model was made for {card.context_length}",
                param="context_length",
            )
        return spec.context_length
    return min(card.context_length or MAX_DEFAULT_CONTEXT, MAX_DEFAULT_CONTEXT)


def kv_bytes_per_token(card: ModelCard, config: Mapping[str, Any], kv_dtype: str | None = None) -> int:
    """Keys and values of one token over all layers: f32, or 16 bits for a model stored in 16, unless told otherwise;
    i8 has a scale in f32 for each head. 0 if the config does not say."""
    _, kv_heads, head_dim = _heads(config)
    dtype = kv_dtype or ("f32" if "f32" in card.dtypes else "f16")
    head_bytes = head_dim + 4 if dtype == "i8" else head_dim * (4 if dtype == "f32" else 2)
    return 2 * _count(config, "num_hidden_layers") * kv_heads * head_bytes


def choose_device(devices: Sequence[Device]) -> DeviceId | None:
    """Where a service goes that names no device: the first processor that is real. A made-up device is only ever used
    by name."""
    return next((device.id for device in devices if device.kind == "cpu"), None)


def _weight_bytes(spec: ServiceSpec, card: ModelCard, config: Mapping[str, Any]) -> int:
    """At most, on a device that computes nothing in f16: as stored, f16 widened; or every parameter a whole number with
    its share of a scale (f16 for 32), but for what stays as it is stored: a table that is only looked up, and in 8 bits
    what makes keys and values that heads share."""
    widened = card.weight_bytes * (2 if "f16" in card.dtypes else 1)
    if spec.weights == "stored":
        return widened
    hidden = _count(config, "hidden_size")
    kept = 0 if config.get("tie_word_embeddings") else (card.vocab_size or 0) * hidden
    heads, kv_heads, head_dim = _heads(config)
    if spec.weights == "int8" and kv_heads < heads:
        kept += 2 * _count(config, "num_hidden_layers") * kv_heads * head_dim * hidden
    kept = min(kept, card.num_parameters)
    value_bytes = DTYPE_BYTES["f32" if {"f32", "f16"} & set(card.dtypes) else "bf16"]
    whole = (card.num_parameters - kept) * (18 if spec.weights == "int8" else 9) // 16
    return min(widened, whole + kept * value_bytes)


def _heads(config: Mapping[str, Any]) -> tuple[int, int, int]:
    """Query heads, key/value heads, columns of a head. 0 where the config does not say."""
    heads = _count(config, "num_attention_heads")
    head_dim = _count(config, "head_dim") or (_count(config, "hidden_size") // heads if heads else 0)
    return heads, _count(config, "num_key_value_heads") or heads, head_dim


def _scratch_bytes(spec: ServiceSpec, card: ModelCard, config: Mapping[str, Any]) -> int:
    """Activations of the largest step (a few rows of the widest layer) and its logits."""
    rows = spec.chunk_tokens + spec.max_sequences
    width = 4 * _count(config, "hidden_size") + 3 * _count(config, "intermediate_size")
    results = spec.max_sequences + (DRAFT_ROWS if spec.speculation == "auto" else 0)
    logits = results * (card.vocab_size or 0)
    return (rows * width + logits) * DTYPE_BYTES["f32"]


def _count(config: Mapping[str, Any], key: str) -> int:
    value = config.get(key)
    return value if isinstance(value, int) and value > 0 else 0
