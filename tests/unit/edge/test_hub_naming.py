"""By which names and revisions the hub knows the store's models."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from thaloom.base.ids import Digest
from thaloom.edge.api.hub.asking import read_api, read_resolve
from thaloom.edge.api.hub.naming import named, repositories, version_of
from thaloom.kernel.models.types import Manifest, ModelCard, ModelName, Quantisation

UP = "ab" * 20
CARD = ModelCard(
    architecture="", family="", num_parameters=0, dtypes=(), weight_bytes=0, context_length=None, vocab_size=None,
    has_tokenizer=False, has_chat_template=False,
)  # fmt: skip
CONVERTED = Quantisation(source="GGUF", original="f" * 64, tensors={}, relative_error=0.0)


def manifest(name: str, source: str = "/a/folder", *, at: float = 1.0, letter: str = "1", card: Any = CARD) -> Manifest:
    return Manifest(
        name=ModelName.parse(name), digest=Digest(letter * 64), files=(), card=card, created_at=at, source=source
    )


@pytest.mark.parametrize(
    ("source", "repo"),
    [
        (f"hf://org/Name@{UP}", "org/Name"),
        (f"hf://gpt@{UP}", "gpt"),
        (f"ms://org/name@master#{'cd' * 32}", "org/name"),
        (f"https://mirror.example/org/name/resolve/{UP}", "org/name"),
        (f"http://127.0.0.1:1/models/org/name/resolve/master#{'cd' * 32}", "org/name"),
    ],
)
def test_a_pulled_model_is_its_repository_too(source: str, repo: str) -> None:
    found = repositories([manifest("mine", source)])
    assert [repository.repo for repository in found] == [repo, "mine"]
    assert version_of(named([manifest("mine", source)], repo), "main") is not None


@pytest.mark.parametrize(
    "source",
    ["/home/x/org/name", f"hf://org/name@{UP}:m.gguf", "hf://org/name@main", f"hf://a/b/c@{UP}", "hf://@" + UP],
)
def test_what_is_not_a_repository_is_not_said_to_be_one(source: str) -> None:
    assert [repository.repo for repository in repositories([manifest("mine", source)])] == ["mine"]


def test_a_converted_model_is_not_what_its_makers_published() -> None:
    made = manifest("mine", f"hf://org/name@{UP}", card=dataclasses.replace(CARD, quantisation=CONVERTED))
    assert [repository.repo for repository in repositories([made])] == ["mine"]


def test_revisions() -> None:
    models = [
        manifest("m", f"hf://org/m@{UP}", at=2.0, letter="1"),
        manifest("m:v1", f"hf://org/m@{'cd' * 20}", at=3.0, letter="2"),
        manifest("other", at=9.0, letter="3"),
    ]

    def commit(repo: str, revision: str) -> str | None:
        version = version_of(named(models, repo), revision)
        return None if version is None else version.commit

    assert commit("m", "main") == "1" * 40
    assert commit("m", "v1") == "2" * 40
    assert commit("m", "2" * 64) == commit("m", "2" * 40) == "2" * 40
    assert commit("m", "3" * 40) is None
    assert commit("m", UP) is None, "its hub's commits are revisions under its hub's name"
    assert commit("org/m", UP) == UP
    assert commit("org/m", "nothing") is None
    assert commit("nothing", "main") is None
    only_tagged = [models[1]]
    version = version_of(named(only_tagged, "org/m"), "main")
    assert version is not None
    assert version.commit == "2" * 40, "nothing is called main: the newest is what a mirror would have there"


@pytest.mark.parametrize(
    ("path", "view", "repo", "revision", "inside"),
    [
        ("/api/models/a", "info", "a", "main", ""),
        ("/api/models/a/b", "info", "a/b", "main", ""),
        ("/api/models/a%2Fb", "info", "a/b", "main", ""),
        ("/api/models/a/revision/refs%2Fpr%2F1", "info", "a", "refs/pr/1", ""),
        ("/api/models/a/b/tree/main/x/y", "tree", "a/b", "main", "x/y"),
        ("/api/models/a/b/tree/main/x%2Fy", "tree", "a/b", "main", "x/y"),
        ("/api/models/a/b/refs", "refs", "a/b", "main", ""),
        ("/api/models/a/auth-check", "auth-check", "a", "main", ""),
        ("/api/models/a/b/auth-check", "auth-check", "a/b", "main", ""),
    ],
)
def test_paths_of_the_api(path: str, view: str, repo: str, revision: str, inside: str) -> None:
    question = read_api(path)
    assert (question.view, question.repo, question.revision, question.path) == (view, repo, revision, inside)


def test_paths_of_files() -> None:
    question = read_resolve("/a/b/resolve/refs%2Fpr%2F1/x/y%20z.json")
    assert (question.repo, question.revision, question.path) == ("a/b", "refs/pr/1", "x/y z.json")
    assert read_resolve("/a/resolve/main/resolve/main/x").path == "resolve/main/x"
