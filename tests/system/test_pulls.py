"""Pulls from a hub through the real node: followed, left, killed, listed, removed, and refused behind an air gap."""

from __future__ import annotations

import dataclasses
import json
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hubs import Asked, FakeHub, Reply, serving_hub
from tests.system.cli import PROGRAM, environment, thaloom
from tests.system.node import Node, eventually, node
from tests.unit.kernel_models_pulling.pulls import model_files
from thaloom.base.errors import AirGapped, Forbidden, ThaloomError
from thaloom.edge.wire.control import HubAccess, Progress, PullRequest

__all__ = ["node"]

pytestmark = pytest.mark.slow


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[FakeHub]:
    with serving_hub(FakeHub(model_files(tmp_path / "model", hidden_size=128, intermediate_size=256))) as served:
        yield served


@pytest.fixture
def up(node: Node, hub: FakeHub) -> Node:
    node.environment |= {"HF_ENDPOINT": hub.url}
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "THALOOM_AIRGAP"):
        node.environment.pop(name, None)
    node.start()
    return node


class Brake:
    """Weights come slowly, until it is let go."""

    def __init__(self, hub: FakeHub) -> None:
        self._replies: list[Reply] = []
        hub.twist = self._hold
        self.pause_s = 0.2

    def _hold(self, asked: Asked, reply: Reply) -> Reply:
        if "model.saf" in asked.path:
            reply.pause_s = self.pause_s
            self._replies.append(reply)
        return reply

    def let_go(self) -> None:
        self.pause_s = 0.0
        for reply in self._replies:
            reply.pause_s = 0.0


def test_pull_and_serve(up: Node, hub: FakeHub) -> None:
    up.wait_for_door()
    pulled = thaloom(up, "pull", "org/name", "--progress", "json", "--json")
    assert pulled.code == 0, pulled.err
    assert pulled.document["name"] == "name"
    assert pulled.document["source"].endswith(hub.commit)
    steps = [json.loads(line) for line in pulled.err.splitlines()]
    for stage in ("pulling", "importing"):
        done = [step["done_bytes"] for step in steps if step["stage"] == stage]
        assert done == sorted(done)
    assert thaloom(up, "verify", "name").code == 0
    assert thaloom(up, "pull", "org/name", "--json").document["digest"] == pulled.document["digest"]
    served = thaloom(up, "serve", "name", "--threads", "1", "--context", "64", "--json")
    assert (served.code, served.document["phase"]) == (0, "ready"), served.err


