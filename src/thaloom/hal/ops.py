"""The operator contract: every operator a model may use, its shapes, its meaning, its tolerance, and what it costs.

A model is recorded once as a `Program`: instructions over numbered slots. Drivers compile programs; the NumPy
reference (hal/reference.py) defines what is right. One instruction is one frozen dataclass below, so a program
is plain data: it can be printed, hashed, cut, compared and sent.

Legend of shapes: R rows in the step, S sequences in the step, H hidden size, V vocabulary, D head size,
N query heads, K key/value heads. A *row* is one token of one sequence in one step. `R` and `S` change each step;
every other size is fixed when the program is built. Values in slots are (R, width), float32 in meaning; how a
driver stores them is its business within the tolerance.

Rows are independent: what an operator computes for a row may not depend on which other rows are in the step.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NewType

import numpy as np
from numpy.typing import NDArray

from thaloom.hal.types import DType

VERSION = 1
"""Version of the operator set. Grows when an operator or attribute is added; a driver states the one it implements."""

BLOCK_TOKENS = 16
"""Tokens whose keys and values lie together in one block of the pool."""

Slot = NewType("Slot", int)
Weight = NewType("Weight", str)
Activation = Literal["silu", "gelu", "gelu_tanh", "relu"]

TOLERANCE: dict[DType, tuple[float, float]] = {
    "f32": (1e-5, 1e-5),
    "bf16": (2e-2, 2e-2),
    "f16": (4e-3, 4e-3),
    "i8": (5e-2, 5e-2),
}
"""Weight dtype -> (absolute, relative) difference from the reference that one operator may show, at unit-scale inputs.
Source: half an ulp of the format times the square root of the longest reduction in the kit's programs (1,024),
measured with the reference itself in that storage."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Instruction:
    """Base of all operators. `out` is the slot written; each slot is written once."""

    op: ClassVar[str]
    out: Slot


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedding(Instruction):
    """out[r] = weight[token[r]] * scale. weight: (V, H)."""

    op: ClassVar[str] = "embedding"
    weight: Weight
    scale: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RmsNorm(Instruction):
    """out = x / sqrt(mean(x²) + eps) * (offset + weight), over each group of `group` columns (0: the whole row).

    weight: (group,), shared by all groups. With `group` = head size this is QK-norm. `offset` is 1 where a family
    stores its norm weights around zero.
    """

    op: ClassVar[str] = "rmsnorm"
    x: Slot
    weight: Weight
    eps: float
    group: int = 0
    offset: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Linear(Instruction):
    """out = x @ weightᵀ + bias. weight: (out_features, in_features); bias: (out_features,)."""

    op: ClassVar[str] = "linear"
    x: Slot
    weight: Weight
    bias: Weight | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RopeScaling:
    """How rotary frequencies are stretched beyond the trained context.

    `none`; `linear`: all by 1/factor; `llama3`: low frequencies only, smoothly between the two wavelengths;
    `yarn`: ramp between two rotation counts, with attention scaled. Source: transformers, modeling_rope_utils
    (which cites arXiv 2309.00071 for YaRN).
    """

    kind: Literal["none", "linear", "llama3", "yarn"] = "none"
    factor: float = 1.0
    original_context: int = 0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rope(Instruction):
    """Rotate pairs of the first `rotary_size` columns of each head by position[r] * frequency.

    Pairs are (i, i + rotary_size/2), or (2i, 2i+1) when `interleaved`. x: (R, heads * head_size).
    """

    op: ClassVar[str] = "rope"
    x: Slot
    head_size: int
    rotary_size: int
    base: float
    interleaved: bool = False
    scaling: RopeScaling = RopeScaling()


