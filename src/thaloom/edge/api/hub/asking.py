"""What a request to the hub is for, read from its path as it travelled: names in it may hold an encoded slash."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal
from urllib.parse import unquote

from thaloom.base.errors import BadRequest, UnknownPath

View = Literal["info", "tree", "paths-info", "refs", "auth-check", "file"]
_PART = r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}"
_REPO = re.compile(rf"{_PART}(?:/{_PART})?")
API = "/api/models/"


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    view: View
    repo: str
    revision: str
    path: str = ""
    """Of a file or folder in the repository."""


def read_api(raw_path: str) -> Question:
    """`/api/models/REPO`, and behind it `/revision/REV`, `/tree/REV[/PATH]`, `/paths-info/REV`, `/refs`,
    `/auth-check`. Raises UnknownPath."""
    parts = raw_path.removeprefix(API).split("/")
    for count in (1, 2):
        repo, rest = "/".join(map(unquote, parts[:count])), parts[count:]
        if not rest and (count == 2 or len(parts) == 1):
            return Question(view="info", repo=_repo(repo), revision="main")
        match rest:
            case ["revision", revision]:
                return Question(view="info", repo=_repo(repo), revision=_text(revision))
            case ["tree", revision, *path]:
                return Question(view="tree", repo=_repo(repo), revision=_text(revision), path=_path(path))
            case ["paths-info", revision]:
                return Question(view="paths-info", repo=_repo(repo), revision=_text(revision))
            case ["refs" | "auth-check" as view]:
                return Question(view=view, repo=_repo(repo), revision="main")
    raise UnknownPath("the hub serves models, their revisions, trees, paths-info and refs; nothing else of a model")


def read_resolve(raw_path: str) -> Question:
    """`/REPO/resolve/REV/PATH`. Raises UnknownPath."""
    parts = raw_path.strip("/").split("/")
    for count in (1, 2):
        if parts[count : count + 1] == ["resolve"] and len(parts) > count + 2:
            repo = _repo("/".join(map(unquote, parts[:count])))
            return Question(view="file", repo=repo, revision=_text(parts[count + 1]), path=_path(parts[count + 2 :]))
    raise UnknownPath("files of the hub are at /REPOSITORY/resolve/REVISION/FILE")


def _repo(text: str) -> str:
    if not _REPO.fullmatch(text):
        raise UnknownPath(f"not the name of a repository: {text[:200]!r}")
    return text


def _path(parts: list[str]) -> str:
    return "/".join(map(_text, parts)).strip("/")


def _text(part: str) -> str:
    try:
        return unquote(part, errors="strict")
    except UnicodeDecodeError as error:
        raise BadRequest(f"not UTF-8 in the path: {part[:200]!r}") from error
