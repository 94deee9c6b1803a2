"""Manifests on disk: one JSON file for each name and tag, written last and removed first.

`manifests/<name>/<tag>.json`. A model is in the store exactly when its manifest is.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from thaloom.base.config import from_mapping
from thaloom.base.errors import BadParameter, CorruptObject
from thaloom.base.files import PARTIAL, sync_folder, write_atomic
from thaloom.base.ids import Digest
from thaloom.kernel.models.objects import digest_of, is_digest
from thaloom.kernel.models.types import FileEntry, Manifest, ModelName

VERSION, ENCRYPTED_VERSION = 1, 2
"""Of the file's layout. A reader refuses any other; 2: an encrypted model, which an older Thaloom cannot read."""


def digest_of_files(files: tuple[FileEntry, ...]) -> Digest:
    """What a model's digest is: SHA-256 of the canonical text of its list of files, ordered by path."""
    entries = [dataclasses.asdict(file) for file in sorted(files, key=lambda file: file.path)]
    return digest_of(_canonical(entries))


def encode(manifest: Manifest) -> bytes:
    facts = dataclasses.asdict(manifest)
    version = ENCRYPTED_VERSION if facts.pop("encrypted") else VERSION
    return _canonical({"version": version} | facts) + b"\n"


def decode(text: bytes) -> Manifest:
    """Raises ValueError with the reason if `text` is not a manifest, or not the one it says it is."""
    try:
        data = json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    version = data.pop("version", None) if isinstance(data, dict) else None
    if version not in (VERSION, ENCRYPTED_VERSION) or "encrypted" in data:
        raise ValueError(f"not a manifest of version {VERSION} or {ENCRYPTED_VERSION}")
    try:
        manifest = from_mapping(Manifest, data | {"encrypted": version == ENCRYPTED_VERSION})
    except BadParameter as error:
        raise ValueError(error.message) from error
    if not all(is_digest(file.tree) and is_digest(file.sha256) for file in manifest.files):
        raise ValueError("a digest in it is none")
    if digest_of_files(manifest.files) != manifest.digest:
        raise ValueError("its list of files does not have the digest it states")
    return manifest


class Manifests:
    """The folder of manifests."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, name: ModelName) -> Path:
        return self.folder / name.name / f"{name.tag}.json"

    def read(self, name: ModelName) -> Manifest | None:
        """None if there is none. Raises CorruptObject if it is damaged."""
        path = self.path(name)
        try:
            manifest = decode(path.read_bytes())
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise CorruptObject(f"the manifest of model {str(name)!r} cannot be read: {error.strerror}") from error
        except ValueError as error:
            raise CorruptObject(f"the manifest of model {str(name)!r} is damaged: {error}", file=str(path)) from error
        if manifest.name != name:
            raise CorruptObject(
                f"the manifest of model {str(name)!r} is that of {str(manifest.name)!r}", file=str(path)
            )
        return manifest

    def write(self, manifest: Manifest) -> None:
        """Put it in place, durably. One writer at a time (see `locks`). Raises DiskFull."""
        path = self.path(manifest.name)
        path.parent.mkdir(parents=True, exist_ok=True)
        sync_folder(self.folder)
        sync_folder(self.folder.parent)
        write_atomic(path, encode(manifest))

    def delete(self, name: ModelName) -> None:
        path = self.path(name)
        path.unlink(missing_ok=True)
        if path.parent.is_dir():
            sync_folder(path.parent)
        with contextlib.suppress(OSError):  # other tags are there
            path.parent.rmdir()

    def names(self) -> Iterator[ModelName]:
        """Every name that has a manifest file, sound or not."""
        for path in self._files(".json"):
            try:
                yield ModelName(path.parent.name, path.stem)
            except BadParameter:
                continue  # a file somebody else put here

    def partials(self) -> Iterator[Path]:
        yield from self._files(PARTIAL)

    def _files(self, suffix: str) -> Iterator[Path]:
        for folder in _listed(self.folder):
            yield from (path for path in _listed(folder) if path.name.endswith(suffix))


def _listed(folder: Path) -> list[Path]:
    """What is in a folder; nothing if it is none, or was removed just now with the last of its tags."""
    try:
        return sorted(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
