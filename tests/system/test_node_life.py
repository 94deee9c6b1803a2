"""Up, down and up again: what a node keeps, what it leaves behind, whom it refuses."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from tests.system.node import Node, eventually, node
from thaloom.base.errors import (
    BadParameter,
    BadRequest,
    ModelInUse,
    ModelNotFound,
    NameTaken,
    NodeNotRunning,
    OutOfMemory,
    ServiceFailed,
    ServiceNotFound,
    UnknownPath,
)
from thaloom.base.procs import resident_bytes
from thaloom.base.units import MIB
from thaloom.edge.wire.control import Progress, PullRequest, ServeRequest

__all__ = ["node"]


def test_down_leaves_no_process_and_no_socket(node: Node) -> None:
    node.start()
    node.serve_tiny()
    node.wait_for_door()
    with node.client() as client:
        assert client.down().pid == node.daemon.pid
    assert node.daemon.wait(timeout=30) == 0
    assert node.processes_of_home() == []
    run = node.home / "run"
    assert [path for path in run.rglob("*") if path.is_socket()] == []
    assert not (run / "routes.json").exists()
    with node.client() as client, pytest.raises(NodeNotRunning):
        client.status()


def test_services_come_back_after_down_and_up(node: Node) -> None:
    node.start()
    node.serve_tiny()
    with node.client() as client:
        client.down()
    assert node.daemon.wait(timeout=30) == 0
    node.start()
    with node.client() as client:
        assert client.wait_ready("tiny", timeout_s=30).spec.num_threads == 1


def test_a_stopped_service_does_not_come_back(node: Node) -> None:
    node.start()
    node.serve_tiny()
    with node.client() as client:
        client.stop("tiny")
        eventually(lambda: [process.role for process in client.processes()].count("worker") == 0)
        with pytest.raises(ServiceNotFound):
            client.service("tiny")
    node.daemon.terminate()
    assert node.daemon.wait(timeout=30) == 0
    node.start()
    with node.client() as client:
        assert client.services() == []


def test_a_second_daemon_of_the_same_home_is_refused(node: Node) -> None:
    node.start()
    first = node.daemon.pid
    assert node.launch().wait(timeout=30) == 4
    assert f"pid {first}" in node.log()
    assert "already_running" in node.log()


def test_a_taken_port_is_refused_and_nothing_is_left_running(node: Node) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", node.port))
        other.listen()
        assert node.launch().wait(timeout=30) == 4
    assert "port_taken" in node.log()
    assert node.processes_of_home() == []


@pytest.mark.parametrize(
    ("arguments", "config", "exit_code", "word"),
    [
        (("--host", "0.0.0.0"), "", 7, "certificate"),
        ((), "colour = 'blue'\n", 2, "colour"),
        ((), "port = 'high'\n", 2, "port"),
        ((), "port = \n", 2, "config.toml"),
        (("--port", "70000"), "", 2, "65535"),
    ],
)
def test_wrong_settings_stop_the_boot(
    node: Node, arguments: tuple[str, ...], config: str, exit_code: int, word: str
) -> None:
    node.home.mkdir(parents=True)
    (node.home / "config.toml").write_text(config)
    assert node.launch(*arguments).wait(timeout=30) == exit_code
    assert word in node.log()


def test_models_over_the_socket(node: Node, tmp_path: Path) -> None:
    node.start()
    steps: list[Progress] = []
    tiny = Path(__file__).parents[2] / "models" / "tiny"
    with node.client() as client:
        model = client.pull(PullRequest(source=str(tiny)), steps.append)
        assert model.name == "tiny"
        assert steps
        assert client.model("tiny") == model
        assert [known.name for known in client.models()] == ["tiny"]
        assert client.verify("tiny").sound
        with pytest.raises(ModelNotFound):
            client.model("nobody")
        with pytest.raises(BadParameter, match="absolute"):
            client.pull(PullRequest(source="./models/tiny"))
        with pytest.raises(BadParameter):
            client.pull(PullRequest(source=str(tmp_path / "nothing")))
        other = tmp_path / "other"
        other.mkdir()
        for file in tiny.iterdir():
            (other / file.name).write_bytes(file.read_bytes())
        (other / "config.json").write_text((tiny / "config.json").read_text() + "\n")
        with pytest.raises(NameTaken):
            client.pull(PullRequest(source=str(other), name="tiny"))
        assert client.remove_model("tiny").name == "tiny"
        assert client.models() == []


def test_a_model_in_use_cannot_be_removed(node: Node) -> None:
    node.start()
    node.serve_tiny("chat")
    with node.client() as client:
        with pytest.raises(ModelInUse, match="'chat'"):
            client.remove_model("tiny")
        client.stop("chat")
        client.remove_model("tiny")


def test_wishes_that_cannot_be_met_are_refused_with_the_reason(node: Node) -> None:
    node.start()
    with node.client() as client:
        with pytest.raises(ModelNotFound):
            client.serve("x", ServeRequest(model="nobody"))
        node.serve_tiny()
        with pytest.raises(OutOfMemory) as refusal:
            client.serve("big", ServeRequest(model="tiny", kv_bytes=1 << 50))
        assert refusal.value.details["needed_bytes"] > refusal.value.details["free_bytes"] > 0
        for name in ("door", "../x", ".x", "x y"):
            with pytest.raises((BadParameter, BadRequest, UnknownPath)):
                client.serve(name, ServeRequest(model="tiny"))
        assert [service.name for service in client.services()] == ["tiny"]


def test_a_service_that_cannot_start_says_why(node: Node, tmp_path: Path) -> None:
    """The weights were damaged on the disk after the import."""
    node.start()
    tiny = Path(__file__).parents[2] / "models" / "tiny"
    with node.client() as client:
        client.pull(PullRequest(source=str(tiny), name="tiny"))
        largest = max((node.home / "models" / "objects").rglob("*"), key=lambda path: path.stat().st_size)
        data = bytearray(largest.read_bytes())
        data[len(data) // 2] ^= 1
        largest.chmod(0o600)
        largest.write_bytes(data)
        verification = client.verify("tiny")
        assert not verification.sound
        client.serve("tiny", ServeRequest(model="tiny"))
        with pytest.raises(ServiceFailed, match="safetensors"):
            client.wait_ready("tiny", timeout_s=30)
        service = client.service("tiny")
        assert service.condition("Ready").reason == "CorruptObject"  # type: ignore[union-attr]
        client.stop("tiny")


def test_logs_of_a_service(node: Node) -> None:
    node.start()
    node.serve_tiny()
    with node.client() as client:
        with client.logs("tiny") as lines:
            assert any("WorkerReady" in line for line in lines)
        with client.logs("tiny", tail=0) as lines:
            assert list(lines) == []
        with client.logs("tiny", follow=True) as lines:
            assert next(lines)
        with pytest.raises(ServiceNotFound), client.logs("nobody"):
            pass


def test_a_followed_log_ends_when_the_service_is_stopped(node: Node) -> None:
    node.start()
    node.serve_tiny()
    with node.client() as client, node.client() as other:
        with client.logs("tiny", follow=True) as lines:
            assert next(lines)
            other.stop("tiny")
            assert list(lines) is not None


def test_devices_and_figures(node: Node) -> None:
    node.start()
    with node.client() as client:
        devices = client.devices().devices
        assert "cpu" in {device.id for device in devices}
        cpu = client.device("cpu")
        assert cpu.num_cores > 0
        assert cpu.reading is not None
        status = client.status()
        assert {memory.device for memory in status.memory} >= {"cpu"}
        assert status.url == node.url


def test_the_daemon_stays_light(node: Node) -> None:
    node.start()
    node.serve_tiny()
    resident = resident_bytes(node.daemon.pid)
    assert resident is not None
    assert resident < 100 * MIB
