"""By which names the store's models are repositories of our hub, and which revisions those have. Pure.

A model `name:tag` is the repository `name`: its revision `main` if the tag is `latest`, else the tag. One that was
pulled, and is what it was at its hub, is that repository too (`org/name`), and its commit there is a revision. The
newest of several is `main`. A commit of ours is the first 40 digits of a manifest's digest: clients know commits by
having so many. The whole digest is taken as well.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import unquote

from thaloom.kernel.models.types import Manifest

COMMIT_DIGITS = 40
MAIN = "main"
_PULLED = re.compile(
    r"(?:(?:hf|ms)://|https?://[^/]+/(?:models/)?)(?P<repo>[^/@]+(?:/[^/@]+)?)(?:@|/resolve/)"
    r"(?:[^#:/]+#)?(?P<commit>[0-9a-f]{40,64})"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Repository:
    """One model under one name of the hub."""

    repo: str
    manifest: Manifest
    upstream_commit: str | None

    @property
    def commit(self) -> str:
        return self.manifest.digest[:COMMIT_DIGITS]

    @property
    def revision(self) -> str:
        """The name of its version: a tag of the store."""
        return MAIN if self.manifest.name.tag == "latest" else self.manifest.name.tag


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """A repository at what somebody asked for."""

    repository: Repository
    commit: str
    """As it was asked for, where that is a commit; else ours."""

    @property
    def manifest(self) -> Manifest:
        return self.repository.manifest


def repositories(manifests: Sequence[Manifest]) -> list[Repository]:
    """Every name of every model, the newest model first."""
    found = []
    for manifest in sorted(manifests, key=lambda manifest: manifest.created_at, reverse=True):
        own = Repository(repo=manifest.name.name, manifest=manifest, upstream_commit=None)
        pulled = _PULLED.fullmatch(manifest.source) if manifest.card.quantisation is None else None
        if pulled is not None:
            found.append(Repository(repo=unquote(pulled["repo"]), manifest=manifest, upstream_commit=pulled["commit"]))
        if pulled is None or pulled["repo"] != own.repo:
            found.append(own)
    return found


def named(manifests: Sequence[Manifest], repo: str) -> list[Repository]:
    return [repository for repository in repositories(manifests) if repository.repo == repo]


def version_of(repositories: Sequence[Repository], revision: str) -> Version | None:
    """The version of that revision among those of one name; None if there is none."""
    for repository in repositories:
        if repository.revision == revision:
            return Version(repository=repository, commit=repository.commit)
    for repository in repositories:
        if revision in (repository.commit, repository.manifest.digest, repository.upstream_commit):
            return Version(repository=repository, commit=revision[:COMMIT_DIGITS])
    if revision == MAIN and repositories:  # nothing is called so: the newest is what a mirror would have there
        return Version(repository=repositories[0], commit=repositories[0].commit)
    return None