@dataclass(frozen=True, slots=True, kw_only=True)
class PagedAttention(Instruction):
    """Store this step's k and v in the sequence's blocks, then attend over them *as stored*, current chunk included.

    q: (R, N*D); k: (R, K*D); v: (R, K*value_size); out: (R, N*value_size). Query head n reads key/value head
    n // (N/K). Row r of sequence s at position p sees positions j <= p (all of its sequence if not `causal`), and
    of these only j > p - window when `window` is not 0. Score = dot * scale, then softcap * tanh(score / softcap)
    when softcap is not 0, plus -slope[n] * (p - j) with `alibi` slopes, one per query head.

    `layer` numbers the key/value stores of a program from 0. Latent attention (MLA) in its absorbed form is
    K = 1, D = latent + rope width, value_size = latent and `value_is_key_prefix`: v is not given and the values
    are the first value_size columns of the stored keys.
    """

    op: ClassVar[str] = "paged_attention"
    q: Slot
    k: Slot
    v: Slot | None
    layer: int
    num_heads: int
    num_kv_heads: int
    head_size: int
    value_size: int
    scale: float
    causal: bool = True
    window: int = 0
    softcap: float = 0.0
    alibi: tuple[float, ...] = ()
    value_is_key_prefix: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Gated(Instruction):
    """out = activation(gate) * up."""

    op: ClassVar[str] = "gated"
    gate: Slot
    up: Slot
    activation: Activation = "silu"


@dataclass(frozen=True, slots=True, kw_only=True)
class Add(Instruction):
    """out = a + b."""

    op: ClassVar[str] = "add"
    a: Slot
    b: Slot


@dataclass(frozen=True, slots=True, kw_only=True)
class Moe(Instruction):
    """Mixture of gated experts: out = Σ over the top_k experts e of p[e] * (gated(x·gateᵀ, x·upᵀ) · downᵀ).

    router: (E, H); gate, up: (E, F, H); down: (E, H, F). p = softmax over all experts, renormalised over the chosen
    when `normalise`, times `scale`. Equal probabilities are broken towards the lower expert number. A shared expert
    is written with `linear`, `gated` and `add` beside this.
    """

    op: ClassVar[str] = "moe"
    x: Slot
    router: Weight
    gate: Weight
    up: Weight
    down: Weight
    top_k: int
    normalise: bool = True
    scale: float = 1.0
    activation: Activation = "silu"


@dataclass(frozen=True, slots=True, kw_only=True)
class Lora(Instruction):
    """out = y + scale * ((x @ aᵀ) @ bᵀ) for rows whose adapter (Step.adapters) is `adapter`; out = y for others.

    a: (rank, in); b: (out, rank).
    """

    op: ClassVar[str] = "lora"
    x: Slot
    y: Slot
    a: Weight
    b: Weight
    scale: float
    adapter: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool(Instruction):
    """Rows asked for by Step.outputs, as they are: (num_outputs, H), each divided by its length when `normalise`.

    A length below 1e-12 counts as 1e-12, so that a row of zeros stays one.
    """

    op: ClassVar[str] = "pool"
    x: Slot
    normalise: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Logits(Instruction):
    """out[i] = scale * (x[outputs[i]] @ weightᵀ), then softcap * tanh(out / softcap) if softcap is not 0.

    weight: (V, H). Computed only for the rows in Step.outputs: (num_outputs, V).
    """

    op: ClassVar[str] = "logits"
    x: Slot
    weight: Weight
    scale: float = 1.0
    softcap: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample(Instruction):
    """out[i] = the token chosen from row i of x by the request's sampling parameters. May run on the host."""

    op: ClassVar[str] = "sample"
    x: Slot


