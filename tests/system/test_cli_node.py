"""up, status, ps, logs and down, on the real node."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

from tests.system.cli import PROGRAM, environment, thaloom
from tests.system.node import PATIENCE_S, Node, eventually, free_port, node

__all__ = ["node"]

pytestmark = pytest.mark.slow


def test_up_twice_and_down(node: Node) -> None:
    up = thaloom(node, "up", "-d", "--json")
    assert up.code == 0, up.err
    assert up.document["url"] == node.url
    assert up.document["home"] == str(node.home)

    for words in (["up", "-d"], ["up"]):
        again = thaloom(node, *words, "--json")
        assert (again.code, again.error["code"]) == (4, "already_running")
        assert again.error["details"]["pid"] == up.document["pid"]

    status = thaloom(node, "status", "--json").document
    assert (status["pid"], status["door_ready"]) == (up.document["pid"], True)
    processes = thaloom(node, "ps", "--json").document["processes"]
    assert {process["role"] for process in processes} == {"daemon", "door"}
    assert "NodeStarted" in thaloom(node, "logs", "daemon").out
    assert thaloom(node, "logs", "door").code == 0

    down = thaloom(node, "down", "--json")
    assert down.code == 0, down.err
    assert set(down.document["ended"]) == {process["pid"] for process in processes}
    assert node.processes_of_home() == []
    assert thaloom(node, "down").code == 5


def test_up_in_the_foreground_until_ctrl_c(node: Node) -> None:
    process = subprocess.Popen(
        [*PROGRAM, "up"], env=environment(node), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        assert process.stdout is not None
        told = ""
        while "/metrics" not in told:
            line = process.stdout.readline()
            assert line, f"it ended:\n{told}"
            told += line
        assert f"{node.url}/v1" in told
        status = thaloom(node, "status", "--json").document
        assert status["pid"] == process.pid, "the daemon took the place of the command"
        foreground = thaloom(node, "logs", "daemon")
        assert "foreground" in foreground.err
        process.send_signal(signal.SIGINT)
        process.stdout.read()
        assert process.wait(timeout=PATIENCE_S) == 0
    finally:
        process.kill()
        process.wait()
        if process.stdout:
            process.stdout.close()
    eventually(lambda: node.processes_of_home() == [])


def test_an_impatient_ctrl_c_ends_a_start_in_order(node: Node) -> None:
    process = subprocess.Popen(
        [*PROGRAM, "up"], env=environment(node), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        command_line = Path(f"/proc/{process.pid}/cmdline")
        eventually(lambda: b"thaloom.daemon" in command_line.read_bytes())
        process.send_signal(signal.SIGINT)
        told, _ = process.communicate(timeout=PATIENCE_S)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0, told
    assert "Traceback" not in told
    assert node.processes_of_home() == []


def test_ctrl_c_while_a_node_is_being_started_leaves_none_behind(node: Node) -> None:
    process = subprocess.Popen([*PROGRAM, "up", "-d"], env=environment(node), stderr=subprocess.PIPE)
    eventually(lambda: len(node.processes_of_home()) > 1)  # the command's own, and the daemon
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=PATIENCE_S)
    assert process.returncode in (0, 130), "it was either up already or given up"
    if process.returncode == 130:
        eventually(lambda: node.processes_of_home() == [])


def test_in_the_foreground_json_is_one_document_and_the_log_goes_elsewhere(node: Node) -> None:
    process = subprocess.Popen(
        [*PROGRAM, "up", "--json"], env=environment(node), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        document = ""
        while not document.endswith("}\n"):
            line = process.stdout.readline()
            assert line, document
            document += line
        assert thaloom(node, "down").code == 0
        out, err = process.communicate(timeout=PATIENCE_S)
    finally:
        process.kill()
        process.communicate()
    assert json.loads(document)["url"] == node.url
    assert out.strip() == ""
    assert "NodeStarted" in err
    assert process.returncode == 0


def test_a_killed_node_is_told_from_a_running_one(node: Node) -> None:
    pid = thaloom(node, "up", "-d", "--json").document["pid"]
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: thaloom(node, "status").code == 5)
    again = thaloom(node, "up", "-d", "--json")
    assert again.code == 0, again.err
    assert again.document["pid"] != pid
    assert thaloom(node, "down").code == 0
    assert node.processes_of_home() == []


def test_a_taken_port_is_refused_before_anything_runs(node: Node) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", node.port))
        other.listen()
        up = thaloom(node, "up", "-d", "--json")
    assert (up.code, up.error["code"]) == (4, "port_taken")
    assert str(node.port) in up.error["message"]
    assert node.processes_of_home() == []


def test_a_host_beyond_loopback_is_refused_without_a_certificate(node: Node) -> None:
    up = thaloom(node, "up", "-d", "--host", "0.0.0.0")
    assert up.code == 7
    assert "certificate" in up.err
    assert node.processes_of_home() == []


def test_flag_over_environment_over_file(node: Node) -> None:
    node.home.mkdir(parents=True)
    (node.home / "config.toml").write_text("port = 1\n")
    up = thaloom(node, "up", "-d", "--json")
    assert up.code == 0, up.err
    assert up.document["url"] == node.url, "THALOOM_PORT goes over config.toml"
    assert thaloom(node, "down").code == 0
    port = free_port()
    up = thaloom(node, "up", "-d", "--json", "--port", str(port))
    assert up.code == 0, up.err
    assert up.document["url"].endswith(f":{port}"), "--port goes over THALOOM_PORT"
    assert thaloom(node, "down").code == 0


def test_a_malformed_config_file_stops_the_start_and_is_named(node: Node) -> None:
    node.home.mkdir(parents=True)
    (node.home / "config.toml").write_text("prt = 1\n")
    refused = thaloom(node, "up", "-d", "--json")
    assert (refused.code, refused.error["code"]) == (2, "bad_parameter")
    assert "prt" in refused.error["message"]
    assert "config.toml" in refused.error["message"]


def test_devices_of_this_machine(node: Node) -> None:
    assert thaloom(node, "up", "-d").code == 0
    listed = thaloom(node, "device", "ls", "--json").document["devices"]
    assert "cpu" in [device["kind"] for device in listed]
    shown = thaloom(node, "device", "show", listed[0]["id"], "--json").document
    assert shown["memory_bytes"] > 0
    assert thaloom(node, "device", "show", "cpuu").code == 3


def test_it_starts_from_anywhere(node: Node, tmp_path: Path) -> None:
    """A folder that holds a file named like one of our modules does not get in the way of the daemon."""
    (tmp_path / "numpy.py").write_text("raise SystemExit('the wrong one')")
    begin = time.monotonic()
    up = subprocess.run(
        [*PROGRAM[:1], "-P", *PROGRAM[1:], "up", "-d"],
        env=environment(node),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert up.returncode == 0, (up.stderr, time.monotonic() - begin)
