"""Keys and values that leave a worker's pool on a real node: for the host's memory, for the disk, and back."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path

import pytest

from tests.models import make_model
from tests.system.node import PATIENCE_S, Node, eventually, node
from thaloom.base.errors import BadParameter
from thaloom.base.units import KIB, MIB
from thaloom.edge.wire.control import PullRequest, ServeRequest

__all__ = ["node"]

pytestmark = pytest.mark.slow

CONTEXT = 512
ONE_CONTEXT = CONTEXT * 2 * 4 * 64 * 2
"""Keys and values: little beside what computing them takes, so that moving them always pays."""
PROMPT_BLOCKS = 31


def serve(node: Node, **wish: object) -> None:
    folder = make_model(
        node.home / "made",
        hidden_size=256,
        intermediate_size=1024,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=1,
        head_dim=64,
        max_position_embeddings=CONTEXT,
    )
    with node.client() as client:
        client.pull(PullRequest(source=str(folder), name="deep"))
        wished = ServeRequest(model="deep", num_threads=1, kv_bytes=ONE_CONTEXT + 64 * KIB, **wish)  # type: ignore[arg-type]
        client.serve("deep", wished)
        client.wait_ready("deep", timeout_s=PATIENCE_S)
    node.wait_for_door()


def ask(node: Node, number: int) -> tuple[str, int]:
    """An answer, and how many tokens of its prompt were there already."""
    prompt = [5 + number] * (16 * PROMPT_BLOCKS + 1)
    fields = {"model": "deep", "prompt": prompt, "max_tokens": 4, "temperature": 0, "ignore_eos": True}
    request = urllib.request.Request(
        f"{node.url}/v1/completions", json.dumps(fields).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
        told = json.load(answer)
    return told["choices"][0]["text"], told["usage"]["prompt_tokens_details"]["cached_tokens"]


def measure(node: Node, name: str) -> float:
    with urllib.request.urlopen(f"{node.url}/metrics", timeout=PATIENCE_S) as answer:
        lines = answer.read().decode().splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(f"thaloom_worker_{name}{{"))


def tier_files(node: Node) -> list[Path]:
    return list((node.home / "run" / "workers").glob("*/tier/*.tier"))


def test_a_prompt_comes_back_from_the_hosts_memory(node: Node) -> None:
    node.start()
    serve(node, kv_host_bytes=64 * MIB)
    first, cached = ask(node, 0)
    assert cached == 0
    assert ask(node, 1)[1] == 0, "there is room for one prompt"
    assert ask(node, 0) == (first, 16 * PROMPT_BLOCKS)
    assert measure(node, "restored_tokens_total") >= 16 * PROMPT_BLOCKS / 2
    assert 0 < measure(node, "kv_host_held_bytes") <= measure(node, "kv_host_bytes") == 64 * MIB
    with node.client() as client:
        (memory,) = [memory for memory in client.status().memory if memory.device == "cpu"]
        assert memory.reserved_bytes >= 64 * MIB, "what is promised is booked"


def test_and_from_the_disk_whose_folder_goes_with_the_worker(node: Node) -> None:
    node.start()
    serve(node, kv_host_bytes=2 * ONE_CONTEXT, kv_disk_bytes=64 * MIB)
    first, _ = ask(node, 0)
    for number in range(1, 6):
        assert ask(node, number)[1] == 0
    eventually(lambda: tier_files(node))
    again, cached = ask(node, 0)
    assert again == first
    assert cached > 0
    assert 0 < measure(node, "kv_disk_held_bytes") <= 64 * MIB
    worker = node.process("worker", "deep")
    node.kill(worker.pid)
    eventually(lambda: not (node.home / "run" / "workers" / worker.id).exists())


def test_a_disk_without_memory_before_it_is_refused(node: Node) -> None:
    node.start()
    with pytest.raises(BadParameter, match="leads through kv_host_bytes"):
        serve(node, kv_disk_bytes=MIB)
