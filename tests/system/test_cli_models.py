"""Models and services from the command line, on the real node."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from tests.models import make_model
from tests.system.cli import thaloom
from tests.system.node import Node, eventually, node
from thaloom.base.errors import ThaloomError
from thaloom.edge.wire.control import Progress, QuantiseRequest

__all__ = ["node"]

pytestmark = pytest.mark.slow


@pytest.fixture
def up(node: Node) -> Node:
    node.start()
    node.wait_for_door()
    return node


def test_a_model_from_import_to_removal(up: Node, tmp_path: Path) -> None:
    make_model(tmp_path / "mine", "llama")
    pulled = thaloom(up, "pull", str(tmp_path / "mine"), "--name", "mine:v1", "--json")
    assert pulled.code == 0, pulled.err
    assert pulled.document["name"] == "mine:v1"
    assert [model["name"] for model in thaloom(up, "ls", "--json").document["models"]] == ["mine:v1"]
    shown = thaloom(up, "show", "mine:v1", "--json").document
    assert shown["card"]["architecture"] == "LlamaForCausalLM"
    assert thaloom(up, "verify", "mine:v1").code == 0

    near = thaloom(up, "show", "mine:v2")
    assert near.code == 3
    assert "mine:v1" in near.err

    served = thaloom(up, "serve", "mine:v1", "--name", "m", "--threads", "1", "--context", "64", "--json")
    assert served.code == 0, served.err
    assert (served.document["phase"], served.document["context_length"]) == ("ready", 64)
    assert thaloom(up, "logs", "m").code == 0
    assert thaloom(up, "rm", "mine:v1").code == 4, "it is in use"
    assert thaloom(up, "stop", "m").code == 0
    assert thaloom(up, "ps", "--json").document["services"] == []
    eventually(lambda: thaloom(up, "rm", "mine:v1").code == 0)
    assert thaloom(up, "ls", "--json").document == {"models": []}


def test_an_altered_model_is_named_file_by_file(up: Node, tmp_path: Path) -> None:
    make_model(tmp_path / "mine", "llama")
    assert thaloom(up, "pull", str(tmp_path / "mine")).code == 0
    chunk = max((up.home / "models" / "objects").rglob("*"), key=lambda path: path.stat().st_size * path.is_file())
    chunk.chmod(0o600)
    data = bytearray(chunk.read_bytes())
    data[len(data) // 2] ^= 1
    chunk.write_bytes(data)
    verified = thaloom(up, "verify", "mine", "--json")
    assert verified.code == 6
    assert verified.error["code"] == "corrupt_object"
    assert verified.error["details"]["files"] == ["model.safetensors"]
    assert not verified.document["sound"]
    served = thaloom(up, "serve", "mine", "--timeout", "20")
    assert served.code != 0, "altered weights are not served"
    assert "model.safetensors" in served.err


def test_what_cannot_be_imported(up: Node, tmp_path: Path) -> None:
    (tmp_path / "pickled").mkdir()
    (tmp_path / "pickled" / "pytorch_model.bin").write_bytes(pickle.dumps({"x": 1}))
    refused = thaloom(up, "pull", str(tmp_path / "pickled"), "--json")
    assert (refused.code, refused.error["code"]) == (6, "unsafe_format")
    make_model(tmp_path / "cut", "llama")
    weights = tmp_path / "cut" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    refused = thaloom(up, "pull", str(tmp_path / "cut"), "--json")
    assert refused.code == 6
    assert "model.safetensors" in refused.error["message"]
    assert thaloom(up, "pull", str(tmp_path / "absent")).code == 2
    make_model(tmp_path / "mine", "llama")
    make_model(tmp_path / "other", "llama", seed=1)
    assert thaloom(up, "pull", str(tmp_path / "mine"), "--name", "a").code == 0
    taken = thaloom(up, "pull", str(tmp_path / "other"), "--name", "a", "--json")
    assert (taken.code, taken.error["code"]) == (4, "name_taken")
    assert thaloom(up, "pull", str(tmp_path / "other"), "--name", "a", "--replace").code == 0


def test_a_wish_that_does_not_fit_is_refused(up: Node) -> None:
    refused = thaloom(up, "serve", "tiny", "--kv-bytes", "100TiB", "--timeout", "20", "--json")
    assert (refused.code, refused.error["code"]) == (7, "out_of_memory"), refused
    assert "--kv-bytes" in refused.error["hint"]
    assert thaloom(up, "ps", "--json").document["services"] == []


def test_the_bundled_model_by_its_name(up: Node) -> None:
    pulled = thaloom(up, "pull", "tiny", "--json")
    assert pulled.code == 0, pulled.err
    assert pulled.document["name"] == "tiny"


def test_a_model_in_whole_numbers_is_made_measured_and_served(up: Node) -> None:
    assert thaloom(up, "pull", "tiny").code == 0
    made = thaloom(up, "quantize", "tiny", "--to", "int8", "--json")
    assert made.code == 0, made.err
    quantisation = made.document["card"]["quantisation"]
    assert made.document["name"] == "tiny-int8"
    assert quantisation["quality"]["num_tokens"] >= 512
    assert quantisation["quality"]["perplexity"] < quantisation["quality"]["original_perplexity"] * 1.005
    assert quantisation["original"] == thaloom(up, "show", "tiny", "--json").document["digest"]
    assert "perplexity" in thaloom(up, "show", "tiny-int8").out
    assert thaloom(up, "verify", "tiny-int8").code == 0
    answered = thaloom(up, "run", "tiny-int8", "The socket option", "--max-tokens", "4", "--json")
    assert answered.code == 0, answered.err
    again = thaloom(up, "quantize", "tiny-int8", "--to", "int4")
    assert again.code == 2
    assert "whole numbers already" in again.err
    assert not list((up.home / "models" / "staging").glob("*"))


def test_quantising_ends_with_the_caller_and_with_the_node(up: Node) -> None:
    class Left(Exception):
        pass

    def leave(progress: Progress) -> None:
        if progress.stage == "measuring":
            raise Left

    assert thaloom(up, "pull", "tiny").code == 0
    with up.client() as client:
        with pytest.raises(Left):
            client.quantise("tiny", QuantiseRequest(to="int8"), leave)
        eventually(lambda: not list((up.home / "models" / "staging").glob("*")))
        assert [model.name for model in client.models()] == ["tiny"]

    def kill(progress: Progress) -> None:
        if progress.stage == "measuring":
            up.daemon.kill()

    with up.client() as client, pytest.raises(ThaloomError):
        client.quantise("tiny", QuantiseRequest(to="int8"), kill)
    eventually(lambda: not list((up.home / "models" / "staging").glob("*")))
    assert not (up.home / "models" / "manifests" / "tiny-int8").exists()
