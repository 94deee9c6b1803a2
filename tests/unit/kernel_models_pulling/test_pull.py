"""Pulls from a hub that is honest, busy or cut off."""

from __future__ import annotations

import dataclasses
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.encrypted import a_key
from tests.foreign import make_gguf
from tests.hubs import Asked, FakeHub, Reply, serving_hub
from tests.models import make_config, weight_shapes
from tests.unit.kernel_models_pulling.pulls import HASTY, Puller, model_files, stored_files
from thaloom.base.air_gap import AirGap
from thaloom.base.clock import SystemClock
from thaloom.base.errors import (
    AirGapped,
    BadParameter,
    DiskFull,
    Forbidden,
    ModelNotFound,
    NameTaken,
    NotServable,
    SourceUnavailable,
    UnsafeFormat,
)

SIZES = {"hidden_size": 64, "intermediate_size": 96, "head_dim": 16, "vocab_size": 272}


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[FakeHub]:
    with serving_hub(FakeHub(model_files(tmp_path / "model") | {"README.md": b"# A model\n"})) as served:
        yield served


@pytest.fixture
def puller(hub: FakeHub, tmp_path: Path) -> Puller:
    return Puller(tmp_path / "home", hub.url)


def test_a_pulled_model_is_an_imported_one(hub: FakeHub, puller: Puller, tmp_path: Path) -> None:
    manifest = puller()
    assert str(manifest.name) == "name"
    assert stored_files(puller.store, manifest) == hub.files
    assert manifest.source == f"{hub.url}/org/name/resolve/{hub.commit}"
    (tmp_path / "model" / "README.md").write_bytes(hub.files["README.md"])
    assert puller.store.import_path(tmp_path / "model").digest == manifest.digest
    assert puller.store.verify("name").sound
    assert puller.unfinished() == []
    assert not list(puller.pulls.glob("*"))


