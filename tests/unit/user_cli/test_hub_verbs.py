"""pull from a hub, ls --partial, rm --partial, outgoing."""

from __future__ import annotations

import json
import signal
import threading
from pathlib import Path

import pytest

from tests.unit.user_cli.conftest import Shell
from tests.unit.user_cli.fake_node import NOW, FakePlane
from thaloom.base.air_gap import RefusedCall
from thaloom.base.errors import AirGapped, SourceUnavailable, UntrustedSource
from thaloom.edge.wire.control import Progress
from thaloom.kernel.models.types import HubSettings, UnfinishedPull
from thaloom.user.cli.progress import Pace, bar

HUB_VARIABLES = ("HF_ENDPOINT", "HF_TOKEN", "HF_HUB_OFFLINE", "MODELSCOPE_ENDPOINT", "MODELSCOPE_API_TOKEN")


@pytest.fixture(autouse=True)
def _no_hubs(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in HUB_VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("source", "model"),
    [
        ("org/name", "hf://org/name@main"),
        ("org/name@v1:Q4_K_M", "hf://org/name@v1:Q4_K_M"),
        ("hf://name", "hf://name@main"),
        ("ms://org/name", "ms://org/name@master"),
        ("https://hub.example/org/name", "hf://org/name@main"),
    ],
)
def test_a_hubs_model_is_handed_on_as_it_is_written(shell: Shell, plane: FakePlane, source: str, model: str) -> None:
    run = shell("pull", source, "--name", "mine", "--json")
    assert run.code == 0, run.err
    assert plane.asked[-1] == ("pull_from_hub", (model, HubSettings(), "mine", False))


def test_a_folder_of_that_name_goes_before(
    shell: Shell, plane: FakePlane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "org" / "name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert shell("pull", "org/name").code == 0
    assert shell("pull", "hf://org/name").code == 0
    assert [method for method, _ in plane.asked] == ["pull", "pull_from_hub"]


@pytest.mark.parametrize("path", ["./org/name", "/org/name", "~/org/name", "org/name/more", "../name"])
def test_what_looks_like_a_path_is_one(shell: Shell, plane: FakePlane, path: str) -> None:
    run = shell("pull", path)
    assert run.code == 2
    assert "no such file or folder" in run.err
    assert plane.asked == []


def test_the_environment_goes_with_it(shell: Shell, plane: FakePlane, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in zip(HUB_VARIABLES, ("https://m", "hf_x", "1", "https://n", "ms_x"), strict=True):
        monkeypatch.setenv(name, value)
    shell("pull", "org/name")
    settings = HubSettings(
        hf_endpoint="https://m", hf_token="hf_x", offline=True, ms_endpoint="https://n", ms_token="ms_x"
    )
    assert plane.asked[-1][1] == ("hf://org/name@main", settings, None, False)


def test_progress_as_json_lines(shell: Shell, plane: FakePlane) -> None:
    run = shell("pull", "org/name", "--progress", "json", "--json")
    steps = [json.loads(line) for line in run.err.splitlines()]
    assert {step["kind"] for step in steps} == {"progress"}
    assert run.document["name"] == "pulled"
    assert shell("pull", "org/name", "--progress", "none").err == ""


def test_ctrl_c_says_that_the_node_goes_on(shell: Shell, plane: FakePlane) -> None:
    plane.interrupt = lambda: signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
    run = shell("pull", "org/name")
    assert run.code == 130
    assert "thaloom rm --partial org/name" in run.err


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (AirGapped("not sent"), 8),
        (UntrustedSource("it lies", rule="bad_path"), 6),
        (SourceUnavailable("gone", retry_after_s=7), 5),
    ],
)
def test_what_a_pull_ends_with(shell: Shell, plane: FakePlane, error: Exception, code: int) -> None:
    plane.fail["pull_from_hub"] = error  # type: ignore[assignment]
    run = shell("pull", "org/name")
    assert run.code == code
    assert str(error) in run.err


def test_unfinished_pulls(shell: Shell, plane: FakePlane) -> None:
    run = shell("ls", "--partial")
    assert (run.code, run.out) == (0, "")
    plane.unfinished = [
        UnfinishedPull(source="hf://a/b@main", commit="c0" * 20, done_bytes=1 << 20, total_bytes=2 << 20, begun_at=NOW),
        UnfinishedPull(source="x", commit="c", done_bytes=0, total_bytes=1, begun_at=NOW, running=True),
    ]
    run = shell("ls", "--partial")
    assert "hf://a/b@main" in run.out
    assert "1.0 MiB" in run.out
    assert "interrupted" in run.out
    assert "pulling" in run.out
    assert shell("ls", "--partial", "--json").document["pulls"][0]["done_bytes"] == 1 << 20
    assert shell("rm", "--partial", "hf://a/b@main").out == "Removed hf://a/b@main.\n"
    assert shell("rm", "--partial", "nothing").code == 3


def test_outgoing(shell: Shell, plane: FakePlane) -> None:
    run = shell("outgoing")
    assert "may leave" in run.out
    plane.closed = "air_gap is on"
    plane.refused = [
        RefusedCall(time=NOW, purpose="pull a/b", method="GET", url="https://hub/x", reason="air_gap is on")
    ]
    run = shell("outgoing")
    assert "air_gap is on" in run.out
    assert "GET https://hub/x" in run.out
    document = shell("outgoing", "--json").document
    assert document["refused"][0]["url"] == "https://hub/x"


def test_the_pace_is_that_of_the_last_seconds() -> None:
    now = 0.0
    pace = Pace(lambda: now)

    def at(moment: float, done: int, stage: str = "pulling") -> tuple[float | None, float | None]:
        nonlocal now
        now = moment
        return pace.of(Progress(stage=stage, done_bytes=done, total_bytes=1000))

    assert at(0.0, 500) == (None, None), "what was there before is no speed"
    assert at(0.1, 510) == (None, None)
    assert at(1.0, 600) == (100.0, 4.0)
    assert at(100.0, 600)[1] is None or at(100.0, 600)[0] == 0.0
    assert at(101.0, 0, "importing") == (None, None)
    assert "100 B/s, 4s left" in bar("x", Progress(stage="pulling", done_bytes=600, total_bytes=1000), 100.0, 4.0)
