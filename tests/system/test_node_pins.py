"""Prompts that clients want kept, on a real node: what others push out, what stays, and what ends with the worker."""

from __future__ import annotations

import json
import urllib.request

import pytest

from tests.models import make_model
from tests.system.node import PATIENCE_S, Node, eventually, node
from thaloom.base.units import KIB
from thaloom.edge.wire.control import PullRequest, ServeRequest

__all__ = ["node"]

pytestmark = pytest.mark.slow

CONTEXT = 512
ONE_CONTEXT = CONTEXT * 2 * 4 * 16 * 2
"""Keys and values of 32 blocks."""
PROMPT_BLOCKS = 8
PROMPT_TOKENS = 16 * PROMPT_BLOCKS
KEPT, NOT_KEPT = 0, 1
NUM_OTHERS = 10


def serve(node: Node, **wish: object) -> None:
    folder = make_model(
        node.home / "made",
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=1,
        head_dim=16,
        max_position_embeddings=CONTEXT,
    )
    with node.client() as client:
        client.pull(PullRequest(source=str(folder), name="small"))
        wished = ServeRequest(model="small", num_threads=1, kv_bytes=ONE_CONTEXT + KIB, **wish)  # type: ignore[arg-type]
        client.serve("small", wished)
        client.wait_ready("small", timeout_s=PATIENCE_S)
    node.wait_for_door()


def ask(node: Node, number: int, **fields: object) -> tuple[str, int]:
    """An answer, and how many tokens of its prompt were there already."""
    prompt = [5 + number] * (PROMPT_TOKENS + 1)
    body = {"model": "small", "prompt": prompt, "max_tokens": 4, "temperature": 0, "ignore_eos": True} | fields
    request = urllib.request.Request(
        f"{node.url}/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
        told = json.load(answer)
    return told["choices"][0]["text"], told["usage"]["prompt_tokens_details"]["cached_tokens"]


def chat(node: Node, number: int, words: str, **mark: object) -> dict[str, int]:
    """The usage of an answer in Anthropic's protocol, with a long text before what is said."""
    told = {"type": "text", "text": f"{number} " * (PROMPT_TOKENS // 2)} | mark
    message = {"role": "user", "content": words}
    body = {"model": "small", "max_tokens": 4, "system": [told], "messages": [message]}
    request = urllib.request.Request(
        f"{node.url}/v1/messages", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
        return json.load(answer)["usage"]  # type: ignore[no-any-return]


def measure(node: Node, name: str) -> float:
    with urllib.request.urlopen(f"{node.url}/metrics", timeout=PATIENCE_S) as answer:
        lines = answer.read().decode().splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(f"thaloom_worker_{name}{{"))


def ask_others(node: Node) -> None:
    """More than the cache has room for."""
    for number in range(2, 2 + NUM_OTHERS):
        ask(node, number)


def test_what_is_pinned_stays_while_others_come_and_go_and_ends_with_its_worker(node: Node) -> None:
    node.start()
    serve(node, pin_share=1.0)
    first, cached = ask(node, KEPT, prompt_cache_retention="24h")
    assert cached == 0
    assert measure(node, "kv_blocks_pinned") == PROMPT_BLOCKS
    ask(node, NOT_KEPT)
    ask_others(node)
    assert ask(node, KEPT) == (first, PROMPT_TOKENS)
    assert ask(node, NOT_KEPT)[1] == 0
    assert measure(node, "broken_pin_tokens_total") == measure(node, "refused_pin_tokens_total") == 0

    worker = node.process("worker", "small")
    node.kill(worker.pid)
    with node.client() as client:
        eventually(lambda: client.service("small").worker not in (None, worker.id))
        client.wait_ready("small", timeout_s=PATIENCE_S)
    assert ask(node, KEPT) == (first, 0), "the same answer, computed anew"
    assert measure(node, "kv_blocks_pinned") == 0
    ask_others(node)
    assert ask(node, KEPT)[1] == 0, "nobody has asked for it to be kept again"


def test_where_nothing_may_be_pinned_the_wish_is_answered_and_left_alone(node: Node) -> None:
    node.start()
    serve(node, pin_share=0.0)
    first, _ = ask(node, KEPT, prompt_cache_retention="24h")
    assert measure(node, "kv_blocks_pinned") == 0
    assert measure(node, "refused_pin_tokens_total") == 0, "more room for pins is not what is lacking"
    ask_others(node)
    assert ask(node, KEPT) == (first, 0)


def test_a_marked_beginning_stays_and_what_follows_it_does_not(node: Node) -> None:
    node.start()
    serve(node, pin_share=1.0)
    made = chat(node, 7, "How is it?", cache_control={"type": "ephemeral"})
    pinned = made["cache_creation_input_tokens"]
    assert made["cache_read_input_tokens"] == 0
    assert PROMPT_TOKENS / 2 <= pinned == 16 * measure(node, "kv_blocks_pinned")
    assert made["input_tokens"] > 0, "the question is not of it"
    chat(node, 8, "How is it?")
    ask_others(node)
    found = chat(node, 7, "What else?", cache_control={"type": "ephemeral"})
    assert (found["cache_read_input_tokens"], found["cache_creation_input_tokens"]) == (pinned, 0)
    assert chat(node, 8, "What else?")["cache_read_input_tokens"] < pinned
