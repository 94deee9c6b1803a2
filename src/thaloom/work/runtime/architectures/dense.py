"""The dense decoder that Llama and its descendants share: pre-norm attention and a gated MLP, layer after layer.

Families differ in which projections have a bias, whether queries and keys are normalised, and which layers look
through a window; each says so in a `DenseShape`, and its own file explains where that comes from.
"""

from __future__ import annotations

from dataclasses import dataclass

from thaloom.hal.ops import Activation, Program, ProgramBuilder, RopeScaling, Slot
from thaloom.work.runtime.architectures import ModelShape
from thaloom.work.runtime.architectures.keys import Keys
from thaloom.work.runtime.architectures.rope import read_rope

_ACTIVATIONS: dict[str, Activation] = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class DenseShape(ModelShape):
    """A dense decoder, complete."""

    mlp_size: int
    num_heads: int
    num_kv_heads: int
    head_size: int
    norm_eps: float
    activation: Activation
    rope_base: float
    rope_scaling: RopeScaling
    tied_head: bool
    """Whether logits use the embedding's matrix."""
    qkv_bias: bool = False
    out_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    windows: tuple[int, ...] = ()
    """Window of each layer, 0 for none; empty: none anywhere."""


def read_dense(
    keys: Keys,
    *,
    head_size: int | None = None,
    qkv_bias: bool = False,
    out_bias: bool = False,
    mlp_bias: bool = False,
    qk_norm: bool = False,
    windows: tuple[int, ...] = (),
) -> DenseShape:
    """The keys all dense families share, and refuse whatever is left. `head_size`: the family's default, if any.

    Raises NotServable that names the key.
    """
    hidden_size, num_heads = keys.integer("hidden_size"), keys.integer("num_attention_heads")
    num_kv_heads = keys.integer("num_key_value_heads", num_heads)
    if num_heads % num_kv_heads:
        keys.refuse("num_key_value_heads", num_kv_heads, f"a divisor of num_attention_heads, {num_heads}")
    if head_size is None and not keys.has("head_dim") and hidden_size % num_heads:
        keys.refuse("num_attention_heads", num_heads, f"a divisor of hidden_size, {hidden_size}")
    head_size = keys.integer("head_dim", head_size or hidden_size // num_heads)
    if head_size % 2:
        keys.refuse("head_dim", head_size, "an even number: rotary pairs")
    activation = keys.word("hidden_act", "silu")
    if activation not in _ACTIVATIONS:
        keys.refuse("hidden_act", activation, f"one of {', '.join(sorted(_ACTIVATIONS))}")
    context_length = keys.integer("max_position_embeddings")
    rope_base, rope_scaling = read_rope(keys, context_length)
    shape = DenseShape(
        vocab_size=keys.integer("vocab_size"),
        context_length=context_length,
        hidden_size=hidden_size,
        num_layers=keys.integer("num_hidden_layers"),
        mlp_size=keys.integer("intermediate_size"),
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_size=head_size,
        norm_eps=keys.number("rms_norm_eps", 1e-6),
        activation=_ACTIVATIONS[activation],
        rope_base=rope_base,
        rope_scaling=rope_scaling,
        tied_head=keys.flag("tie_word_embeddings", False),
        qkv_bias=qkv_bias,
        out_bias=out_bias,
        mlp_bias=mlp_bias,
        qk_norm=qk_norm,
        windows=windows,
    )
    keys.finish()
    return shape


def record_dense(shape: DenseShape) -> Program:
    """The forward pass from token ids to logits."""
    builder = ProgramBuilder()
    embedding = "model.embed_tokens.weight"
    x = builder.embedding(embedding, vocab_size=shape.vocab_size, width=shape.hidden_size)
    for layer in range(shape.num_layers):
        prefix = f"model.layers.{layer}"
        normed = builder.rmsnorm(x, f"{prefix}.input_layernorm.weight", eps=shape.norm_eps)
        window = shape.windows[layer] if shape.windows else 0
        x = builder.add(x, _attention(builder, shape, normed, f"{prefix}.self_attn", window))
        normed = builder.rmsnorm(x, f"{prefix}.post_attention_layernorm.weight", eps=shape.norm_eps)
        x = builder.add(x, _mlp(builder, shape, normed, f"{prefix}.mlp"))
    x = builder.rmsnorm(x, "model.norm.weight", eps=shape.norm_eps)
    builder.logits(x, embedding if shape.tied_head else "lm_head.weight", vocab_size=shape.vocab_size)
    return builder.build()


def _attention(builder: ProgramBuilder, shape: DenseShape, x: Slot, prefix: str, window: int) -> Slot:
    q_size, kv_size = shape.num_heads * shape.head_size, shape.num_kv_heads * shape.head_size
    q = _linear(builder, x, f"{prefix}.q_proj", q_size, bias=shape.qkv_bias)
    k = _linear(builder, x, f"{prefix}.k_proj", kv_size, bias=shape.qkv_bias)
    v = _linear(builder, x, f"{prefix}.v_proj", kv_size, bias=shape.qkv_bias)
    if shape.qk_norm:
        q = builder.rmsnorm(q, f"{prefix}.q_norm.weight", eps=shape.norm_eps, group=shape.head_size)
        k = builder.rmsnorm(k, f"{prefix}.k_norm.weight", eps=shape.norm_eps, group=shape.head_size)
    q = builder.rope(q, head_size=shape.head_size, base=shape.rope_base, scaling=shape.rope_scaling)
    k = builder.rope(k, head_size=shape.head_size, base=shape.rope_base, scaling=shape.rope_scaling)
    attended = builder.paged_attention(
        q,
        k,
        v,
        num_heads=shape.num_heads,
        num_kv_heads=shape.num_kv_heads,
        head_size=shape.head_size,
        window=window,
    )
    return _linear(builder, attended, f"{prefix}.o_proj", shape.hidden_size, bias=shape.out_bias)


def _mlp(builder: ProgramBuilder, shape: DenseShape, x: Slot, prefix: str) -> Slot:
    gate = _linear(builder, x, f"{prefix}.gate_proj", shape.mlp_size, bias=shape.mlp_bias)
    up = _linear(builder, x, f"{prefix}.up_proj", shape.mlp_size, bias=shape.mlp_bias)
    hidden = builder.gated(gate, up, activation=shape.activation)
    return _linear(builder, hidden, f"{prefix}.down_proj", shape.hidden_size, bias=shape.mlp_bias)


def _linear(builder: ProgramBuilder, x: Slot, prefix: str, width: int, *, bias: bool) -> Slot:
    return builder.linear(x, f"{prefix}.weight", width=width, bias=f"{prefix}.bias" if bias else None)