def test_a_model_is_pulled_into_cipher_and_nothing_of_it_stays_in_plain(hub: FakeHub, puller: Puller) -> None:
    key = a_key()
    puller.key = lambda: key
    puller()
    assert puller(encrypt=True).encrypted, "what is here in plain is converted, and not fetched again"
    assert puller().encrypted, "and stays so"
    puller.store.remove("name")
    manifest = puller(encrypt=True)
    assert manifest.encrypted
    assert stored_files(puller.store, manifest) == hub.files
    weights = hub.files["model.safetensors"]
    everything = b"".join(path.read_bytes() for path in (puller.home / "models").rglob("*") if path.is_file())
    assert weights[len(weights) // 2 :][:64] not in everything


def test_from_model_scope(hub: FakeHub, puller: Puller) -> None:
    manifest = puller("ms://org/name")
    assert stored_files(puller.store, manifest) == hub.files
    assert "Revision=master" in hub.files_asked()[0].path


def test_only_what_a_model_needs_is_asked_for(hub: FakeHub, puller: Puller) -> None:
    needed = dict(hub.files)
    hub.files |= {
        "pytorch_model.bin": b"\x80\x02", "onnx/model.onnx": b"1", "training_args.bin": b"2", "run.py": b"import os",
        "tf_model.h5": b"3", "images/a.png": b"4", ".gitattributes": b"5", "other.safetensors": b"6",
    }  # fmt: skip
    assert stored_files(puller.store, puller()) == needed
    assert {asked.path.rpartition("/")[2] for asked in hub.files_asked()} == set(needed)


def test_shards_by_the_index_and_pages_of_a_listing(tmp_path: Path) -> None:
    files = model_files(tmp_path / "model", num_shards=3)
    hub = FakeHub(files | {"consolidated.safetensors": b"twice the same"})
    hub.page_size = 2
    with serving_hub(hub):
        puller = Puller(tmp_path / "home", hub.url)
        assert stored_files(puller.store, puller()) == files


def test_again_it_costs_a_listing(hub: FakeHub, puller: Puller) -> None:
    first = puller()
    hub.asked.clear()
    assert puller() == first
    assert hub.files_asked() == []


def test_another_model_of_that_name_is_refused_before_a_byte_comes(hub: FakeHub, puller: Puller) -> None:
    puller()
    hub.asked.clear()
    hub.files["config.json"] += b" "
    with pytest.raises(NameTaken):
        puller()
    assert hub.files_asked() == []
    assert stored_files(puller.store, puller(replace=True)) == hub.files


def test_large_files_come_in_segments_over_several_connections(hub: FakeHub, puller: Puller) -> None:
    hub.twist = lambda asked, reply: _slow(reply)
    puller()
    ranges = [asked.headers["range"] for asked in hub.files_asked() if "range" in asked.headers]
    assert len(ranges) > 3
    assert 1 < hub.most_at_once <= puller.num_connections + 1


def test_progress_never_goes_back(hub: FakeHub, puller: Puller) -> None:
    hub.twist = lambda asked, reply: _slow(reply)
    puller()
    stages = list(dict.fromkeys(step[0] for step in puller.steps))
    assert stages == ["listing", "pulling", "importing"]
    for stage in ("pulling", "importing"):
        done = [step[1] for step in puller.steps if step[0] == stage]
        assert done == sorted(done)
        total = sum(len(data) for data in hub.files.values())
        assert {step[2] for step in puller.steps if step[0] == stage} == {total}
        assert done[-1] == total
    assert len([step for step in puller.steps if step[0] == "pulling"]) > 2


@pytest.mark.parametrize("seed", range(20))
def test_a_cut_connection_is_gone_on_with(hub: FakeHub, puller: Puller, seed: int) -> None:
    """Each file's every answer but the last may break off anywhere; so may the listing's."""
    chance = random.Random(seed)

    def cut(asked: Asked, reply: Reply) -> Reply:
        if chance.random() < 0.3:
            reply.cut_at = chance.randrange(len(reply.body) + 1)
        return reply

    hub.twist = cut
    assert stored_files(puller.store, puller()) == hub.files


def test_what_came_before_an_end_is_not_asked_for_again(hub: FakeHub, puller: Puller) -> None:
    puller.segment_bytes = 1 << 20  # one segment: what came of it is half of it
    calls = 0

    def once(asked: Asked, reply: Reply) -> Reply:
        nonlocal calls
        if "model.safetensors" in asked.path:
            calls += 1
            reply.cut_at = len(reply.body) // 2 if calls == 1 else 0
        return reply

    hub.twist = once
    with pytest.raises(SourceUnavailable):
        puller()
    assert puller.unfinished() == [f"{hub.url}/org/name/resolve/main"]
    hub.twist = lambda asked, reply: reply
    hub.asked.clear()
    assert stored_files(puller.store, puller()) == hub.files
    (again,) = hub.files_asked()
    half = len(hub.files["model.safetensors"]) // 2
    assert again.headers["range"] == f"bytes={half}-{len(hub.files['model.safetensors']) - 1}"


def test_what_changed_upstream_is_begun_anew_and_never_mixed(hub: FakeHub, puller: Puller, tmp_path: Path) -> None:
    puller.num_connections = 1
    hub.twist = lambda asked, reply: _cut(asked, reply, "model.safetensors")
    with pytest.raises(SourceUnavailable):
        puller()
    hub.twist = lambda asked, reply: reply
    unchanged = set(hub.files) - {"model.safetensors"}
    hub.files["model.safetensors"] = model_files(tmp_path / "other", seed=1)["model.safetensors"]
    hub.commit = "d1" * 20
    hub.asked.clear()
    manifest = puller()
    assert stored_files(puller.store, manifest) == hub.files
    assert hub.commit in manifest.source
    asked_again = {asked.path.rpartition("/")[2] for asked in hub.files_asked()}
    assert asked_again == {"model.safetensors"}, f"{unchanged} are what they were"
    assert sum("range" in asked.headers and "bytes=0-" in asked.headers["range"] for asked in hub.files_asked()) == 1


def test_bytes_that_were_lost_on_this_disk_are_fetched_anew(hub: FakeHub, puller: Puller) -> None:
    hub.twist = lambda asked, reply: _cut(asked, reply, "model.safetensors")
    with pytest.raises(SourceUnavailable):
        puller()
    (part,) = [path for path in puller.pulls.glob("*/*.data") if path.stat().st_size > 1000]
    data = bytearray(part.read_bytes())
    data[:100] = bytes(100)  # as after a power loss: the marks are there, the bytes are not
    part.write_bytes(data)
    hub.twist = lambda asked, reply: reply
    assert stored_files(puller.store, puller()) == hub.files


@pytest.mark.parametrize("status", [429, 503, 500])
def test_a_busy_hub_is_asked_again(hub: FakeHub, puller: Puller, status: int) -> None:
    times: Counter[tuple[str, str | None]] = Counter()

    def busy(asked: Asked, reply: Reply) -> Reply:
        what = (asked.path, asked.headers.get("range"))
        times[what] += 1
        return Reply(status=status, headers={"retry-after": "0"}) if times[what] < 3 else reply

    hub.twist = busy
    assert stored_files(puller.store, puller()) == hub.files


def test_a_hub_that_wants_to_be_left_alone_for_long_is_left(hub: FakeHub, puller: Puller) -> None:
    hub.twist = lambda asked, reply: Reply(status=429, headers={"retry-after": "9999"})
    with pytest.raises(SourceUnavailable) as refusal:
        puller()
    assert refusal.value.retry_after_s == 9999
    assert len(hub.asked) == 1


def test_a_hub_that_falls_silent_is_left(hub: FakeHub, puller: Puller) -> None:
    puller.silence_s = 0.2
    hub.twist = lambda asked, reply: _stalling(asked, reply)
    with pytest.raises(SourceUnavailable):
        puller()


def test_a_hub_that_only_drips_is_left(hub: FakeHub, puller: Puller) -> None:
    """Each piece comes in time; all of them would take for ever."""
    puller.segment_bytes = 1 << 20
    puller.patience = dataclasses.replace(HASTY, most_attempts=1, stalled_s=0.3, least_bytes=1 << 20)
    hub.twist = lambda asked, reply: _slow(reply)
    with pytest.raises(SourceUnavailable, match="brought"):
        puller()


def test_nobody_there(tmp_path: Path) -> None:
    puller = Puller(tmp_path / "home", "http://127.0.0.1:9")
    with pytest.raises(SourceUnavailable):
        puller()
    assert puller.is_empty()


def test_room_is_looked_for_before_the_first_byte(
    hub: FakeHub, puller: Puller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("thaloom.base.files.free_bytes", lambda path: 1000)
    with pytest.raises(DiskFull) as refusal:
        puller()
    assert refusal.value.details["free_bytes"] == 1000
    assert hub.files_asked() == []


@pytest.mark.parametrize(
    ("source", "leaf"),
    [("org/other", ModelNotFound), ("org/name@nope", ModelNotFound), ("org/name:Q4_K_M", BadParameter)],
)
def test_what_is_not_there(hub: FakeHub, puller: Puller, source: str, leaf: type[Exception]) -> None:
    with pytest.raises(leaf):
        puller(source)
    assert puller.is_empty()


def test_a_gated_model_wants_a_token(hub: FakeHub, puller: Puller) -> None:
    hub.token = "hf_secret"
    with pytest.raises(Forbidden, match="token"):
        puller()
    assert stored_files(puller.store, puller(token="hf_secret")) == hub.files


def test_pickles_are_refused_by_name(hub: FakeHub, puller: Puller) -> None:
    del hub.files["model.safetensors"]
    hub.files["pytorch_model.bin"] = b"\x80\x02"
    with pytest.raises(UnsafeFormat, match=r"pytorch_model\.bin"):
        puller()
    with pytest.raises(UnsafeFormat):
        puller("org/name:pytorch_model.bin")
    del hub.files["pytorch_model.bin"]
    with pytest.raises(NotServable):
        puller()
    assert puller.is_empty()
    assert hub.files_asked() == []


def test_gguf_by_file_and_by_a_part_of_its_name(tmp_path: Path) -> None:
    config = make_config("llama", **SIZES)
    random = np.random.default_rng(0)
    weights = {name: random.standard_normal(shape, dtype=np.float32) for name, shape in weight_shapes(config).items()}
    path = make_gguf(tmp_path / "m.gguf", config, weights, kinds="F16")
    data = path.read_bytes()
    hub = FakeHub({"model-Q4_K_M.gguf": data, "model-Q8_0.gguf": data + b"", "README.md": b"x"}, repo="org/name-GGUF")
    with serving_hub(hub):
        puller = Puller(tmp_path / "home", hub.url)
        with pytest.raises(BadParameter, match="Q8_0") as refusal:
            puller("org/name-GGUF")
        assert refusal.value.param == "source"
        manifest = puller("org/name-GGUF:q4_k_m")
        assert str(manifest.name) == "name-gguf:q4_k_m"
        assert manifest.card.quantisation is not None
        hub.asked.clear()
        assert puller("org/name-GGUF:q4_k_m") == manifest
        assert hub.files_asked() == []
        assert str(puller("org/name-GGUF:model-Q8_0.gguf").name) == "name-gguf:model-q8_0"


@pytest.mark.parametrize("source", ["org/name", "ms://org/name"])
def test_an_air_gapped_node_asks_nobody_and_says_what_it_would_have(hub: FakeHub, puller: Puller, source: str) -> None:
    puller.closed = "the node is air-gapped"
    with pytest.raises(AirGapped, match=hub.url) as refusal:
        puller(source)
    assert hub.asked == []
    (call,) = AirGap(puller.home / "refused.jsonl", SystemClock(), closed=None).refused()
    assert call.url.startswith(hub.url)
    assert call.method == "GET"
    assert refusal.value.exit_code == 8
    assert puller.is_empty()


def _slow(reply: Reply) -> Reply:
    reply.pause_s = 0.05
    return reply


def _cut(asked: Asked, reply: Reply, name: str) -> Reply:
    """Half of the first answer comes, nothing of the others."""
    if name in asked.path:
        start = asked.headers.get("range", "bytes=0-").startswith("bytes=0-")
        reply.cut_at = len(reply.body) // 2 if start else 0
    return reply


def _stalling(asked: Asked, reply: Reply) -> Reply:
    if "safetensors" in asked.path:
        reply.silence_s = 2.0
    return reply
