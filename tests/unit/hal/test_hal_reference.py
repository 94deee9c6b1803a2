"""The reference against formulas written again, densely, in f64: nothing else may define what it defines."""

from __future__ import annotations

import math

import numpy as np
import pytest

from thaloom.hal.checks import MemoryWeights
from thaloom.hal.ops import Program, ProgramBuilder, RopeScaling, Slot, Step, rope_frequencies
from thaloom.hal.reference import ReferencePool, activate, run_reference, softcapped, softmax
from thaloom.hal.tensors import Tensor, bf16_from_f32
from thaloom.hal.testing.programs import make_weights
from thaloom.hal.types import DType

NUM_TOKENS = 21
WIDTH = 24


def i32(values: object) -> np.ndarray:
    return np.asarray(values, np.int32)


def step_of(num_rows: int = NUM_TOKENS, adapters: object = None) -> Step:
    return Step(
        tokens=i32(np.arange(num_rows)),
        positions=i32(np.arange(num_rows)),
        sequences=i32(np.zeros(num_rows)),
        block_tables=i32([[2, 0]]),
        outputs=i32(np.arange(num_rows)),
        adapters=None if adapters is None else i32(adapters),
    )


def run(program: Program, weights: dict[str, Tensor], step: Step | None = None, kv_dtype: DType = "f32") -> np.ndarray:
    pool = ReferencePool(program, 3, kv_dtype)
    return run_reference(program, weights, step or step_of(), pool)


def f64(weights: dict[str, Tensor], name: str) -> np.ndarray:
    return weights[name].to_f32().astype(np.float64)


def start() -> tuple[ProgramBuilder, Slot]:
    builder = ProgramBuilder()
    return builder, builder.embedding("embedding", vocab_size=NUM_TOKENS, width=WIDTH)


def finish(builder: ProgramBuilder, x: Slot, seed: int = 3) -> tuple[Program, dict[str, Tensor], np.ndarray]:
    """Program, weights, and the embedded rows in f64."""
    builder.pool(x, normalise=False)
    program = builder.build()
    weights = make_weights(program, seed)
    return program, weights, f64(weights, "embedding")


def dense_attention(
    q: np.ndarray, k: np.ndarray, v: np.ndarray, *, scale: float, causal: bool = True, window: int = 0,
    softcap: float = 0.0, alibi: tuple[float, ...] = (),
) -> np.ndarray:  # fmt: skip
    """q: (N, L, D); k: (K, L, D); v: (K, L, E); out: (L, N*E). One head at a time, as the contract words it."""
    heads = []
    for n in range(len(q)):
        kv = n // (len(q) // len(k))
        scores = q[n] @ k[kv].T * scale
        if softcap:
            scores = softcap * np.tanh(scores / softcap)
        for p in range(scores.shape[0]):
            for j in range(scores.shape[1]):
                if alibi:
                    scores[p, j] -= alibi[n] * (p - j)
                if (causal and j > p) or (window and j <= p - window):
                    scores[p, j] = -np.inf
        shares = np.exp(scores - scores.max(axis=1, keepdims=True))
        heads.append(shares / shares.sum(axis=1, keepdims=True) @ v[kv])
    return np.concatenate(heads, axis=1)


def split(x: np.ndarray, heads: int) -> np.ndarray:
    return x.reshape(len(x), heads, -1).transpose(1, 0, 2)


@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"scale": 0.5},
        {"window": 4},
        {"window": 18},
        {"softcap": 0.7},
        {"alibi": (0.5, 0.25, 0.1, 0.05)},
        {"causal": False},
        {"causal": False, "window": 3},
        {"window": 6, "softcap": 1.1, "alibi": (0.5, 0.25, 0.1, 0.05)},
    ],
    ids=str,
)
def test_attention(attributes: dict[str, object]) -> None:
    builder, x = start()
    q, k, v = (builder.linear(x, name, width=width) for name, width in (("q", 32), ("k", 16), ("v", 10)))
    out = builder.paged_attention(q, k, v, num_heads=4, num_kv_heads=2, head_size=8, value_size=5, **attributes)
    program, weights, rows = finish(builder, out)
    q_, k_, v_ = (rows @ f64(weights, name).T for name in "qkv")
    wanted = dense_attention(split(q_, 4), split(k_, 2), split(v_, 2), **({"scale": 8**-0.5} | attributes))
    assert np.allclose(run(program, weights), wanted, atol=2e-6)