def test_who_leaves_comes_back_to_the_same_pull(up: Node, hub: FakeHub) -> None:
    brake = Brake(hub)
    left = subprocess.Popen(
        [*PROGRAM, "pull", "org/name"], env=environment(up), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    with up.client() as client:
        eventually(lambda: any(pull.running and pull.done_bytes for pull in client.unfinished_pulls()))
        left.send_signal(signal.SIGINT)
        _, told = left.communicate(timeout=30)
        assert left.returncode == 130
        assert b"The node goes on with it" in told
        assert client.unfinished_pulls()[0].running
        brake.let_go()
        assert client.pull(PullRequest(source="org/name")).name == "name"
        assert client.unfinished_pulls() == []
    assert sum("model.safetensors" in asked.path for asked in hub.files_asked()) == 1


def test_a_killed_daemon_loses_nothing_that_came(up: Node, hub: FakeHub) -> None:
    brake = Brake(hub)
    assert thaloom(up, "ls", "--partial", "--json").document == {"pulls": []}

    class Left(Exception):
        pass

    def leave(progress: Progress) -> None:
        if progress.stage == "pulling" and progress.done_bytes > 30_000:
            raise Left

    with up.client() as client, pytest.raises(Left):
        client.pull(PullRequest(source="org/name"), leave)
    up.kill(up.daemon.pid)
    up.start()
    (listed,) = thaloom(up, "ls", "--partial", "--json").document["pulls"]
    assert not listed["running"]
    assert 30_000 < listed["done_bytes"] < listed["total_bytes"]
    brake.let_go()
    pulled = thaloom(up, "pull", "org/name", "--json")
    assert pulled.code == 0, pulled.err
    assert thaloom(up, "verify", "name").code == 0
    again = hub.files_asked()[-1]
    assert int(again.headers["range"].removeprefix("bytes=").partition("-")[0]) > 0


def test_an_unfinished_pull_is_removed(up: Node, hub: FakeHub) -> None:
    Brake(hub)

    class Left(Exception):
        pass

    def leave(progress: Progress) -> None:
        if progress.done_bytes:
            raise Left

    with up.client() as client:
        with pytest.raises(Left):
            client.pull(PullRequest(source="org/name"), leave)
        (unfinished,) = client.unfinished_pulls()
        assert hub.url in unfinished.source
        assert thaloom(up, "rm", "--partial", "org/other").code == 3
        assert thaloom(up, "rm", "--partial", "org/name").code == 0, "by the name it was asked for"
        assert client.unfinished_pulls() == []
        assert thaloom(up, "rm", "--partial", unfinished.source).code == 3
    assert not list((up.home / "models" / "pulls").iterdir())
    assert thaloom(up, "ls", "--json").document == {"models": []}


def test_a_lie_is_told_by_name_and_in_both_languages(up: Node, hub: FakeHub) -> None:
    hub.twist = lambda asked, reply: (
        dataclasses.replace(reply, body=bytes(len(reply.body))) if "model.saf" in asked.path else reply
    )
    refused = thaloom(up, "pull", "org/name", "--json")
    assert refused.code == 6
    assert json.loads(refused.err)["error"]["details"]["rule"] == "wrong_digest"
    assert thaloom(up, "ls", "--json").document == {"models": []}


def test_behind_an_air_gap(node: Node, hub: FakeHub) -> None:
    node.environment |= {"HF_ENDPOINT": hub.url, "THALOOM_AIRGAP": "1"}
    node.start()
    with node.client() as client:
        for source in ("org/name", "ms://org/name", f"{hub.url}/org/name"):
            with pytest.raises(AirGapped):
                client.pull(PullRequest(source=source))
        assert client.pull(PullRequest(source="tiny")).name == "tiny"
    assert hub.asked == []
    listed = thaloom(node, "outgoing", "--json").document
    assert "THALOOM_AIRGAP" in listed["closed"]
    assert listed["refused"][0]["purpose"] == "pull hf://org/name@main"
    assert len(listed["refused"]) == 3
    assert hub.url in thaloom(node, "outgoing").out


def test_what_is_refused_before_anything_is_asked(up: Node, hub: FakeHub) -> None:
    with up.client() as client:
        with pytest.raises(AirGapped, match="HF_HUB_OFFLINE"):
            client.pull(PullRequest(source="org/name", hub=HubAccess(offline=True)))
        with pytest.raises(Forbidden, match="hub_read_through"):
            client.pull(PullRequest(source="org/name", read_through=True))
        with pytest.raises(Forbidden, match="unencrypted"):
            client.pull(
                PullRequest(source="org/name", hub=HubAccess(hf_endpoint="http://hub.invalid", hf_token="hf_x"))
            )
        for source in ("hf://../x", "https://h/x/y/z", "org/name@../x", "org/name:../x", "ms://x"):
            with pytest.raises(ThaloomError) as refusal:
                client.pull(PullRequest(source=source))
            assert refusal.value.code == "bad_parameter", source
    assert hub.asked == []
    assert thaloom(up, "outgoing", "--json").document["closed"] is None


def test_the_node_is_a_hub_and_reads_through_to_the_one_above(
    node: Node, hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY", True)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import RepositoryNotFoundError

    node.environment |= {"HF_ENDPOINT": hub.url}
    node.home.mkdir(parents=True)
    (node.home / "config.toml").write_text("hub_read_through = true\n")
    node.start()
    node.wait_for_door()
    place = snapshot_download("org/name", endpoint=node.url, cache_dir=tmp_path / "cache", token=False)
    assert {path.name: path.read_bytes() for path in Path(place).iterdir()} == hub.files
    num_asked = len(hub.asked)
    snapshot_download("org/name", endpoint=node.url, cache_dir=tmp_path / "again", token=False)
    assert len(hub.asked) == num_asked, "it is here now"
    with pytest.raises(RepositoryNotFoundError):
        snapshot_download("org/other", endpoint=node.url, cache_dir=tmp_path / "cache", token=False)
    node.kill(node.daemon.pid)
    snapshot_download("org/name", endpoint=node.url, cache_dir=tmp_path / "third", token=False)


def test_without_leave_nothing_is_read_through(up: Node, hub: FakeHub, tmp_path: Path) -> None:
    import httpx2

    up.wait_for_door()
    answer = httpx2.get(f"{up.url}/api/models/org/name", trust_env=False)
    assert (answer.status_code, answer.headers["x-error-code"]) == (404, "RepoNotFound")
    assert hub.asked == []
