"""Encrypted models on a real node: served as any other, and the key is nowhere it could be read from."""

from __future__ import annotations

import contextlib
import os
import re
import urllib.request
from pathlib import Path

import pytest

from tests.system.cli import thaloom
from tests.system.node import TINY, Node, eventually, node
from thaloom.edge.wire.control import ServeRequest
from thaloom.kernel.trust.key_ring import open_ring, read_ring
from thaloom.kernel.trust.master_key import make_key_file, read_key_file

__all__ = ["node"]

pytestmark = pytest.mark.slow


def serve(node: Node, name: str) -> None:
    with node.client() as client:
        client.serve(name, ServeRequest(model=name, num_threads=1))
        client.wait_ready(name, timeout_s=60)


def ask(node: Node, model: str) -> str:
    body = f'{{"model": "{model}", "prompt": "The socket option", "max_tokens": 12, "temperature": 0}}'.encode()
    request = urllib.request.Request(
        f"{node.url}/v1/completions", data=body, headers={"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return str(answer.read().split(b'"text":')[1].split(b'"logprobs"')[0])


def files_below(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def found_in_memory(pid: int, secrets: list[bytes]) -> list[str]:
    """Mappings of a process in which one of `secrets` lies. What the kernel lets nobody read is passed over."""
    found = []
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:  # noqa: PTH123
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            match = re.match(r"([0-9a-f]+)-([0-9a-f]+) r", line)
            if match is None or "[v" in line:
                continue
            begin, end = int(match[1], 16), int(match[2], 16)
            if end - begin > 1 << 30:
                continue
            with contextlib.suppress(OSError, ValueError, OverflowError):
                memory.seek(begin)
                data = memory.read(end - begin)
                found += [line for secret in secrets if secret in data]
    return found


def test_an_encrypted_model_is_served_and_handed_out_and_its_bytes_lie_nowhere_in_plain(node: Node) -> None:
    node.start()
    refused = thaloom(node, "pull", "tiny", "--encrypt", "--json")
    assert refused.code == 7
    assert refused.error["code"] == "encryption_key_missing"
    made = thaloom(node, "key", "make")
    assert made.code == 0, made.err
    node.kill(node.daemon.pid)
    node.kill(node.process_pids("thaloom.door")[0])  # so that the next one is started with the key
    node.start()
    done = thaloom(node, "pull", "tiny", "--encrypt", "--name", "sealed", "--json")
    assert done.code == 0, done.err
    assert done.document["encrypted"]
    assert thaloom(node, "pull", "tiny", "--name", "plain").code == 0
    for name in ("sealed", "plain"):
        serve(node, name)
    node.wait_for_door()
    assert ask(node, "sealed") == ask(node, "plain")
    with node.client() as client:
        client.stop("plain")
    eventually(lambda: len(node.process_pids("thaloom.worker")) == 1)
    assert thaloom(node, "rm", "plain").code == 0
    weights = (TINY / "model.safetensors").read_bytes()
    request = urllib.request.Request(
        f"{node.url}/sealed/resolve/main/model.safetensors", headers={"range": "bytes=1000-5000000"}
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        assert answer.read() == weights[1000:5000001]
    middle = len(weights) // 2
    in_plain = [name for name, data in files_below(node.home).items() if weights[middle : middle + 64] in data]
    assert in_plain == []
    assert thaloom(node, "verify", "sealed").code == 0


def test_the_key_is_in_no_command_line_no_environment_no_log_and_no_readable_memory(node: Node) -> None:
    node.home.mkdir()
    make_key_file(node.home / "master.key")
    node.start()
    assert thaloom(node, "pull", "tiny", "--encrypt", "--name", "sealed").code == 0
    serve(node, "sealed")
    node.wait_for_door()
    ring = read_ring(node.home / "models" / "keyring.json")
    assert ring is not None
    master = read_key_file(node.home / "master.key")
    key = open_ring(ring, master)
    secrets = [bytes(master.view), bytes(key.secret)]
    secrets += [secret.hex().encode() for secret in secrets]
    processes = node.processes_of_home()
    assert len(processes) >= 3, "daemon, door, worker"
    for process in processes:
        folder = Path(f"/proc/{process.pid}")
        told = (folder / "cmdline").read_bytes() + (folder / "environ").read_bytes()
        assert not any(secret in told for secret in secrets)
        assert re.search(r"Max core file size\s+0\s+0", (folder / "limits").read_text()), told
        if os.geteuid() == 0 and key.memory.kind == "memfd_secret":
            assert found_in_memory(process.pid, [bytes(node.home)]), "what is there is found"
            assert found_in_memory(process.pid, secrets) == []
    for name, data in files_below(node.home).items():
        if name != "master.key":
            assert not any(secret in data for secret in secrets), name


def test_a_node_without_its_key_serves_what_is_plain_and_says_why_the_rest_is_not(node: Node) -> None:
    node.home.mkdir()
    make_key_file(node.home / "master.key")
    node.start()
    assert thaloom(node, "pull", "tiny", "--encrypt", "--name", "sealed").code == 0
    assert thaloom(node, "pull", "tiny", "--name", "plain").code == 0
    serve(node, "plain")
    serve(node, "sealed")
    assert thaloom(node, "down").code == 0
    (node.home / "master.key").rename(node.home.parent / "away")
    node.start()
    with node.client() as client:
        client.wait_ready("plain", timeout_s=60)
        sealed = client.service("sealed")
        assert sealed.phase != "ready"
        assert any("key" in condition.message for condition in sealed.conditions), sealed.conditions
    refused = thaloom(node, "verify", "sealed", "--json")
    assert refused.error["code"] == "encryption_key_missing"
    assert thaloom(node, "down").code == 0
    make_key_file(node.home / "master.key")
    node.start()
    assert thaloom(node, "verify", "sealed", "--json").error["code"] == "encryption_key_wrong"
    assert thaloom(node, "down").code == 0
    (node.home.parent / "away").replace(node.home / "master.key")
    node.start()
    assert thaloom(node, "verify", "sealed").code == 0


def test_a_passphrase_comes_by_a_descriptor_and_opens_after_a_rotation(node: Node) -> None:
    node.home.mkdir()
    make_key_file(node.home / "master.key")
    node.start()
    assert thaloom(node, "pull", "tiny", "--encrypt", "--name", "sealed").code == 0
    rotated = thaloom(node, "key", "rotate", "--passphrase-fd", "0", typed="correct horse\n")
    assert rotated.code == 0, rotated.err
    assert thaloom(node, "down").code == 0
    (node.home / "master.key").unlink()
    reading, writing = os.pipe()
    os.write(writing, b"correct horse\n")
    os.close(writing)
    node.start("--passphrase-fd", str(reading), pass_fds=(reading,))
    os.close(reading)
    shown = thaloom(node, "key", "show", "--json")
    assert shown.document["ready"], shown.document
    assert shown.document["opened_by"] == "passphrase"
    assert thaloom(node, "verify", "sealed").code == 0
    assert thaloom(node, "decrypt", "sealed").code == 0
    assert b"correct horse" not in b"".join(files_below(node.home).values())
