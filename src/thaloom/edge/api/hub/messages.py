"""The hub's answers, as Hugging Face's clients read them.

Every file is told as a large one (`lfs`), for it is the SHA-256 that the store knows of it; what is its git object is
then the pointer, three lines that name that digest.
Source: huggingface_hub 2.4.0, hf_api.py (ModelInfo, RepoFile, RepoFolder); Git LFS, docs/spec.md, "The Pointer".
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from thaloom.edge.api.hub.naming import Repository, Version
from thaloom.kernel.models.types import FileEntry


def model_info(version: Version, *, blobs: bool) -> dict[str, Any]:
    manifest = version.manifest
    author, slash, _ = version.repository.repo.partition("/")
    config: dict[str, Any] = {}
    if manifest.card.architecture:
        config["architectures"] = [manifest.card.architecture]
    if manifest.card.family:
        config["model_type"] = manifest.card.family
    return {
        "_id": manifest.digest[:24],
        "id": version.repository.repo,
        "modelId": version.repository.repo,
        **({"author": author} if slash else {}),
        "sha": version.commit,
        "private": False,
        "gated": False,
        "disabled": False,
        "createdAt": date(manifest.created_at),
        "lastModified": date(manifest.created_at),
        "tags": tags(version.repository),
        "config": config,
        "usedStorage": manifest.total_bytes,
        "siblings": [_sibling(file, blobs=blobs) for file in manifest.files],
    }


def tags(repository: Repository) -> list[str]:
    card = repository.manifest.card
    weights = any(file.path.endswith(".safetensors") for file in repository.manifest.files)
    return [
        *(["safetensors"] if weights else []),
        *([card.family] if card.family else []),
        *([f"license:{card.license}"] if card.license else []),
    ]


def tree(version: Version, folder: str, *, recursive: bool, expand: bool) -> list[dict[str, Any]] | None:
    """What is in a folder (empty: the top); None if there is no such folder."""
    prefix = f"{folder}/" if folder else ""
    inside = [file for file in version.manifest.files if file.path.startswith(prefix)]
    if folder and not inside:
        return None
    entries: dict[str, dict[str, Any]] = {}
    for file in inside:
        parts = file.path.removeprefix(prefix).split("/")
        for count in range(1, len(parts) if recursive else min(2, len(parts))):
            path = prefix + "/".join(parts[:count])
            entries.setdefault(path, _folder(path, inside))
        if recursive or len(parts) == 1:
            entries[file.path] = file_entry(file)
    last = {"lastCommit": _last_commit(version)} if expand else {}
    return [entries[path] | last for path in sorted(entries)]


def paths_info(version: Version, paths: Iterable[str], *, expand: bool) -> list[dict[str, Any]]:
    """What is known of these paths; those that are not there are left out, as clients expect."""
    everything = {entry["path"]: entry for entry in tree(version, "", recursive=True, expand=expand) or []}
    return [everything[path] for path in dict.fromkeys(path.strip("/") for path in paths) if path in everything]


def refs(versions: Sequence[Repository]) -> dict[str, Any]:
    """Tags of the store are told as tags; `main` is the one branch."""
    newest = next((repository for repository in versions if repository.revision == "main"), versions[0])
    others = [repository for repository in versions if repository.revision != "main"]
    return {
        "branches": [{"name": "main", "ref": "refs/heads/main", "targetCommit": newest.commit}],
        "converts": [],
        "tags": [
            {"name": other.revision, "ref": f"refs/tags/{other.revision}", "targetCommit": other.commit}
            for other in others
        ],
    }


def file_entry(file: FileEntry) -> dict[str, Any]:
    pointer = _pointer(file)
    return {
        "type": "file",
        "path": file.path,
        "size": file.num_bytes,
        "oid": _blob_id(pointer),
        "lfs": {"oid": file.sha256, "size": file.num_bytes, "pointerSize": len(pointer)},
    }


def date(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


def _sibling(file: FileEntry, *, blobs: bool) -> dict[str, Any]:
    if not blobs:
        return {"rfilename": file.path}
    pointer = _pointer(file)
    return {
        "rfilename": file.path,
        "size": file.num_bytes,
        "blobId": _blob_id(pointer),
        "lfs": {"sha256": file.sha256, "size": file.num_bytes, "pointerSize": len(pointer)},
    }


def _folder(path: str, files: Sequence[FileEntry]) -> dict[str, Any]:
    listed = "\n".join(f"{file.path} {file.sha256}" for file in files if file.path.startswith(f"{path}/"))
    return {"type": "directory", "path": path, "size": 0, "oid": hashlib.sha1(listed.encode()).hexdigest()}


def _last_commit(version: Version) -> dict[str, Any]:
    return {"id": version.commit, "title": "As stored", "date": date(version.manifest.created_at)}


def _pointer(file: FileEntry) -> bytes:
    lines = ("version https://git-lfs.github.com/spec/v1", f"oid sha256:{file.sha256}", f"size {file.num_bytes}")
    return ("\n".join(lines) + "\n").encode()


def _blob_id(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
