"""serve, ps, stop, logs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.unit.user_cli.conftest import Shell
from tests.unit.user_cli.fake_node import FakePlane
from thaloom.base.errors import OutOfMemory
from thaloom.kernel.state.types import ServiceSpec


def _wish(plane: FakePlane) -> ServiceSpec:
    (spec,) = (value for method, value in plane.asked if method == "serve")
    assert isinstance(spec, ServiceSpec)
    return spec


def test_serve_waits_until_it_answers(shell: Shell, plane: FakePlane) -> None:
    run = shell("serve", "tiny")
    assert run.code == 0
    assert run.out == "tiny is served at http://127.0.0.1:9/v1\n"
    assert _wish(plane) == ServiceSpec(name="tiny", model="tiny")  # type: ignore[arg-type]


def test_serve_hands_every_option_on(shell: Shell, plane: FakePlane) -> None:
    words = "serve tiny --name a --device cpu --threads 2 --context 64 --kv-bytes 2MiB --max-sequences 3 --max-queue 4"
    run = shell(
        *words.split(),
        "--kv-host-bytes",
        "8MiB",
        "--kv-disk-bytes",
        "1GiB",
        "--chunk-tokens",
        "5",
        "--prefix-reuse",
        "--pin-share",
        "0.25",
        "--kv",
        "i8",
        "--weights",
        "int8",
        "--speculation",
        "off",
        "--latency",
        "batch",
        "--keep-alive",
        "10m",
        "--priority",
        "low",
        "--token-time",
        "0.2",
        "--no-wait",
        "--json",
    )
    assert run.document["phase"] == "loading"
    assert _wish(plane) == ServiceSpec(
        name="a",  # type: ignore[arg-type]
        model="tiny",
        device="cpu",  # type: ignore[arg-type]
        num_threads=2,
        context_length=64,
        kv_bytes=2 * 2**20,
        kv_host_bytes=8 * 2**20,
        kv_disk_bytes=2**30,
        max_sequences=3,
        max_queue=4,
        chunk_tokens=5,
        prefix_reuse=True,
        pin_share=0.25,
        kv_dtype="i8",
        weights="int8",
        speculation="off",
        latency="batch",
        keep_alive_s=600.0,
        priority="low",
        token_s=0.2,
    )


@pytest.mark.parametrize(("said", "seconds"), [("0", 0.0), ("-1", -1.0), ("90", 90.0), ("12h", 43200.0)])
def test_serve_takes_durations_and_what_is_none(shell: Shell, plane: FakePlane, said: str, seconds: float) -> None:
    assert shell("serve", "tiny", "--no-wait", "--keep-alive", said).code == 0
    assert _wish(plane).keep_alive_s == seconds


@pytest.mark.parametrize("said", ["-2", "soon", "1.5h", ""])
def test_serve_refuses_what_is_no_duration(shell: Shell, said: str) -> None:
    run = shell("serve", "tiny", "--keep-alive", said)
    assert run.code == 2
    assert "15m" in run.err


@pytest.mark.parametrize("said", ["-0.1", "1.5", "nan", "half"])
def test_serve_refuses_what_is_no_share(shell: Shell, said: str) -> None:
    assert shell("serve", "tiny", "--pin-share", said).code == 2


@pytest.mark.parametrize("option", ["--weights", "--kv"])
def test_serve_refuses_a_format_that_does_not_exist(shell: Shell, option: str) -> None:
    run = shell("serve", "tiny", option, "int5")
    assert run.code == 2
    assert "int5" in run.err


def test_serve_tells_why_a_service_failed(shell: Shell, plane: FakePlane) -> None:
    plane.outcome = "failed"
    run = shell("serve", "tiny")
    assert run.code == 1
    assert "bad weights" in run.err
    assert "thaloom logs" in run.err


def test_serve_gives_up_in_time(shell: Shell, plane: FakePlane) -> None:
    plane.outcome = "loading"
    run = shell("serve", "tiny", "--timeout", "0.01", "--json")
    assert run.error["code"] == "deadline_exceeded"


def test_serve_what_does_not_fit(shell: Shell, plane: FakePlane) -> None:
    plane.fail["serve"] = OutOfMemory("9 GiB needed, 7 GiB free", needed_bytes=9, free_bytes=7)
    run = shell("serve", "tiny")
    assert run.code == 7
    assert "--context" in run.err


def test_serve_imports_the_bundled_model(shell: Shell, plane: FakePlane) -> None:
    plane.bundled = {"tiny"}
    plane.models_by_name.clear()
    run = shell("serve", "tiny:latest")
    assert run.code == 0
    assert ("pull", ("/bundled/tiny", None, False)) in plane.asked


def test_ps(shell: Shell, plane: FakePlane) -> None:
    plane.add_service("slow", "tiny", degraded=True)
    plane.pids = [11, 12, 13]
    run = shell("ps")
    assert run.code == 0
    assert "4242" in run.out
    assert "slow: Degraded: runs on NumPy (NoCompiler)" in run.out
    everything = shell("ps", "--all").out
    assert "door" in everything
    assert "12.3 s" in everything
    assert "5.7 s" in everything
    assert "standby" not in everything, "none waits"
    document = shell("ps", "--json").document
    assert [service["name"] for service in document["services"]] == ["chatty", "slow"]
    assert {process["role"]: process["pid"] for process in document["processes"]} == {
        "daemon": 11,
        "door": 12,
        "worker": 13,
    }


def test_what_is_not_as_wished_is_told_in_both_languages(
    shell: Shell, plane: FakePlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    plane.add_service("slow", "tiny", degraded=True)
    plane.add_service("short", "tiny", phase="pending", reason="OutOfMemory", message="'short' needs 3.0 GiB")
    plane.add_service("odd", "tiny", phase="pending", reason="ModelNotFound", message="no model 'x'")
    assert "short: 'short' needs 3.0 GiB\n" in shell("ps").out
    monkeypatch.setenv("THALOOM_LANG", "zh")
    for verb in ("ps", "status"):
        told = shell(verb).out
        assert "short: 内存暂时不足，会再次尝试 — 'short' needs 3.0 GiB\n" in told
        assert "odd: 没有这个模型 — no model 'x'\n" in told, "the name of an error has the error's title"
        assert "slow: Degraded: runs on NumPy (NoCompiler)" in told, "a reason that is not known is none the worse"


def test_ps_lists_the_worker_that_waits_in_both_languages(
    shell: Shell, plane: FakePlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    plane.pids = [11, 12, 13, 14]
    assert ["standby", "14"] in [line.split()[:2] for line in shell("ps", "-a").out.splitlines()]
    assert shell("ps", "--json").document["processes"][-1]["role"] == "standby"
    monkeypatch.setenv("THALOOM_LANG", "zh")
    rows = [line.split()[:2] for line in shell("ps", "-a").out.splitlines()]
    assert [row for row in rows if row[-1:] in (["11"], ["12"], ["13"], ["14"])] == [
        ["守护进程", "11"], ["门户", "12"], ["工作进程", "13"], ["待命进程", "14"]
    ]  # fmt: skip


def test_a_figure_nobody_has_is_no_zero(shell: Shell, plane: FakePlane) -> None:
    row = shell("ps").out.splitlines()[1].split()
    assert "-" in row, "resident memory nobody measured"


def test_ps_of_nothing_says_what_to_do(shell: Shell, plane: FakePlane) -> None:
    plane.services_by_name.clear()
    run = shell("ps")
    assert (run.code, run.out) == (0, "")
    assert "thaloom serve" in run.err


def test_stop(shell: Shell, plane: FakePlane) -> None:
    plane.add_service("other", "tiny")
    run = shell("stop", "chatty", "other")
    assert run.code == 0
    assert plane.services_by_name == {}
    assert run.out.splitlines() == ["Stopped chatty.", "Stopped other."]


def test_stop_of_what_is_not_served(shell: Shell, plane: FakePlane) -> None:
    run = shell("stop", "chattie", "chatty")
    assert run.code == 3
    assert "did you mean: chatty" in run.err
    assert plane.services_by_name == {}, "the other one is stopped all the same"


def test_logs_of_a_service(shell: Shell, plane: FakePlane) -> None:
    assert shell("logs", "chatty", "-n", "2").out.splitlines() == ["second", "third \x1b[31mred"]
    assert ("logs", ("chatty", False, 2)) in plane.asked
    assert shell("logs", "chatty", "--json").document["lines"][0] == "first"


def test_followed_logs_are_one_document_a_line(shell: Shell, plane: FakePlane) -> None:
    lines = shell("logs", "chatty", "-f", "--json").out.splitlines()
    assert [json.loads(line)["line"] for line in lines] == plane.log_lines


def test_logs_of_an_unknown_service(shell: Shell, plane: FakePlane) -> None:
    run = shell("logs", "deamon")
    assert run.code == 3
    assert "did you mean: daemon" in run.err


def test_own_logs_can_be_read_without_a_node(shell: Shell, home: Path) -> None:
    (home / "logs").mkdir(parents=True)
    (home / "logs" / "daemon.log").write_text("one\ntwo\nthree\n")
    assert shell("logs", "daemon", "-n", "2").out == "two\nthree\n"
    assert shell("logs", "daemon", "-n", "0").out == ""
    assert shell("logs", "daemon", "--json").document == {"name": "daemon", "lines": ["one", "two", "three"]}


def test_a_followed_log_gives_whole_lines_as_they_come(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from thaloom.user.cli import logs

    path = home / "door.log"
    home.mkdir()
    path.write_text("old\n")
    coming = iter(["half", " a line\n", "next\n"])

    def no_sleep(seconds: float) -> None:
        with path.open("a") as file:
            file.write(next(coming))

    monkeypatch.setattr(logs.time, "sleep", no_sleep)
    lines = logs._of_file(path, follow=True, tail=10)
    assert [next(lines) for _ in range(3)] == ["old", "half a line", "next"]


def test_a_log_emptied_while_it_is_followed_begins_anew(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from thaloom.user.cli import logs

    path = home / "door.log"
    home.mkdir()
    path.write_text("a long line of an earlier time\n")
    coming = iter(["", "new\n"])
    monkeypatch.setattr(logs.time, "sleep", lambda _: path.write_text(next(coming)))
    lines = logs._of_file(path, follow=True, tail=0)
    assert next(lines) == "new"