OPERATORS: dict[str, type[Instruction]] = {
    kind.op: kind
    for kind in (
        Embedding, RmsNorm, Linear, Rope, PagedAttention, Gated, Add, Moe, Lora, Pool, Logits, Sample,
    )
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class KvSpec:
    """What one layer's store holds for one token: keys (num_kv_heads, head_size), values (.., value_size)."""

    num_kv_heads: int
    head_size: int
    value_size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """A model's forward pass as data. The last instruction gives the result: it is `logits` or `pool`, and only it."""

    instructions: tuple[Instruction, ...]
    widths: tuple[int, ...]
    """Columns of each slot."""
    weights: dict[Weight, tuple[int, ...]]
    """Every weight the program reads, with its shape."""
    kv: tuple[KvSpec, ...]
    version: int = VERSION

    def __str__(self) -> str:
        return "\n".join(f"%{step.out} = {step.op} {_arguments(step)}" for step in self.instructions)

    def to_json(self) -> str:
        """Canonical text: equal programs give equal text."""
        body = {
            "version": self.version,
            "instructions": [{"op": step.op} | dataclasses.asdict(step) for step in self.instructions],
            "widths": self.widths,
            "weights": self.weights,
            "kv": [dataclasses.asdict(spec) for spec in self.kv],
        }
        return json.dumps(body, sort_keys=True, separators=(",", ":"))

    def digest(self) -> str:
        """SHA-256 of the canonical text."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def kv_values_per_token(self) -> int:
        """Numbers stored per token over all layers."""
        return sum(spec.num_kv_heads * (spec.head_size + spec.value_size) for spec in self.kv)


def _arguments(step: Instruction) -> str:
    shown = []
    for field in dataclasses.fields(step):
        value = getattr(step, field.name)
        if field.name == "out" or value == field.default:
            continue
        is_slot = field.name in _SLOT_FIELDS and value is not None
        shown.append(f"{field.name}=%{value}" if is_slot else f"{field.name}={value}")
    return " ".join(shown)


_SLOT_FIELDS = frozenset({"x", "y", "a", "b", "q", "k", "v", "gate", "up"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """The inputs of one forward pass. Arrays are read during the call only; the caller keeps them.

    Rows of one sequence stand together, in order of position, and form a contiguous run of positions that ends at
    the sequence's length after this step; earlier positions are in its blocks already. Decode rows, prefill chunks
    and verification rows are all just rows.
    """

    tokens: NDArray[np.int32]
    """(R,)"""
    positions: NDArray[np.int32]
    """(R,) from 0"""
    sequences: NDArray[np.int32]
    """(R,) which row of `block_tables` each row belongs to; non-decreasing"""
    block_tables: NDArray[np.int32]
    """(S, blocks per sequence) number of the block that holds positions [16 i, 16 i + 16); -1 beyond its end"""
    outputs: NDArray[np.int32]
    """(num_outputs,) the rows whose result is wanted"""
    adapters: NDArray[np.int32] | None = None
    """(R,) which LoRA adapter each row uses, -1 for none"""
    states: bool = False
    """Of a program that ends in logits: the result is what these would be made of, (num_outputs, D)"""
    greedy: bool = False
    """Of a program that ends in logits: of each output's only the token of the highest is wanted. An executable that
    draws by itself (driver.SamplesNatively) may keep none of them then"""

    @property
    def num_rows(self) -> int:
        return len(self.tokens)


def rope_frequencies(rope: Rope) -> tuple[NDArray[np.float64], float]:
    """Angular frequency of each pair, (rotary_size/2,), and the factor cos and sin are multiplied by.

    Raises ValueError for a scaling whose numbers make no sense. Source: see RopeScaling.
    """
    scaling, size = rope.scaling, rope.rotary_size
    frequencies = rope.base ** -(np.arange(0, size, 2, dtype=np.float64) / size)
    if scaling.kind == "none":
        return frequencies, 1.0
    if scaling.factor <= 0:
        raise ValueError(f"rope scaling factor must be positive, not {scaling.factor}")
    if scaling.kind == "linear":
        return frequencies / scaling.factor, 1.0
    if scaling.original_context <= 0:
        raise ValueError(f"{scaling.kind} rope scaling needs the original context length")
    if scaling.kind == "llama3":
        return _llama3(frequencies, scaling), 1.0
    return _yarn(frequencies, scaling, size, rope.base)


def _llama3(frequencies: NDArray[np.float64], scaling: RopeScaling) -> NDArray[np.float64]:
    wavelengths = 2 * math.pi / frequencies
    smooth = (scaling.original_context / wavelengths - scaling.low_freq_factor) / (
        scaling.high_freq_factor - scaling.low_freq_factor
    )
    blend = (1 - smooth) * frequencies / scaling.factor + smooth * frequencies
    low = wavelengths > scaling.original_context / scaling.low_freq_factor
    high = wavelengths < scaling.original_context / scaling.high_freq_factor
    return np.where(low, frequencies / scaling.factor, np.where(high, frequencies, blend))


def _yarn(
    frequencies: NDArray[np.float64], scaling: RopeScaling, size: int, base: float
) -> tuple[NDArray[np.float64], float]:
    def pair_turning(rotations: float) -> float:
        return size * math.log(scaling.original_context / (rotations * 2 * math.pi)) / (2 * math.log(base))

    low = max(math.floor(pair_turning(scaling.beta_fast)), 0)
    high = min(math.ceil(pair_turning(scaling.beta_slow)), size - 1)
    span = high - low if high != low else 0.001  # as the source does
    ramp = np.clip((np.arange(size // 2) - low) / span, 0, 1)
    factor = scaling.attention_factor
    if factor is None:
        factor = 0.1 * math.log(scaling.factor) + 1.0 if scaling.factor > 1 else 1.0
    return frequencies / scaling.factor * ramp + frequencies * (1 - ramp), factor


class ProgramBuilder:
    """Records operators in order; what an architecture writes into. Checks widths as it goes (ValueError)."""

    def __init__(self) -> None:
        self._instructions: list[Instruction] = []
        self._widths: list[int] = []
        self._weights: dict[Weight, tuple[int, ...]] = {}
        self._kv: list[KvSpec] = []

    def embedding(self, weight: str, *, vocab_size: int, width: int, scale: float = 1.0) -> Slot:
        return self._add(width, Embedding, weight=self._weight(weight, (vocab_size, width)), scale=scale)

    def rmsnorm(self, x: Slot, weight: str, *, eps: float, group: int = 0, offset: float = 0.0) -> Slot:
        width = self._widths[x]
        if group and width % group:
            raise ValueError(f"{weight}: {width} columns are not whole groups of {group}")
        norm = self._weight(weight, (group or width,))
        return self._add(width, RmsNorm, x=x, weight=norm, eps=eps, group=group, offset=offset)

    def linear(self, x: Slot, weight: str, *, width: int, bias: str | None = None) -> Slot:
        matrix = self._weight(weight, (width, self._widths[x]))
        vector = None if bias is None else self._weight(bias, (width,))
        return self._add(width, Linear, x=x, weight=matrix, bias=vector)

    def rope(
        self,
        x: Slot,
        *,
        head_size: int,
        base: float,
        rotary_size: int | None = None,
        interleaved: bool = False,
        scaling: RopeScaling | None = None,
    ) -> Slot:
        rotary_size = head_size if rotary_size is None else rotary_size
        if rotary_size % 2 or not 0 < rotary_size <= head_size:
            raise ValueError(f"rotary size {rotary_size} does not fit head size {head_size}")
        return self._add(
            self._widths[x],
            Rope,
            x=x,
            head_size=head_size,
            rotary_size=rotary_size,
            base=base,
            interleaved=interleaved,
            scaling=scaling or RopeScaling(),
        )

    def paged_attention(
        self,
        q: Slot,
        k: Slot,
        v: Slot | None,
        *,
        num_heads: int,
        num_kv_heads: int,
        head_size: int,
        value_size: int | None = None,
        scale: float | None = None,
        causal: bool = True,
        window: int = 0,
        softcap: float = 0.0,
        alibi: tuple[float, ...] = (),
    ) -> Slot:
        value_size = head_size if value_size is None else value_size
        if num_heads % num_kv_heads:
            raise ValueError(f"{num_heads} query heads cannot share {num_kv_heads} key/value heads evenly")
        expected = [(q, num_heads * head_size), (k, num_kv_heads * head_size)]
        expected += [] if v is None else [(v, num_kv_heads * value_size)]
        for slot, width in expected:
            if self._widths[slot] != width:
                raise ValueError(f"attention: slot %{slot} has {self._widths[slot]} columns, not {width}")
        stored = 0 if v is None else value_size
        self._kv.append(KvSpec(num_kv_heads=num_kv_heads, head_size=head_size, value_size=stored))
        return self._add(
            num_heads * value_size,
            PagedAttention,
            q=q,
            k=k,
            v=v,
            layer=len(self._kv) - 1,
            num_heads=num_heads,
            num_kv_heads=num_kv_heads,
            head_size=head_size,
            value_size=value_size,
            scale=head_size**-0.5 if scale is None else scale,
            causal=causal,
            window=window,
            softcap=softcap,
            alibi=alibi,
            value_is_key_prefix=v is None,
        )

    def gated(self, gate: Slot, up: Slot, *, activation: Activation = "silu") -> Slot:
        self._same_width(gate, up)
        return self._add(self._widths[gate], Gated, gate=gate, up=up, activation=activation)

    def add(self, a: Slot, b: Slot) -> Slot:
        self._same_width(a, b)
        return self._add(self._widths[a], Add, a=a, b=b)

    def moe(
        self,
        x: Slot,
        prefix: str,
        *,
        num_experts: int,
        expert_width: int,
        top_k: int,
        normalise: bool = True,
        scale: float = 1.0,
        activation: Activation = "silu",
    ) -> Slot:
        """Weights are `<prefix>.router`, `.gate`, `.up` and `.down`."""
        width = self._widths[x]
        return self._add(
            width,
            Moe,
            x=x,
            router=self._weight(f"{prefix}.router", (num_experts, width)),
            gate=self._weight(f"{prefix}.gate", (num_experts, expert_width, width)),
            up=self._weight(f"{prefix}.up", (num_experts, expert_width, width)),
            down=self._weight(f"{prefix}.down", (num_experts, width, expert_width)),
            top_k=top_k,
            normalise=normalise,
            scale=scale,
            activation=activation,
        )

    def lora(self, x: Slot, y: Slot, *, a: str, b: str, rank: int, scale: float, adapter: int) -> Slot:
        down = self._weight(a, (rank, self._widths[x]))
        up = self._weight(b, (self._widths[y], rank))
        return self._add(self._widths[y], Lora, x=x, y=y, a=down, b=up, scale=scale, adapter=adapter)

    def pool(self, x: Slot, *, normalise: bool = True) -> Slot:
        return self._add(self._widths[x], Pool, x=x, normalise=normalise)

    def logits(self, x: Slot, weight: str, *, vocab_size: int, scale: float = 1.0, softcap: float = 0.0) -> Slot:
        matrix = self._weight(weight, (vocab_size, self._widths[x]))
        return self._add(vocab_size, Logits, x=x, weight=matrix, scale=scale, softcap=softcap)

    def build(self) -> Program:
        return Program(
            instructions=tuple(self._instructions),
            widths=tuple(self._widths),
            weights=dict(self._weights),
            kv=tuple(self._kv),
        )

    def _add(self, width: int, kind: type[Instruction], **fields: Any) -> Slot:
        if width <= 0:
            raise ValueError(f"{kind.op}: a slot needs at least one column, not {width}")
        slot = Slot(len(self._widths))
        self._widths.append(width)
        self._instructions.append(kind(out=slot, **fields))
        return slot

    def _weight(self, name: str, shape: tuple[int, ...]) -> Weight:
        weight = Weight(name)
        if self._weights.setdefault(weight, shape) != shape:
            raise ValueError(f"weight {name!r} is used as {shape} and as {self._weights[weight]}")
        return weight

    def _same_width(self, a: Slot, b: Slot) -> None:
        if self._widths[a] != self._widths[b]:
            raise ValueError(f"slots %{a} and %{b} differ in width: {self._widths[a]} and {self._widths[b]}")
