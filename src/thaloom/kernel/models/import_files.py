"""Which files of a folder make the model: weights in safetensors and the small files beside them, nothing else."""

from __future__ import annotations

import fnmatch
import json
import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, Any

from thaloom.base.errors import BadParameter, CorruptObject, MalformedFile, NotServable, UnsafeFormat
from thaloom.kernel.models.import_sums import SUMS, parse_sums
from thaloom.kernel.models.objects import is_digest

WEIGHTS = ".safetensors"
INDEX = "model.safetensors.index.json"
PICKLES = frozenset(
    {".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".dill", ".npy", ".npz", ".mar", ".nemo", ".h5"}
)
"""Formats that are pickles, may hold pickles, or may hold code that runs on load."""
KEPT = (
    "*.json", "*.jinja", "*.txt", "*.md", "*.model",
    "LICENSE*", "LICENCE*", "NOTICE*", "COPYING*", "README*", "MODEL_CARD*", "USE_POLICY*",
)  # fmt: skip
"""Configuration, tokenizers, templates and documents. `*.model` is SentencePiece: a protobuf, which runs nothing."""
MAX_JSON_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceFile:
    """One file to take: its path in the model, and where its bytes are now."""

    path: str
    source: Path
    num_bytes: int
    modified_ns: int

    def open(self) -> IO[bytes]:
        """Unbuffered. Raises MalformedFile if it cannot be opened, CorruptObject if it is not what was chosen."""
        try:
            file = self.source.open("rb", buffering=0)
        except OSError as error:
            raise MalformedFile(f"{self.path!r} cannot be read: {error.strerror}", file=self.path) from error
        try:
            self.check_unchanged(os.fstat(file.fileno()))
        except BaseException:
            file.close()
            raise
        return file

    def read(self, limit: int) -> bytes:
        """The first `limit` bytes."""
        with self.open() as file:
            return file.read(limit)

    def check_unchanged(self, status: os.stat_result) -> None:
        """Raises CorruptObject if the file is not what it was when it was chosen."""
        if (status.st_size, status.st_mtime_ns) != (self.num_bytes, self.modified_ns):
            raise CorruptObject(f"{self.path!r} changed while it was being read", file=self.path)


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """What to take from a folder, and what lies there and is left."""

    weights: tuple[SourceFile, ...]
    others: tuple[SourceFile, ...]
    weight_map: dict[str, str] | None
    """Tensor -> file, where the folder has an index."""
    sums: dict[str, str] = field(default_factory=dict)
    """File -> SHA-256, as far as the maker states them."""
    pickles: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()

    @property
    def files(self) -> tuple[SourceFile, ...]:
        return self.weights + self.others

    def find(self, path: str) -> SourceFile | None:
        return next((file for file in self.files if file.path == path), None)


def choose(path: Path) -> Chosen:
    """What makes the model at `path`, a folder or one safetensors file.

    Raises BadParameter (no such thing), UnsafeFormat (only pickles), NotServable (no weights), MalformedFile.
    """
    if path.is_dir():
        return _choose_from_folder(path, None)
    if not path.is_file():
        raise BadParameter(f"no such file or folder: {str(path)!r}", param="path")
    if path.suffix.lower() in PICKLES:
        raise UnsafeFormat(_unsafe(path.name), file=path.name)
    if path.suffix.lower() != WEIGHTS:
        raise BadParameter(
            f"{path.name!r} is neither a {WEIGHTS}, .gguf or .onnx file, nor a folder that holds some", param="path"
        )
    return _choose_from_folder(path.parent, path.name)


def choose_beside(folder: Path, weights: str) -> Chosen:
    """One weight file of another format, with the small files beside it. Raises MalformedFile."""
    names = names_in(folder)
    others = [name for name in names if is_kept(name)]
    return Chosen(
        weights=(_source(folder, weights),),
        others=tuple(_source(folder, name) for name in others),
        weight_map=None,
        sums=_sums(folder, names, (weights, *others)),
    )


def source_file(path: Path) -> SourceFile:
    """One file by itself. Raises MalformedFile for anything but an ordinary file that lies where its path says."""
    return _source(path.parent, path.name)


def printable(name: str) -> str:
    """A name from the file system, which need not be UTF-8, as text that can be stored and shown."""
    return name.encode("utf-8", "backslashreplace").decode()


def read_json(file: SourceFile) -> dict[str, Any]:
    """The object in a small JSON file. Raises MalformedFile naming the file and the rule."""
    if file.num_bytes > MAX_JSON_BYTES:
        raise MalformedFile(
            f"{file.path!r} has {file.num_bytes} bytes, at most {MAX_JSON_BYTES} make sense", file=file.path
        )
    try:
        value = json.loads(file.read(MAX_JSON_BYTES))
    except (ValueError, RecursionError) as error:
        raise MalformedFile(f"{file.path!r} is not JSON: {error}", file=file.path) from error
    if not isinstance(value, dict):
        raise MalformedFile(f"{file.path!r} is JSON, but not an object", file=file.path)
    return value


def _choose_from_folder(folder: Path, only: str | None) -> Chosen:
    """`only`: the one weight file to take, with the other kinds of file beside it."""
    names = names_in(folder)
    candidates = [name for name in names if _suffix(name) == WEIGHTS and name.isprintable()]
    pickles = tuple(name for name in names if _suffix(name) in PICKLES)
    weight_map: dict[str, str] | None = None
    if only is not None:
        weights = [only]
    elif INDEX in names:
        weight_map = _read_index(_source(folder, INDEX))
        weights = sorted(set(weight_map.values()))
        _check_present(folder, weights)
    elif "model.safetensors" in candidates:
        weights = ["model.safetensors"]
    else:
        weights = candidates
    if not weights:
        if pickles:
            raise UnsafeFormat(_unsafe(pickles[0]), file=pickles[0])
        raise NotServable(f"no {WEIGHTS} weights in {str(folder)!r}", param="path")
    _check_numbering(weights)
    others = [name for name in names if is_kept(name) and not (only is not None and name == INDEX)]
    left = set(names) - {*weights, *others, *pickles, SUMS} if only is None else set()
    return Chosen(
        weights=tuple(_source(folder, name) for name in weights),
        others=tuple(_source(folder, name) for name in others),
        weight_map=weight_map,
        sums=_sums(folder, names, (*weights, *others)),
        pickles=tuple(map(printable, pickles)) if only is None else (),
        unknown=tuple(map(printable, sorted(left))),
    )


def names_in(folder: Path) -> list[str]:
    """Files of a folder, those not hidden. Raises BadParameter if it cannot be looked into."""
    try:
        return sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith(".") and not entry.is_dir())
    except OSError as error:
        raise BadParameter(f"cannot look into {str(folder)!r}: {error.strerror}", param="path") from error


