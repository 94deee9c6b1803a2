"""Quantising a model of the store: deterministic, measured, whole or not at all."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.models import make_model
from thaloom.base.clock import ManualClock
from thaloom.base.errors import BadParameter, ModelNotFound, NameTaken, NotServable
from thaloom.hal.quantise import quantise_as
from thaloom.hal.tensors import QuantTensor, Tensor
from thaloom.kernel.models.store import ModelStore
from thaloom.kernel.models.types import ModelName
from thaloom.quantiser import QuantiseSpec, quantise_model

SIZES: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 96, "head_dim": 16}


def quiet(stage: str, done: int, total: int) -> None:
    pass


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    store = ModelStore(tmp_path / "store", ManualClock())
    store.import_path(make_model(tmp_path / "mine", "qwen2", **SIZES))
    return store


def spec(store: ModelStore, to: Any = "int8", **changed: Any) -> QuantiseSpec:
    wish: dict[str, Any] = {"store": str(store.root), "model": "mine", "name": f"mine-{to}", "to": to, "num_threads": 1}
    return QuantiseSpec(**wish | changed)


def tensors(store: ModelStore, name: str) -> dict[str, Tensor | QuantTensor]:
    reader = store.open(store.get(name)).weights()
    found = {tensor: reader.read(tensor) for tensor in reader.names()}
    reader.close()
    return found


FINER: dict[str, dict[str, Any]] = {
    "int8": {**dict.fromkeys(("k_proj", "v_proj")), **dict.fromkeys(("lm_head", "q_proj", "o_proj"), "int8_groups")},
    "int4": {"lm_head": "int8_groups", "v_proj": "int8"},
}
"""What becomes of matrices that keep more than the others; None: they stay."""


@pytest.mark.parametrize(("to", "bits"), [("int8", 8), ("int4", 4)])
def test_matrices_become_what_a_driver_would_make_of_them(store: ModelStore, to: Any, bits: int) -> None:
    manifest = quantise_model(spec(store, to), quiet)
    before, after = tensors(store, "mine"), tensors(store, f"mine-{to}")
    assert list(before) == list(after)
    for name, tensor in before.items():
        made = after[name]
        assert isinstance(tensor, Tensor)
        is_matrix = name.endswith("_proj.weight") or name == "lm_head.weight"
        becomes = FINER[to].get(name.split(".")[-2], to) if is_matrix else None
        if becomes is not None:
            expected = quantise_as(tensor, becomes)
            assert isinstance(made, QuantTensor)
            assert made.bits == (4 if becomes == "int4" else 8)
            assert np.array_equal(made.data, expected.data)
            assert np.array_equal(made.scales, expected.scales)
        else:
            assert isinstance(made, Tensor)
            assert np.array_equal(made.data, tensor.data)
    record = manifest.card.quantisation
    assert record is not None
    assert record.original == store.get("mine").digest
    assert record.quality is not None
    assert record.quality.num_tokens >= 512
    assert 0 < record.quality.mean_kl < {8: 0.01, 4: 1.0}[bits]
    assert record.quality.perplexity == pytest.approx(record.quality.original_perplexity, rel={8: 0.02, 4: 0.5}[bits])
    assert manifest.card.weight_bytes < store.get("mine").card.weight_bytes
    assert manifest.card.num_parameters == store.get("mine").card.num_parameters
    assert store.verify(manifest.name).sound


def test_twice_gives_the_same_model(store: ModelStore) -> None:
    first = quantise_model(spec(store), quiet)
    assert quantise_model(spec(store, name="again"), quiet).digest == first.digest


def test_a_text_of_ones_own_is_named(store: ModelStore, tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("in the ring and the thing " * 40)
    record = quantise_model(spec(store, text=str(tmp_path / "words.txt")), quiet).card.quantisation
    assert record is not None
    assert record.quality is not None
    assert record.quality.text.startswith("words.txt (SHA-256 ")


def test_without_a_tokenizer_nothing_is_measured_and_that_is_told(store: ModelStore, tmp_path: Path) -> None:
    store.import_path(make_model(tmp_path / "bare", with_tokenizer=False, **SIZES))
    record = quantise_model(spec(store, model="bare"), quiet).card.quantisation
    assert record is not None
    assert record.quality is None


def test_what_cannot_be_done_is_refused(store: ModelStore, tmp_path: Path) -> None:
    quantise_model(spec(store), quiet)
    with pytest.raises(NotServable, match="whole numbers already"):
        quantise_model(spec(store, "int4", model="mine-int8"), quiet)
    with pytest.raises(BadParameter, match="own place"):
        quantise_model(spec(store, name="mine"), quiet)
    with pytest.raises(ModelNotFound):
        quantise_model(spec(store, model="absent"), quiet)
    with pytest.raises(NameTaken):
        quantise_model(spec(store, "int4", name="mine-int8"), quiet)
    with pytest.raises(BadParameter, match="cannot be read"):
        quantise_model(spec(store, text="/no/such/text", name="x"), quiet)
    (tmp_path / "empty").write_text("")
    with pytest.raises(BadParameter, match="too short"):
        quantise_model(spec(store, text=str(tmp_path / "empty"), name="x"), quiet)
    store.import_path(make_model(tmp_path / "thin", hidden_size=24, intermediate_size=40, head_dim=6))
    with pytest.raises(NotServable, match="no matrix"):
        quantise_model(spec(store, model="thin", name="x"), quiet)
    assert [str(manifest.name) for manifest in store.list()] == ["mine", "mine-int8", "thin"]
    assert not list((store.root / "staging").glob("*"))


@pytest.mark.parametrize("when", ["quantising", "measuring", "importing"])
def test_giving_up_leaves_nothing(store: ModelStore, when: str) -> None:
    def give_up(stage: str, done: int, total: int) -> None:
        if stage == when:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        quantise_model(spec(store), give_up)
    store.sweep()
    assert [str(manifest.name) for manifest in store.list()] == ["mine"]
    assert not list((store.root / "staging").glob("*"))


def start(store: ModelStore, **changed: Any) -> subprocess.Popen[str]:
    fields = {"store": str(store.root), "model": "mine", "name": "made", "to": "int8", "num_threads": 1} | changed
    command = [sys.executable, "-m", "thaloom.quantiser", "--spec", json.dumps(fields)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_the_process_tells_its_progress_and_its_end(store: ModelStore) -> None:
    process = start(store)
    out, _ = process.communicate(timeout=100)
    lines = [json.loads(line) for line in out.splitlines()]
    assert process.returncode == 0
    assert lines[-1] == {"model": "made"}
    assert [stage for stage in dict.fromkeys(line.get("stage") for line in lines[:-1])] == [
        "quantising", "measuring", "importing",
    ]  # fmt: skip
    refused = start(store, model="absent")
    out, _ = refused.communicate(timeout=100)
    assert json.loads(out.splitlines()[-1])["error"]["code"] == "model_not_found"
    assert refused.returncode == 3


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL])
def test_ended_at_any_moment_it_leaves_whole_models(store: ModelStore, signum: signal.Signals) -> None:
    for wait_for in ("quantising", "measuring", "importing"):
        process = start(store, name="made")
        assert process.stdout is not None
        for line in process.stdout:
            if wait_for in line:
                break
        os.kill(process.pid, signum)
        process.communicate(timeout=100)
        if signum == signal.SIGTERM:
            assert not list((store.root / "staging").glob("*"))
        store.sweep()
        assert not list((store.root / "staging").glob("*"))
        for manifest in store.list():
            assert store.verify(manifest.name).sound


def test_with_nobody_left_to_listen_it_ends(store: ModelStore) -> None:
    process = start(store, name="made")
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    begin = time.monotonic()
    process.wait(timeout=100)
    assert process.stderr is not None
    process.stderr.close()
    assert process.returncode != 0
    assert time.monotonic() - begin < 100
    assert [str(manifest.name) for manifest in store.list()] == ["mine"]
    assert store.get(ModelName("mine"))
