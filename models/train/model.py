"""The network: Llama semantics in plain torch, with the parameter names of LlamaForCausalLM.

Tensor suffixes: B sequences, T positions, D hidden size, H query heads, G
key/value heads, K head size, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """The sizes of one model; the defaults are those of models/tiny."""

    vocab_size: int = 5120
    hidden_size: int = 256
    intermediate_size: int = 736
    num_layers: int = 6
    num_heads: int = 4
    num_kv_heads: int = 2
    head_size: int = 64
    context: int = 1024
    rope_theta: float = 10_000.0
    norm_epsilon: float = 1e-5


class Attention(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.q_proj = nn.Linear(shape.hidden_size, shape.num_heads * shape.head_size, bias=False)
        self.k_proj = nn.Linear(shape.hidden_size, shape.num_kv_heads * shape.head_size, bias=False)
        self.v_proj = nn.Linear(shape.hidden_size, shape.num_kv_heads * shape.head_size, bias=False)
        self.o_proj = nn.Linear(shape.num_heads * shape.head_size, shape.hidden_size, bias=False)

    def forward(self, x_BTD: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
        shape = self.shape
        B, T, _ = x_BTD.shape
        q_BHTK = self.q_proj(x_BTD).view(B, T, shape.num_heads, shape.head_size).transpose(1, 2)
        k_BGTK = self.k_proj(x_BTD).view(B, T, shape.num_kv_heads, shape.head_size).transpose(1, 2)
        v_BGTK = self.v_proj(x_BTD).view(B, T, shape.num_kv_heads, shape.head_size).transpose(1, 2)
        q_BHTK, k_BGTK = rotate(q_BHTK, rotary), rotate(k_BGTK, rotary)
        group = shape.num_heads // shape.num_kv_heads
        k_BHTK, v_BHTK = k_BGTK.repeat_interleave(group, dim=1), v_BGTK.repeat_interleave(group, dim=1)
        y_BHTK = F.scaled_dot_product_attention(q_BHTK, k_BHTK, v_BHTK, is_causal=True)
        y: Tensor = self.o_proj(y_BHTK.transpose(1, 2).reshape(B, T, -1))
        return y


class FeedForward(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(shape.hidden_size, shape.intermediate_size, bias=False)
        self.up_proj = nn.Linear(shape.hidden_size, shape.intermediate_size, bias=False)
        self.down_proj = nn.Linear(shape.intermediate_size, shape.hidden_size, bias=False)

    def forward(self, x_BTD: Tensor) -> Tensor:
        y: Tensor = self.down_proj(F.silu(self.gate_proj(x_BTD)) * self.up_proj(x_BTD))
        return y


class Norm(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(shape.hidden_size))
        self.epsilon = shape.norm_epsilon

    def forward(self, x_BTD: Tensor) -> Tensor:
        scale = torch.rsqrt(x_BTD.float().pow(2).mean(-1, keepdim=True) + self.epsilon)
        return (x_BTD.float() * scale * self.weight).to(x_BTD.dtype)


class Layer(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.input_layernorm = Norm(shape)
        self.self_attn = Attention(shape)
        self.post_attention_layernorm = Norm(shape)
        self.mlp = FeedForward(shape)

    def forward(self, x_BTD: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
        x_BTD = x_BTD + self.self_attn(self.input_layernorm(x_BTD), rotary)
        y: Tensor = x_BTD + self.mlp(self.post_attention_layernorm(x_BTD))
        return y


class TinyLlama(nn.Module):
    """The decoder; the output matrix is the embedding itself (tied)."""

    cos_TK: Tensor
    sin_TK: Tensor

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.embed_tokens = nn.Embedding(shape.vocab_size, shape.hidden_size)
        layers = [Layer(shape) for _ in range(shape.num_layers)]
        self.layers = nn.ModuleList(layers)
        self.norm = Norm(shape)
        cos_TK, sin_TK = rotary_table(shape)
        self.register_buffer("cos_TK", cos_TK, persistent=False)
        self.register_buffer("sin_TK", sin_TK, persistent=False)
        self.apply(initialise)
        for layer in layers:
            nn.init.zeros_(layer.self_attn.o_proj.weight)
            nn.init.zeros_(layer.mlp.down_proj.weight)

    def forward(self, tokens_BT: Tensor) -> Tensor:
        """Returns logits_BTV."""
        T = tokens_BT.shape[1]
        rotary = (self.cos_TK[:T], self.sin_TK[:T])
        x_BTD = self.embed_tokens(tokens_BT)
        if torch.is_autocast_enabled("cpu"):
            x_BTD = x_BTD.to(torch.bfloat16)
        for layer in self.layers:
            x_BTD = layer(x_BTD, rotary)
        return F.linear(self.norm(x_BTD), self.embed_tokens.weight)

    def loss(self, tokens_BT: Tensor, targets_BT: Tensor) -> Tensor:
        """Mean cross entropy in nats per token."""
        return F.cross_entropy(self(tokens_BT).flatten(0, 1).float(), targets_BT.flatten())


def initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Embedding | nn.Linear):
        nn.init.normal_(module.weight, std=0.02)


def rotary_table(shape: Shape) -> tuple[Tensor, Tensor]:
    frequencies = shape.rope_theta ** (-torch.arange(0, shape.head_size, 2).float() / shape.head_size)
    angles = torch.outer(torch.arange(shape.context).float(), frequencies).repeat(1, 2)
    return angles.cos(), angles.sin()


def rotate(x_BHTK: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
    """Rotary position embedding in the half-split arrangement of Llama's released weights."""
    cos_TK, sin_TK = rotary
    first, second = x_BHTK.chunk(2, dim=-1)
    turned = torch.cat((-second, first), dim=-1)
    return (x_BHTK * cos_TK + turned * sin_TK).to(x_BHTK.dtype)