def test_attention_with_key_prefix_as_values() -> None:
    """Absorbed latent attention: one key/value head whose first columns are the values."""
    builder, x = start()
    q, k = builder.linear(x, "q", width=30), builder.linear(x, "k", width=10)
    out = builder.paged_attention(q, k, None, num_heads=3, num_kv_heads=1, head_size=10, value_size=6)
    program, weights, rows = finish(builder, out)
    assert program.kv[0].value_size == 0
    q_, k_ = (rows @ f64(weights, name).T for name in "qk")
    wanted = dense_attention(split(q_, 3), split(k_, 1), split(k_, 1)[..., :6], scale=10**-0.5)
    assert np.allclose(run(program, weights), wanted, atol=2e-6)


def test_attention_reads_what_is_stored() -> None:
    """With a bf16 store even the current row's own keys and values are read back rounded."""
    builder, x = start()
    out = builder.paged_attention(x, x, x, num_heads=2, num_kv_heads=2, head_size=12)
    program, weights, rows = finish(builder, out)
    stored = Tensor("bf16", bf16_from_f32(rows.astype(np.float32))).to_f32().astype(np.float64)
    wanted = dense_attention(split(rows, 2), split(stored, 2), split(stored, 2), scale=12**-0.5)
    assert np.allclose(run(program, weights, kv_dtype="bf16"), wanted, atol=2e-6)
    assert not np.allclose(run(program, weights), wanted, atol=2e-6)


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("rotary_size", [4, 8])
def test_rope(interleaved: bool, rotary_size: int) -> None:
    builder, x = start()
    turned = builder.rope(x, head_size=8, base=100.0, rotary_size=rotary_size, interleaved=interleaved)
    program, weights, rows = finish(builder, turned)
    wanted = rows.copy()
    for row in range(NUM_TOKENS):
        for head in range(3):
            for pair in range(rotary_size // 2):
                a, b = (2 * pair, 2 * pair + 1) if interleaved else (pair, pair + rotary_size // 2)
                a, b = head * 8 + a, head * 8 + b
                turn = row * 100.0 ** (-2 * pair / rotary_size) * 1j
                value = complex(rows[row, a], rows[row, b]) * np.exp(turn)
                wanted[row, a], wanted[row, b] = value.real, value.imag
    assert np.allclose(run(program, weights), wanted, atol=2e-6)


def test_scaled_rope_multiplies_by_its_factor() -> None:
    scaling = RopeScaling(kind="yarn", factor=4.0, original_context=32, attention_factor=1.25)
    builder, x = start()
    program, weights, rows = finish(builder, builder.rope(x, head_size=24, base=100.0, scaling=scaling))
    found = run(program, weights)
    assert np.allclose(found[0], 1.25 * rows[0], atol=1e-6)  # position 0 turns by nothing
    assert np.allclose(np.linalg.norm(found, axis=1), 1.25 * np.linalg.norm(rows, axis=1), rtol=1e-6)


def test_ropes_of_one_step_do_not_share_what_differs() -> None:
    builder, x = start()
    a = builder.rope(x, head_size=24, base=100.0)
    b = builder.rope(x, head_size=24, base=7.0)
    program, weights, _ = finish(builder, builder.add(a, b))
    builder, x = start()
    program_a, _, _ = finish(builder, builder.rope(x, head_size=24, base=100.0))
    builder, x = start()
    program_b, _, _ = finish(builder, builder.rope(x, head_size=24, base=7.0))
    assert np.array_equal(run(program, weights), run(program_a, weights) + run(program_b, weights))


@pytest.mark.parametrize(("group", "offset"), [(0, 0.0), (6, 0.0), (0, 1.0)])
def test_rmsnorm(group: int, offset: float) -> None:
    builder, x = start()
    program, weights, rows = finish(builder, builder.rmsnorm(x, "norm", eps=1e-2, group=group, offset=offset))
    parts = rows.reshape(NUM_TOKENS, -1, group or WIDTH)
    wanted = parts / np.sqrt((parts**2).mean(axis=2, keepdims=True) + 1e-2) * (offset + f64(weights, "norm"))
    assert np.allclose(run(program, weights), wanted.reshape(rows.shape), atol=2e-6)


@pytest.mark.parametrize("activation", ["silu", "gelu", "gelu_tanh", "relu"])
def test_gated(activation: str) -> None:
    builder, x = start()
    gate = builder.linear(x, "gate", width=WIDTH, bias="gate.bias")
    program, weights, rows = finish(builder, builder.gated(gate, x, activation=activation))
    g = rows @ f64(weights, "gate").T + f64(weights, "gate.bias")
    formulas = {
        "silu": g / (1 + np.exp(-g)),
        "gelu": g * 0.5 * (1 + np.vectorize(math.erf)(g / math.sqrt(2))),
        "gelu_tanh": 0.5 * g * (1 + np.tanh(math.sqrt(2 / math.pi) * (g + 0.044715 * g**3))),
        "relu": np.maximum(g, 0),
    }
    assert np.allclose(run(program, weights), formulas[activation] * rows, atol=3e-6)


@pytest.mark.parametrize("normalise", [True, False])
def test_moe(normalise: bool) -> None:
    builder, x = start()
    mixed = builder.moe(x, "moe", num_experts=5, expert_width=9, top_k=2, normalise=normalise, scale=1.5)
    program, weights, rows = finish(builder, mixed)
    scores = rows @ f64(weights, "moe.router").T
    shares = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    wanted = np.zeros_like(rows)
    for row in range(NUM_TOKENS):
        best = np.argsort(-shares[row])[:2]
        total = shares[row][best].sum() if normalise else 1.0
        for expert in best:
            gate, up, down = (f64(weights, f"moe.{name}")[expert] for name in ("gate", "up", "down"))
            g = gate @ rows[row]
            wanted[row] += 1.5 * shares[row, expert] / total * (down @ (g / (1 + np.exp(-g)) * (up @ rows[row])))
    assert np.allclose(run(program, weights), wanted, atol=3e-6)


def test_equal_experts_are_taken_from_the_lowest() -> None:
    builder, x = start()
    program, weights, rows = finish(builder, builder.moe(x, "moe", num_experts=4, expert_width=9, top_k=1))
    weights["moe.router"] = Tensor("f32", np.zeros((4, WIDTH), np.float32))
    gate, up, down = (f64(weights, f"moe.{name}")[0] for name in ("gate", "up", "down"))
    g = rows @ gate.T
    assert np.allclose(run(program, weights), (g / (1 + np.exp(-g)) * (rows @ up.T)) @ down.T, atol=3e-6)


def test_lora_changes_only_rows_of_its_adapter() -> None:
    builder, x = start()
    y = builder.linear(x, "linear", width=10)
    program, weights, rows = finish(builder, builder.lora(x, y, a="a", b="b", rank=3, scale=0.5, adapter=7))
    adapters = np.where(np.arange(NUM_TOKENS) % 2, 7, -1)
    plain = rows @ f64(weights, "linear").T
    change = 0.5 * rows @ f64(weights, "a").T @ f64(weights, "b").T
    found = run(program, weights, step_of(adapters=adapters))
    assert np.allclose(found, plain + change * (adapters == 7)[:, None], atol=3e-6)
    assert np.allclose(run(program, weights), plain, atol=3e-6)


def test_pool_of_zeros_stays_zero() -> None:
    builder, x = start()
    builder.pool(x)
    program = builder.build()
    weights = {"embedding": Tensor("f32", np.zeros((NUM_TOKENS, WIDTH), np.float32))}
    assert not run(program, weights).any()


def test_logits_are_scaled_then_capped() -> None:
    builder, x = start()
    builder.logits(x, "head", vocab_size=13, scale=3.0, softcap=2.0)
    program = builder.build()
    weights = make_weights(program, 1)
    wanted = 2 * np.tanh(3 * (f64(weights, "embedding") @ f64(weights, "head").T) / 2)
    assert np.allclose(run(program, weights), wanted, atol=3e-6)


def test_large_numbers_overflow_to_the_right_limits() -> None:
    huge = np.array([-1e4, 1e4], np.float32)
    assert np.array_equal(activate(huge, "silu"), [0, 1e4])
    assert np.array_equal(softmax(np.array([-1e30, 3e38], np.float32)), [0, 1])
    assert np.allclose(softcapped(huge, 5.0), [-5, 5])


def test_weights_may_be_stored_in_any_of_its_dtypes() -> None:
    builder, x = start()
    program, weights, _ = finish(builder, builder.linear(x, "linear", width=5))
    rounded = {name: Tensor("bf16", bf16_from_f32(tensor.to_f32())) for name, tensor in weights.items()}
    same = {name: Tensor("f32", tensor.to_f32()) for name, tensor in rounded.items()}
    assert np.array_equal(run(program, rounded), run(program, same))
    assert MemoryWeights(weights).names() == list(weights)


@pytest.mark.parametrize("kind", ["linear", "llama3", "yarn"])
def test_impossible_scalings_are_refused(kind: str) -> None:
    builder, x = start()
    builder.rope(x, head_size=8, base=10.0, scaling=RopeScaling(kind=kind, factor=0.0))  # type: ignore[arg-type]
    rope = builder.build().instructions[-1]
    with pytest.raises(ValueError, match="factor"):
        rope_frequencies(rope)


@pytest.mark.parametrize("kind", ["llama3", "yarn"])
def test_scalings_need_the_original_context(kind: str) -> None:
    builder, x = start()
    builder.rope(x, head_size=8, base=10.0, scaling=RopeScaling(kind=kind, factor=2.0))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="original context"):
        rope_frequencies(builder.build().instructions[-1])
