"""Engine `transformers` for real: tiny random models of architectures we do not have, from the store to the answer.

Needs the extra; `make test-guests` makes an environment with it. The tokens are those of the library's own `generate`.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.contract.engines.site import guest, question
from tests.contract.engines.test_engine_moods import gone, text_of
from tests.contract.runtime.harness import error_of
from tests.models import CHAT_TEMPLATE, make_tokenizer
from tests.system.cli import thaloom
from tests.system.node import Node, eventually, node
from thaloom.base.clock import SystemClock
from thaloom.base.errors import DriverUnavailable
from thaloom.base.ids import RequestId
from thaloom.kernel.models.store import ModelStore
from thaloom.work.runtime.messages import AskEmbedding, Embedded, Ended, Piece
from thaloom.work.runtime.types import ChatMessage, EmbedRequest

__all__ = ["node"]
torch = pytest.importorskip("torch", reason="the extra is not installed: make test-guests")
transformers = pytest.importorskip("transformers", reason="the extra is not installed: make test-guests")

SMALL: dict[str, Any] = {"vocab_size": 320, "bos_token_id": 0, "eos_token_id": 2}
CONFIGS = {
    "GPT2LMHeadModel": lambda: transformers.GPT2Config(n_embd=32, n_layer=2, n_head=2, n_positions=128, **SMALL),
    "GPTNeoXForCausalLM": lambda: transformers.GPTNeoXConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, max_position_embeddings=128,
        **SMALL,
    ),
    "MambaForCausalLM": lambda: transformers.MambaConfig(
        hidden_size=32, num_hidden_layers=2, state_size=4, intermediate_size=64, **SMALL
    ),
}  # fmt: skip


def save(folder: Path, architecture: str, *, template: bool = True) -> Any:
    torch.manual_seed(4)
    model = getattr(transformers, architecture)(CONFIGS[architecture]()).eval()
    model.save_pretrained(folder, safe_serialization=True)
    make_tokenizer().save(str(folder / "tokenizer.json"))
    facts: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>"}
    if template:
        facts["chat_template"] = CHAT_TEMPLATE
    (folder / "tokenizer_config.json").write_text(json.dumps(facts))
    return model


@pytest.mark.timeout(300)
@pytest.mark.parametrize("architecture", list(CONFIGS))
def test_an_architecture_we_do_not_have(architecture: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = save(tmp_path / "odd", architecture)
    ModelStore(tmp_path, SystemClock()).import_path(tmp_path / "odd")
    monkeypatch.setenv("PYTHONPATH", ":".join(sys.path))
    tokenizer = make_tokenizer()
    prompt = tokenizer.encode("the inner one").ids
    wanted = model.generate(
        torch.tensor([prompt]), max_new_tokens=12, do_sample=False, eos_token_id=None, pad_token_id=0
    )[0, len(prompt) :].tolist()  # fmt: skip

    async def run() -> None:
        async with guest(
            tmp_path, ready_s=200.0, engine="transformers", model="odd", num_threads=1, context_length=64
        ) as site:
            if site.task.done():
                await site.task
            greedy: dict[str, Any] = {"sampling_changes": {"temperature": 0.0}, "ignore_eos": True, "max_tokens": 12}
            replies = await site.ask(question(messages=None, prompt_tokens=tuple(prompt), logprobs=1, **greedy))
            assert isinstance(replies[-1], Ended), replies
            pieces = [reply.delta for reply in replies if isinstance(reply, Piece)]
            told = [row.chosen.token for piece in pieces for row in piece.logprobs]
            assert told == wanted
            assert replies[-1].done.completion_tokens == 12
            assert f"no own model for architecture {architecture}" in (replies[-1].done.degraded or "")
            messages = (ChatMessage(role="user", content="hello"),)
            drawn = {"sampling_changes": {"temperature": 1.0, "seed": 5}, "max_tokens": 8, "ignore_eos": True}
            first, second = [await site.ask(question(messages=messages, **drawn)) for _ in range(2)]
            assert text_of(first) == text_of(second)
            asked = AskEmbedding(request=EmbedRequest(id=RequestId("e"), model="guest", text="the inner one"))
            (embedded,) = (one for one in await site.ask(asked) if isinstance(one, Embedded))
            with torch.inference_mode():
                states = model(torch.tensor([prompt]), output_hidden_states=True).hidden_states[-1][0, -1]
            assert list(embedded.embedding.values) == pytest.approx(states.tolist(), abs=1e-4)
            long = error_of(await site.ask(question(messages=None, prompt="the " * 200)))
            assert long["code"] == "prompt_too_long"
        await gone(str(tmp_path))
        assert list((tmp_path / "staging").glob("*")) == []  # what was written out is gone

    asyncio.run(run())


@pytest.mark.timeout(300)
def test_what_the_library_does_not_know_is_refused_and_no_code_is_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path / "odd", "GPT2LMHeadModel")
    config = json.loads((tmp_path / "odd" / "config.json").read_text())
    config |= {"model_type": "mine", "architectures": ["MineForCausalLM"], "auto_map": {"AutoConfig": "mine.Mine"}}
    (tmp_path / "odd" / "config.json").write_text(json.dumps(config))
    ran = tmp_path / "ran"
    (tmp_path / "odd" / "mine.py").write_text(f"open({str(ran)!r}, 'w').close()\nclass Mine: pass\n")
    ModelStore(tmp_path, SystemClock()).import_path(tmp_path / "odd")
    monkeypatch.setenv("PYTHONPATH", ":".join(sys.path))

    async def run() -> None:
        async with guest(tmp_path, ready_s=200.0, engine="transformers", model="odd", context_length=64) as site:
            with pytest.raises(DriverUnavailable, match="transformers refuses the model"):
                await site.task

    asyncio.run(run())
    assert not ran.exists()


@pytest.mark.timeout(300)
def test_a_model_without_a_template_continues_texts_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / "odd", "GPT2LMHeadModel", template=False)
    ModelStore(tmp_path, SystemClock()).import_path(tmp_path / "odd")
    monkeypatch.setenv("PYTHONPATH", ":".join(sys.path))

    async def run() -> None:
        async with guest(tmp_path, ready_s=200.0, engine="transformers", model="odd", context_length=64) as site:
            if site.task.done():
                await site.task
            assert "no chat template" in error_of(await site.ask(question()))["message"]
            replies = await site.ask(question(messages=None, prompt="the", max_tokens=3))
            assert isinstance(replies[-1], Ended)

    asyncio.run(run())


@pytest.mark.timeout(400)
def test_a_real_node_serves_it_and_says_what_it_is(node: Node, tmp_path: Path) -> None:
    save(tmp_path / "odd", "GPT2LMHeadModel")
    node.start()
    node.wait_for_door()
    assert thaloom(node, "pull", str(tmp_path / "odd")).code == 0
    assert "--engine transformers" in thaloom(node, "serve", "odd").err
    result = thaloom(node, "serve", "odd", "--engine", "transformers", "--threads", "1", "--context", "64")
    assert result.code == 0, result.err
    assert "no own model for architecture GPT2LMHeadModel" in result.out
    with node.client() as client:
        service = client.service("odd")
        assert any(one.kind == "Degraded" and one.status for one in service.conditions)
        assert not any(one.kind == "Outdated" and one.status for one in service.conditions)
        assert (service.weight_bytes or 0) < 1024**3
    asking = openai.OpenAI(base_url=f"{node.url}/v1", api_key="none", max_retries=0, timeout=60.0)
    messages: Any = [{"role": "user", "content": "hi"}]
    answer = asking.chat.completions.with_raw_response.create(model="odd", messages=messages, max_tokens=4, seed=1)
    assert (usage := answer.parse().usage) is not None
    assert usage.completion_tokens >= 1
    assert "served by transformers" in answer.headers["x-thaloom-degraded"]
    node.kill(node.process("worker", "odd").pid)
    eventually(lambda: _answers(asking, messages))
    assert thaloom(node, "stop", "odd").code == 0
    eventually(lambda: not [one for one in node.processes_of_home() if b"transformers.server" in _command(one.pid)])


def _answers(asking: openai.OpenAI, messages: Any) -> bool:
    try:
        return bool(asking.chat.completions.create(model="odd", messages=messages, max_tokens=2).choices)
    except openai.APIStatusError:
        return False


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
