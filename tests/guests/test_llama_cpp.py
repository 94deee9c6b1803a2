"""The real llama.cpp, over a tiny random model made here. Skipped, visibly, where it is not installed."""

from __future__ import annotations

import asyncio
import shutil
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from tests.contract.engines.site import guest, question
from tests.contract.engines.test_engine_moods import gone, text_of
from tests.contract.runtime.harness import error_of
from tests.gguf_files import Typed, encode_gguf, f32
from thaloom.work.runtime.messages import Ended, Piece
from thaloom.work.runtime.types import Constraint

pytestmark = pytest.mark.skipif(
    shutil.which("llama-server") is None and find_spec("llama_cpp") is None,
    reason="no llama.cpp here (llama-server on the PATH, or: pip install 'llama-cpp-python[server]')",
)
WIDTH, HIDDEN, LAYERS, CONTEXT = 64, 128, 2, 128
SCHEMA = '{"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"]}'


def model(path: Path) -> None:
    """A Llama of random weights whose tokens are bytes."""
    draw = np.random.default_rng(1)
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁"]
    metadata = {
        "general.architecture": "llama", "general.name": "random", "llama.context_length": CONTEXT,
        "llama.embedding_length": WIDTH, "llama.block_count": LAYERS, "llama.feed_forward_length": HIDDEN,
        "llama.attention.head_count": 4, "llama.attention.head_count_kv": 2, "llama.rope.dimension_count": 16,
        "llama.attention.layer_norm_rms_epsilon": 1e-5, "llama.vocab_size": len(tokens),
        "tokenizer.ggml.model": "llama", "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": Typed("f32", [0.0] * len(tokens)),
        "tokenizer.ggml.token_type": Typed("i32", [2, 3, 3, *[6] * 256, 1]),
        "tokenizer.ggml.bos_token_id": 1, "tokenizer.ggml.eos_token_id": 2, "tokenizer.ggml.unknown_token_id": 0,
    }  # fmt: skip

    def matrix(rows: int, columns: int) -> np.ndarray:
        return (draw.standard_normal((rows, columns)) * 0.1).astype(np.float32)

    tensors = {"token_embd.weight": f32(matrix(len(tokens), WIDTH)), "output.weight": f32(matrix(len(tokens), WIDTH))}
    tensors["output_norm.weight"] = f32(np.ones(WIDTH, np.float32))
    for layer in range(LAYERS):
        shapes = {
            "attn_q": (WIDTH, WIDTH), "attn_k": (WIDTH // 2, WIDTH), "attn_v": (WIDTH // 2, WIDTH),
            "attn_output": (WIDTH, WIDTH), "ffn_gate": (HIDDEN, WIDTH), "ffn_up": (HIDDEN, WIDTH),
            "ffn_down": (WIDTH, HIDDEN),
        }  # fmt: skip
        tensors |= {f"blk.{layer}.{name}.weight": f32(matrix(*shape)) for name, shape in shapes.items()}
        tensors |= {f"blk.{layer}.{name}_norm.weight": f32(np.ones(WIDTH, np.float32)) for name in ("attn", "ffn")}
    path.write_bytes(encode_gguf(metadata, tensors))


@pytest.mark.timeout(300)
def test_a_real_llama_cpp_answers_counts_and_is_gone(tmp_path: Path) -> None:
    model(tmp_path / "random.gguf")

    async def run() -> None:
        async with guest(tmp_path, ready_s=120.0, model=str(tmp_path / "random.gguf"), num_threads=1) as site:
            if site.task.done():
                await site.task
            asked = question(
                messages=None, prompt="abc", max_tokens=8, sampling_changes={"temperature": 0.0, "seed": 1}
            )
            first, second = await site.ask(asked), await site.ask(asked)
            assert isinstance(first[-1], Ended), first
            done = first[-1].done
            assert 1 <= done.completion_tokens <= 8  # llama-cpp-python counts nothing in a stream: pieces, then
            assert done.degraded is not None
            assert done.prompt_tokens > 0 or "did not count" in done.degraded
            assert text_of(first) == text_of(second)
            constrained = question(
                max_tokens=60,
                constraint=Constraint(kind="json_schema", text=SCHEMA),
                sampling_changes={"temperature": 0.0},
            )
            replies = await site.ask(constrained)
            assert any(isinstance(reply, Piece) for reply in replies), replies
            assert text_of(replies).lstrip().startswith("{")
            error = error_of(await site.ask(question(messages=None, prompt="x" * 400, max_tokens=5)))
            assert error["code"] == "prompt_too_long", error
            stats = await site.status()
            assert stats.ready
            assert stats.weight_bytes > 10_000_000
        await gone(str(tmp_path))
        assert (tmp_path / "engine.log").stat().st_size > 0

    asyncio.run(run())