def _sums(folder: Path, names: list[str], taken: Iterable[str]) -> dict[str, str]:
    """What is known beforehand of the files' digests."""
    real = {name: (folder / name).resolve() for name in taken}
    cached = {name: path.name for name, path in real.items() if path.parent.name == "blobs" and is_digest(path.name)}
    if SUMS not in names:
        return cached
    return cached | parse_sums(_source(folder, SUMS).read(MAX_JSON_BYTES).decode("utf-8", "replace"))


def is_kept(name: str) -> bool:
    """Whether a file beside the weights belongs to the model."""
    return (
        name.isprintable()
        and _suffix(name) not in PICKLES | {WEIGHTS}
        and any(fnmatch.fnmatchcase(name, pattern) for pattern in KEPT)
    )


def _suffix(name: str) -> str:
    return PurePosixPath(name).suffix.lower()


def _source(folder: Path, name: str) -> SourceFile:
    """Raises MalformedFile for anything but an ordinary file that really lies in the folder."""
    if not name.isprintable():
        raise MalformedFile(f"{name!r} is no name for a file of a model", file=ascii(name))
    try:
        real = (folder / name).resolve()
    except (OSError, RuntimeError) as error:  # RuntimeError: a link that leads to itself
        raise MalformedFile(f"{name[:200]!r} leads nowhere", file=name[:200]) from error
    if not any(real.is_relative_to(place) for place in (folder.resolve(), _blobs(folder))):
        raise MalformedFile(f"{name!r} is a link that leaves the folder; import a copy made with cp -L", file=name)
    try:
        status = real.stat()
    except OSError as error:
        raise MalformedFile(f"{name!r} cannot be read: {error.strerror}", file=name) from error
    if not stat.S_ISREG(status.st_mode):
        raise MalformedFile(f"{name!r} is not an ordinary file", file=name)
    return SourceFile(path=name, source=real, num_bytes=status.st_size, modified_ns=status.st_mtime_ns)


def _blobs(folder: Path) -> Path:
    """Where a snapshot of Hugging Face's cache keeps its bytes; for any other folder, the folder itself.

    `models--org--name/snapshots/<commit>/<file>` is a link to `models--org--name/blobs/<etag>`, and the etag of a
    large file is its SHA-256. Source: huggingface_hub, "Understand caching".
    """
    folder = folder.resolve()
    blobs = folder.parent.parent / "blobs"
    return blobs if folder.parent.name == "snapshots" and blobs.is_dir() else folder


def _read_index(index: SourceFile) -> dict[str, str]:
    return check_index(read_json(index), index.path)


def check_index(index: dict[str, Any], path: str) -> dict[str, str]:
    """Tensor -> file, of an index's JSON. Raises MalformedFile naming the index at `path` and the rule."""
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise MalformedFile(f"{path!r} has no 'weight_map'", file=path)
    for tensor, name in weight_map.items():
        if not isinstance(name, str) or not _inside(name) or _suffix(name) != WEIGHTS:
            raise MalformedFile(
                f"{path!r} places {tensor[:200]!r} in {str(name)[:200]!r}: not a {WEIGHTS} file of this folder",
                file=path,
            )
    return weight_map


def _inside(name: str) -> bool:
    """Whether a path from an index stays in the folder, whatever it is joined to, and can be looked up at all."""
    if not name.isprintable() or "\\" in name or len(name.encode()) > 1024:
        return False
    return all(0 < len(part.encode()) < 256 and part not in (".", "..") for part in name.split("/"))


def _check_present(folder: Path, weights: Iterable[str]) -> None:
    for name in weights:
        if not (folder / name).exists():
            raise MalformedFile(f"{INDEX!r} names {name!r}, which is not there", file=name)


def _check_numbering(weights: list[str]) -> None:
    """`x-00001-of-00003.safetensors` announces two more: say which one is missing."""
    present = set(weights)
    series: set[tuple[str, int, str]] = set()  # each looked through once, and not once for each of its files
    for name in weights:
        stem, dash, total = name.removesuffix(WEIGHTS).rpartition("-of-")
        base, hyphen, number = stem.rpartition("-")
        if not (dash and hyphen and total.isdecimal() and number.isdecimal() and len(total) <= 6):
            continue
        if (base, len(number), total) in series:
            continue
        series.add((base, len(number), total))
        for i in range(1, int(total) + 1):
            expected = f"{base}-{i:0{len(number)}}-of-{total}{WEIGHTS}"
            if expected not in present:
                raise MalformedFile(f"{name!r} is one of {int(total)} files, {expected!r} is missing", file=expected)


def _unsafe(name: str) -> str:
    return f"{name!r} is a pickle or holds code that runs on load; only {WEIGHTS} weights are taken"
