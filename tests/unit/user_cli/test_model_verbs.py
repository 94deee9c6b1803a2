"""pull, ls, show, quantize, rm, verify."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from tests.unit.user_cli.conftest import Shell
from tests.unit.user_cli.fake_node import FakePlane
from thaloom.base.errors import DiskFull, ModelInUse, UnsafeFormat
from thaloom.kernel.models.types import FileFault, ModelName, Quality, Quantisation, QuantiseWish


def test_ls(shell: Shell, plane: FakePlane) -> None:
    for word in ("ls", "list"):
        run = shell(word)
        assert run.code == 0
        assert run.out.splitlines()[0].split()[0] == "NAME"
        assert "4.2M" in run.out
    assert [model["name"] for model in shell("ls", "--json").document["models"]] == ["tiny", "chatty"]


def test_an_empty_store_says_what_to_do(shell: Shell, plane: FakePlane) -> None:
    plane.models_by_name.clear()
    run = shell("ls")
    assert (run.code, run.out) == (0, "")
    assert "thaloom pull" in run.err
    assert shell("ls", "--json").document == {"models": []}


def test_show(shell: Shell, plane: FakePlane) -> None:
    run = shell("show", "tiny")
    assert "model.safetensors" in run.out
    assert "A model of nobody." in run.out
    assert shell("show", "tiny", "--json").document["digest"] == "a" * 64


def test_show_says_what_was_converted_and_never_calls_unmeasured_fine(shell: Shell, plane: FakePlane) -> None:
    made = Quantisation(source="GGUF", original="c" * 64, tensors={"Q4_K to int8": 7}, relative_error=0.0012)
    card = dataclasses.replace(plane.models_by_name["tiny"].card, quantisation=made)
    plane.models_by_name["tiny"] = dataclasses.replace(plane.models_by_name["tiny"], card=card)
    shown = shell("show", "tiny").out
    assert "from GGUF cccccccccccc, values changed by 0.12%" in shown
    assert "not measured" in shown
    found = Quality(text="made up", num_tokens=512, perplexity=10.1, original_perplexity=10.0, mean_kl=0.01)
    card = dataclasses.replace(card, quantisation=dataclasses.replace(made, relative_error=0.0, quality=found))
    plane.models_by_name["tiny"] = dataclasses.replace(plane.models_by_name["tiny"], card=card)
    shown = shell("show", "tiny").out
    assert "every number as it was" in shown
    assert "perplexity 10.1, of the original 10; mean KL 0.01" in shown
    assert shell("show", "tiny", "--json").document["card"]["quantisation"]["tensors"] == {"Q4_K to int8": 7}


@pytest.mark.parametrize("verb", ["show", "rm", "verify", "serve", "run"])
def test_an_unknown_model_is_answered_with_near_ones(shell: Shell, plane: FakePlane, verb: str) -> None:
    words = [verb, "chaty"] + (["hello"] if verb == "run" else [])
    run = shell(*words)
    assert run.code == 3
    assert "did you mean: chatty" in run.err
    assert shell(*words, "--json").error["details"]["near"] == ["chatty"]


def test_a_name_that_is_none_is_refused(shell: Shell, plane: FakePlane) -> None:
    run = shell("show", "No Such!")
    assert run.code == 2
    assert "not a model name" in run.err


def test_pull_hands_the_node_an_absolute_path(
    shell: Shell, plane: FakePlane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path)
    run = shell("pull", "mine", "--name", "new", "--replace")
    assert run.code == 0
    assert "Imported new" in run.out
    assert ("pull", (str(tmp_path / "mine"), "new", True)) in plane.asked
    assert shell("pull", "./mine", "--json").document["name"] == "mine"


def test_pull_of_nothing_names_the_path(shell: Shell, plane: FakePlane, tmp_path: Path) -> None:
    for words in (str(tmp_path / "absent"), "absent"):
        run = shell("pull", words, "--json")
        assert run.code == 2
        assert run.error["details"]["path"].endswith("/absent")
    assert not any(method == "pull" for method, _ in plane.asked)


def test_pull_takes_the_name_of_a_model_that_came_with_thaloom(shell: Shell, plane: FakePlane) -> None:
    plane.bundled = {"tiny"}
    plane.models_by_name.clear()
    assert shell("pull", "tiny", "--json").document["name"] == "tiny"
    assert ("pull", ("/bundled/tiny", None, False)) in plane.asked


@pytest.mark.parametrize(
    ("error", "code"), [(DiskFull("1 GiB needed, 1 MiB free"), 7), (UnsafeFormat("weights.bin is a pickle"), 6)]
)
def test_what_the_node_refuses_to_import(
    shell: Shell, plane: FakePlane, tmp_path: Path, error: Exception, code: int
) -> None:
    plane.fail["pull"] = error  # type: ignore[assignment]
    run = shell("pull", str(tmp_path))
    assert run.code == code
    assert str(error) in run.err


def test_quantize_tells_what_was_lost(shell: Shell, plane: FakePlane, tmp_path: Path) -> None:
    run = shell("quantize", "tiny", "--to", "int8")
    assert run.code == 0
    assert "Made tiny-int8" in run.out
    assert "perplexity 10.1, of the original 10" in run.out
    (tmp_path / "text").write_text("words")
    made = shell(
        "quantise", "tiny", "--to", "int4", "--name", "small:v2", "--replace", "--text", str(tmp_path / "text")
    )
    assert made.code == 0
    tiny = ModelName("tiny")
    assert [wish for method, wish in plane.asked if method == "quantise"] == [
        QuantiseWish(model=tiny, to="int8", name=ModelName("tiny-int8")),
        QuantiseWish(model=tiny, to="int4", name=ModelName("small", "v2"), replace=True, text=str(tmp_path / "text")),
    ]
    assert shell("quantize", "tiny", "--to", "int8", "--json").document["card"]["quantisation"]["source"] == "here"


def test_quantize_refuses_what_it_cannot_do(shell: Shell, plane: FakePlane) -> None:
    assert shell("quantize", "tiny").code == 2
    assert shell("quantize", "tiny", "--to", "int3").code == 2
    assert shell("quantize", "absent", "--to", "int8").code == 3
    assert shell("quantize", "tiny", "--to", "int8", "--text", "/no/such/text").code == 2


def test_rm_removes_what_it_can_and_tells_of_the_rest(shell: Shell, plane: FakePlane) -> None:
    run = shell("rm", "absent", "tiny", "--json")
    assert run.document == {"removed": ["tiny"]}
    assert run.code == 3
    assert run.error["code"] == "model_not_found"
    assert "tiny" not in plane.models_by_name


def test_rm_tells_of_every_one_it_could_not(shell: Shell, plane: FakePlane) -> None:
    run = shell("rm", "one", "two")
    assert "'one'" in run.err
    assert "'two'" in run.err


def test_rm_of_a_model_in_use(shell: Shell, plane: FakePlane) -> None:
    plane.fail["remove_model"] = ModelInUse("'tiny' is served as 'tiny'")
    run = shell("rm", "tiny")
    assert run.code == 4
    assert "thaloom stop" in run.err


def test_verify(shell: Shell, plane: FakePlane) -> None:
    run = shell("verify", "tiny")
    assert run.code == 0
    assert "sound" in run.out
    assert shell("verify", "tiny", "--json").document["sound"] is True


def test_verify_names_altered_files(shell: Shell, plane: FakePlane) -> None:
    plane.faults = (FileFault(path="model.safetensors", problem="altered", message="chunk 2 has another digest"),)
    run = shell("verify", "tiny")
    assert run.code == 6
    assert "model.safetensors" in run.out
    assert "model.safetensors" in run.err
    run = shell("verify", "tiny", "--json")
    assert run.document["faults"][0]["problem"] == "altered"
    assert run.error["details"]["files"] == ["model.safetensors"]
