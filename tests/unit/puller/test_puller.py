"""The pulling process itself: killed at any moment, it leaves what the next one goes on with."""

from __future__ import annotations

import dataclasses
import json
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.hubs import FakeHub, serving_hub
from tests.unit.kernel_models_pulling.pulls import HASTY, model_files, stored_files
from thaloom.base.clock import SystemClock
from thaloom.kernel.models.pulling.partials import unfinished
from thaloom.kernel.models.store import ModelStore
from thaloom.kernel.models.types import HubModel, HubSettings

NUM_KILLS = 20
DONE = {"model": "mine", "degraded": []}


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[FakeHub]:
    files = model_files(tmp_path / "model", hidden_size=256, intermediate_size=512, head_dim=64, num_shards=2)
    with serving_hub(FakeHub(files)) as served:
        yield served


def spec(home: Path, hub: FakeHub, **changed: Any) -> bytes:
    said: dict[str, Any] = {
        "store": str(home / "models"),
        "pulls": str(home / "models" / "pulls"),
        "calls": str(home / "refused.jsonl"),
        "closed": None,
        "model": dataclasses.asdict(HubModel(hub="hf", repo="org/name", revision="main")),
        "settings": dataclasses.asdict(HubSettings(hf_endpoint=hub.url)),
        "name": "mine",
        "replace": False,
        "num_connections": 3,
        "segment_bytes": 128 * 1024,
        "patience": dataclasses.asdict(HASTY),
    }
    return json.dumps(said | changed).encode()


def start(told: bytes) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "thaloom.puller"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdin is not None
    process.stdin.write(told)
    process.stdin.close()
    return process


def lines(process: subprocess.Popen[bytes]) -> Iterator[dict[str, Any]]:
    assert process.stdout is not None
    with process.stdout:
        yield from map(json.loads, process.stdout)
    process.wait()


@pytest.mark.slow
def test_killed_twenty_times_it_ends_bit_identical(hub: FakeHub, tmp_path: Path) -> None:
    """Each process may fetch some more bytes, a number of its own by lot, and is then killed by SIGKILL."""
    home, chance = tmp_path / "home", random.Random(7)
    total = sum(len(data) for data in hub.files.values())
    share = total // (NUM_KILLS + 4)
    seen, num_killed = 0, 0
    hub.twist = lambda asked, reply: dataclasses.replace(reply, pause_s=0.03)
    for _ in range(NUM_KILLS):
        process = start(spec(home, hub))
        enough = seen + chance.randrange(share)
        for said in lines(process):
            if said.get("stage") == "pulling" and said["done"] > enough:
                process.kill()
                num_killed += 1
                break
            assert "error" not in said
        process.kill()
        process.wait()
        ((_, left),) = unfinished(home / "models" / "pulls")
        assert left.total_bytes == total
        assert left.done_bytes >= seen, "what came once does not get lost"
        seen = left.done_bytes
    assert num_killed == NUM_KILLS
    hub.twist = lambda asked, reply: reply
    sent_before = len(hub.files_asked())
    said = list(lines(start(spec(home, hub))))
    assert said[-1] == DONE
    assert len(hub.files_asked()) > sent_before
    store = ModelStore(home / "models", SystemClock())
    assert stored_files(store, store.get("mine")) == hub.files
    assert store.verify("mine").sound
    imported = ModelStore(tmp_path / "other", SystemClock()).import_path(tmp_path / "model")
    assert store.get("mine").digest == imported.digest
    assert unfinished(home / "models" / "pulls") == []


def test_killed_while_it_imports(hub: FakeHub, tmp_path: Path) -> None:
    home = tmp_path / "home"
    process = start(spec(home, hub))
    for said in lines(process):
        if said.get("stage") == "importing":
            process.kill()
            break
    process.wait()
    asked = len(hub.files_asked())
    assert list(lines(start(spec(home, hub))))[-1] == DONE
    assert all("index" in one.path for one in hub.files_asked()[asked:]), "every file was there"
    store = ModelStore(home / "models", SystemClock())
    assert stored_files(store, store.get("mine")) == hub.files


def test_two_at_once_make_one_model(hub: FakeHub, tmp_path: Path) -> None:
    hub.twist = lambda asked, reply: dataclasses.replace(reply, pause_s=0.001)
    both = [start(spec(tmp_path / "home", hub)) for _ in range(2)]
    assert [list(lines(process))[-1] for process in both] == [DONE] * 2
    times = sum("model-00001" in asked.path and "bytes=0-" in asked.headers["range"] for asked in hub.files_asked())
    assert times == 1, "the second found what the first had brought"


def test_it_ends_when_nobody_listens_and_keeps_what_came(hub: FakeHub, tmp_path: Path) -> None:
    hub.twist = lambda asked, reply: dataclasses.replace(reply, pause_s=0.05)
    process = start(spec(tmp_path / "home", hub))
    for said in lines(process):
        if said.get("stage") == "pulling" and said["done"] > 0:
            break
    assert process.stdout is not None
    process.stdout.close()
    assert process.wait(30) == 0
    assert len(unfinished(tmp_path / "home" / "models" / "pulls")) == 1


def test_a_token_is_in_nobodys_view(hub: FakeHub, tmp_path: Path) -> None:
    hub.token = "hf_secret"
    settings = dataclasses.asdict(HubSettings(hf_endpoint=hub.url, hf_token="hf_secret"))
    process = start(spec(tmp_path / "home", hub, settings=settings))
    command = Path(f"/proc/{process.pid}/cmdline").read_bytes() + Path(f"/proc/{process.pid}/environ").read_bytes()
    said = list(lines(process))
    assert said[-1] == DONE
    assert b"hf_secret" not in command
    assert "hf_secret" not in json.dumps(said)
    for path in (tmp_path / "home").rglob("*"):
        assert not path.is_file() or b"hf_secret" not in path.read_bytes()


@pytest.mark.parametrize("told", [b"", b"{}", b"[", b'{"store": 1}'])
def test_what_it_does_not_understand_it_says(told: bytes) -> None:
    (said,) = lines(start(told))
    assert said["error"]["code"] in ("internal_error", "bad_parameter")


def test_offline(hub: FakeHub, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    said = list(lines(start(spec(tmp_path / "home", hub, closed="HF_HUB_OFFLINE is set"))))
    assert said[-1]["error"]["code"] == "air_gapped"
    assert hub.url in said[-1]["error"]["message"]
    assert hub.asked == []
