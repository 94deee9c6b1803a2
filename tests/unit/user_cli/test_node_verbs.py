"""up, down, status, device, version, and what all verbs have in common."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.user_cli.conftest import Shell
from tests.unit.user_cli.fake_node import FakePlane
from thaloom import __version__
from thaloom.base.errors import ERRORS
from thaloom.user.cli import node as nodes


def test_version(shell: Shell) -> None:
    assert shell("version").out == f"thaloom {__version__}\n"
    assert shell("--version").out == f"thaloom {__version__}\n"
    assert shell("version", "--json").document["version"] == __version__


def test_no_verb_shows_help(shell: Shell) -> None:
    run = shell()
    assert run.code == 0
    assert "thaloom run tiny" in run.out


def test_help_of_a_verb_in_either_order(shell: Shell) -> None:
    assert shell("help").out == shell("--help").out
    assert shell("help", "device", "ls").out == shell("device", "ls", "-h").out
    assert "thaloom run" in shell("help", "run", "--json").document["help"]


def test_status_tells_where_all_is_and_what_is_degraded(shell: Shell, plane: FakePlane) -> None:
    run = shell("status")
    assert run.code == 0
    assert "http://127.0.0.1:9/v1" in run.out
    assert "no compiler" in run.out
    assert "the door ended (Restarting)" in run.out
    assert "7.0 GiB" in run.out
    assert shell("status", "-o", "json").document["pid"] == os.getpid()
    assert "a worker waits" not in run.out
    plane.standby_pid = 4711
    assert "a worker waits for the next start (pid 4711, 50.0 MiB)" in shell("status").out


def test_a_second_up_is_refused(shell: Shell, plane: FakePlane) -> None:
    for words in (["up"], ["up", "-d"]):
        run = shell(*words)
        assert run.code == 4
        assert "up already" in run.err
    assert shell("up", "-d", "--json").error["code"] == "already_running"


def test_flags_go_over_the_environment(shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THALOOM_PORT", "1")
    monkeypatch.setenv("THALOOM_HOST", "::1")
    seen: dict[str, str] = {}

    def start_detached(**settings: object) -> None:
        seen.update({name: os.environ[name] for name in ("THALOOM_HOME", "THALOOM_HOST", "THALOOM_PORT")})
        raise ERRORS["port_taken"]("port 7500 is taken")

    monkeypatch.setattr(nodes, "start_detached", start_detached)
    run = shell("up", "-d", "--port", "7500", "--host", "127.0.0.1", "--home", str(tmp_path / "other"))
    assert run.code == 4
    assert seen == {
        "THALOOM_HOME": str(tmp_path / "other"),
        "THALOOM_HOST": "127.0.0.1",
        "THALOOM_PORT": "7500",
    }


@pytest.mark.parametrize("port", ["0", "65536", "http"])
def test_a_port_that_is_none_is_refused(shell: Shell, port: str) -> None:
    run = shell("up", "--port", port)
    assert run.code == 2
    assert "--port" in run.err


def _daemon(monkeypatch: pytest.MonkeyPatch, program: str) -> None:
    monkeypatch.setattr(nodes, "DAEMON", (sys.executable, "-c", program))


def test_up_detached_tells_why_the_daemon_did_not_start(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    said = f"thaloomd: port 7411 is taken [port_taken; {ERRORS['port_taken']('x').help_page}]"
    _daemon(monkeypatch, f"import sys; print('booting'); print({said!r}, file=sys.stderr); sys.exit(4)")
    run = shell("up", "-d", "--json")
    assert run.code == 4
    assert (run.error["code"], run.error["message"]) == ("port_taken", "port 7411 is taken")


def test_up_detached_tells_the_last_words_of_a_daemon_that_broke(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    _daemon(monkeypatch, "raise RuntimeError('a bug of ours')")
    run = shell("up", "-d")
    assert run.code == 1
    assert "a bug of ours" in run.err
    assert "exit code 1" in run.err


def test_up_detached_is_patient_but_not_for_ever(shell: Shell, monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    _daemon(monkeypatch, "import time; time.sleep(60)")
    with pytest.raises(ERRORS["deadline_exceeded"]) as late:
        nodes.start_detached(timeout_s=0)
    os.kill(late.value.details["pid"], 9)
    os.waitpid(late.value.details["pid"], 0)


def test_down_waits_until_all_processes_have_ended(shell: Shell, plane: FakePlane) -> None:
    children = [subprocess.Popen([sys.executable, "-c", "pass"]) for _ in range(2)]
    plane.pids = [child.pid for child in children]
    for child in children:
        child.wait()
    plane.pids += [os.getpid()]
    run = shell("down", "--timeout", "0.1", "--json")
    assert plane.went_down
    assert run.code == 1
    assert run.error["code"] == "deadline_exceeded"
    assert run.error["details"]["pids"] == [os.getpid()]


def test_devices(shell: Shell, plane: FakePlane) -> None:
    run = shell("device", "ls")
    assert "Made-up 9000" in run.out
    assert "libcuda" in run.out, "an absent driver is named with its reason"
    document = shell("device", "list", "--json").document
    assert [device["id"] for device in document["devices"]] == ["cpu"]
    assert "avx2" in shell("device", "show", "cpu").out
    assert shell("device", "show", "cpu", "--json").document["num_cores"] == 2


def test_an_unknown_device_is_answered_with_near_ones(shell: Shell, plane: FakePlane) -> None:
    run = shell("device", "show", "cpuu")
    assert run.code == 3
    assert "did you mean: cpu" in run.err


@pytest.mark.parametrize(
    "words",
    [
        ["down"],
        ["status"],
        ["device", "ls"],
        ["device", "show", "cpu"],
        ["ls"],
        ["show", "x"],
        ["rm", "x"],
        ["verify", "x"],
        ["serve", "x"],
        ["ps"],
        ["stop", "x"],
        ["logs", "x"],
        ["logs", "daemon"],
        ["pull", "."],
    ],
    ids=" ".join,
)
def test_without_a_node_every_verb_says_so(shell: Shell, words: list[str]) -> None:
    run = shell(*words)
    assert run.code == 5
    assert run.out == ""
    assert "thaloom up" in run.err
    assert shell(*words, "--json").error["code"] == "node_not_running"


@pytest.mark.parametrize("code", sorted(ERRORS))
def test_every_refusal_of_the_node_is_told_with_its_exit_code_hint_and_help(
    shell: Shell, plane: FakePlane, code: str
) -> None:
    leaf = ERRORS[code]
    plane.fail["models"] = leaf("said so", param="x", retry_after_s=2, size=7)
    run = shell("ls")
    assert run.code == leaf.exit_code
    assert run.out == ""
    assert "said so" in run.err
    assert "hint:" in run.err
    assert leaf("x").help_page in run.err
    assert "Traceback" not in run.err
    error = shell("ls", "--json").error
    assert (error["code"], error["details"], error["param"]) == (code, {"size": 7}, "x")
    assert error["exit_code"] == leaf.exit_code


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["vershon"], "version"),
        (["lst"], "list"),
        (["device", "shw"], "show"),
        (["ls", "--jso"], "--json"),
        (["show"], "MODEL"),
        (["run"], "MODEL"),
        (["run", "x", "--top-p", "2"], "--top-p"),
        (["serve", "x", "--kv-bytes", "many"], "--kv-bytes"),
        (["serve", "x", "--threads", "0"], "--threads"),
        (["run", "some/model", "hello"], "some/model"),
        (["rm", "x", "./folder"], "thaloom pull"),
        (["serve", "x", "--name", ""], "--name"),
        (["serve", "x", "--kv-bytes", "0"], "--kv-bytes"),
        (["run", "x", "y", "--temperature", "nan"], "--temperature"),
        (["serve", "x", "--timeout", "inf"], "--timeout"),
        (["run", "x", "caf\udce9"], "UTF-8"),
        (["completion", "tcsh"], "tcsh"),
        (["help", "nonsense"], "nonsense"),
        (["ls", "-o", "yaml"], "yaml"),
        (["ls", "extra"], "extra"),
    ],
    ids=lambda value: ascii(" ".join(value)) if isinstance(value, list) else value,
)
def test_a_command_line_that_cannot_be_read_names_what_is_wrong(shell: Shell, words: list[str], named: str) -> None:
    run = shell(*words)
    assert run.code == 2
    assert named in run.err
    assert run.out == ""


def test_a_wrong_command_line_is_json_where_json_was_asked_for(shell: Shell) -> None:
    for words in (["show", "--json"], ["show", "-o", "json"], ["show", "-ojson"], ["show", "--output=json"]):
        assert shell(*words).error["code"] == "bad_parameter"


def test_a_home_that_may_not_be_written_is_refused(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(**settings: object) -> None:
        raise PermissionError(13, "Permission denied", "/root/x")

    monkeypatch.setattr(nodes, "start_detached", denied)
    run = shell("up", "-d")
    assert run.code == 8
    assert "/root/x" in run.err


def test_a_home_that_is_a_file_is_named(shell: Shell, home: Path) -> None:
    home.touch()
    run = shell("up", "-d")
    assert run.code == 2
    assert str(home) in run.err


def test_a_home_begun_from_the_command_line_is_for_its_user_alone(
    shell: Shell, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _daemon(monkeypatch, "raise SystemExit(1)")
    shell("up", "-d")
    assert home.stat().st_mode & 0o077 == 0


def test_output_to_a_full_disk_says_so(home: Path) -> None:
    program = "import sys; from thaloom.user.cli import main; sys.exit(main(['version']))"
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([sys.executable, "-c", program], stdout=full, stderr=subprocess.PIPE, check=False)
    assert done.returncode == 7
    assert b"standard output" in done.stderr


def test_interrupt(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(nodes, "running", interrupted)
    run = shell("up")
    assert run.code == 130
    assert "interrupted" in run.err


def test_a_reader_that_leaves_early_ends_the_command_quietly(home: Path) -> None:
    program = "import sys; from thaloom.user.cli import main; sys.exit(main(['completion', 'bash']))"
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([sys.executable, "-c", program], stdout=writer, stderr=subprocess.PIPE, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")
