"""The variables a program starts with, and its secrets."""

from __future__ import annotations

from pathlib import Path

import pytest

from thaloom.base.errors import BadParameter
from thaloom.base.ids import JobName
from thaloom.init.jobs.environment import MARK, secrets, variables
from thaloom.kernel.state.jobs.types import JobSpec


def spec(env: dict[str, str] | None = None, **secrets: str) -> JobSpec:
    return JobSpec(name=JobName("a"), command=("true",), env=env or {}, secrets=secrets)


def test_it_gets_few_of_ours_and_its_own_over_them() -> None:
    inherited = {"PATH": "/bin", "LANG": "C", "AWS_SECRET": "x", "LD_PRELOAD": "y"}
    found = variables(
        spec({"HOME": "/own", MARK: "faked"}),
        attempt=2,
        folder="/work",
        mark="m/a/2",
        devices=("virtual:0",),
        inherited=inherited,
    )
    assert found == {
        "LANG": "C",
        "PATH": "/bin",
        "HOME": "/own",
        "PWD": "/work",
        "THALOOM_JOB": "a",
        "THALOOM_JOB_ATTEMPT": "2",
        "THALOOM_DEVICES": "virtual:0",
        MARK: "m/a/2",
    }


def test_secrets_are_read_from_where_they_are(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("one\n")
    (tmp_path / "credentials").mkdir()
    (tmp_path / "credentials" / "db").write_text("two")
    wish = spec(A=f"file:{tmp_path / 'token'}", B="credential:db", C="env:OURS")
    inherited = {"CREDENTIALS_DIRECTORY": str(tmp_path / "credentials"), "OURS": "three"}
    assert secrets(wish, inherited) == {"A": "one", "B": "two", "C": "three"}


@pytest.mark.parametrize(
    "place", ["file:/no/such/file", "credential:db", "env:NOT_THERE", "file:{zero}", "file:{long}"]
)
def test_one_that_cannot_be_read_is_named_and_never_told(place: str, tmp_path: Path) -> None:
    (tmp_path / "zero").write_text("s3cret\0")
    (tmp_path / "long").write_text("s3cret" * 10_000)
    wish = spec(A=place.format(zero=tmp_path / "zero", long=tmp_path / "long"))
    with pytest.raises(BadParameter) as caught:
        secrets(wish, {})
    assert caught.value.param == "secrets"
    assert "s3cret" not in caught.value.message
