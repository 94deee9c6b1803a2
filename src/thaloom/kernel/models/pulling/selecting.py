"""Which files of a hub's listing a model needs: weights that run nothing, and the small files beside them. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath

from thaloom.base.errors import BadParameter, NotServable, UnsafeFormat
from thaloom.kernel.models.foreign import GGUF
from thaloom.kernel.models.import_files import INDEX, PICKLES, WEIGHTS, is_kept
from thaloom.kernel.models.pulling.listing import Listing, RemoteFile

MOST_SMALL_BYTES = 256 * 1024 * 1024
"""A tokenizer or a document; more is not what its name says, and is left where it is."""
_SPLIT = re.compile(r"-\d{5}-of-\d{5}$")


def index_of(listing: Listing, choice: str | None) -> RemoteFile | None:
    """The file that says which weight files there are; it has to be read before `select`."""
    return None if choice is not None else listing.find(INDEX)


def select(listing: Listing, choice: str | None, indexed: Iterable[str] | None) -> tuple[RemoteFile, ...]:
    """What to fetch. `indexed`: the weight files that the index names, where there is one.

    Raises BadParameter (`source`) if the choice is none, UnsafeFormat if there is nothing but pickles, NotServable if
    there are no weights, or not all that the index names.
    """
    if choice is not None:
        return (_chosen(listing, choice),)
    weights = _weights(listing, indexed)
    if weights:
        return (*weights, *(file for file in listing.files if _is_small(file) and file not in weights))
    found = [file for file in listing.files if _suffix(file.path) == GGUF]
    if len(found) == 1:
        return (_whole(found[0]),)
    if found:
        raise BadParameter(
            f"there are {len(found)} GGUF files; name one behind a colon: {_names(found)}",
            param="source",
            choices=[file.path for file in found[:50]],
        )
    pickles = [file.path for file in listing.files if _suffix(file.path) in PICKLES]
    if pickles:
        raise UnsafeFormat(
            f"its weights are pickles or hold code that runs on load ({pickles[0]!r}); only {WEIGHTS} and {GGUF} are "
            "pulled",
            file=pickles[0],
        )
    raise NotServable(f"there are no {WEIGHTS} or {GGUF} weights", param="source")


def _weights(listing: Listing, indexed: Iterable[str] | None) -> list[RemoteFile]:
    if indexed is None:
        single = listing.find("model.safetensors")
        return [single] if single else [file for file in listing.files if _at_top(file.path, WEIGHTS)]
    named = sorted(set(indexed))
    found = {path: listing.find(path) for path in named}
    missing = [path for path, file in found.items() if file is None]
    if missing:
        raise NotServable(f"{INDEX!r} names {missing[0]!r}, which is not there", param="source")
    return [file for file in found.values() if file is not None]


def _chosen(listing: Listing, choice: str) -> RemoteFile:
    exact = listing.find(choice)
    if exact is not None:
        if _suffix(choice) != GGUF:
            raise BadParameter(
                f"{choice!r} is not a {GGUF} file; without a choice the whole model is pulled", param="source"
            )
        return _whole(exact)
    ggufs = [file for file in listing.files if _suffix(file.path) == GGUF]
    word = re.compile(rf"(?:^|[-._/]){re.escape(choice)}(?:[-._/]|$)", re.IGNORECASE)
    found = [file for file in ggufs if word.search(file.path[: -len(GGUF)])]
    if len(found) != 1:
        what = "no GGUF file" if not found else f"{len(found)} GGUF files"
        raise BadParameter(
            f"{what} for {choice!r}; there are: {_names(found or ggufs) or 'none'}",
            param="source",
            choices=[file.path for file in (found or ggufs)[:50]],
        )
    return _whole(found[0])


def _whole(file: RemoteFile) -> RemoteFile:
    if _SPLIT.search(file.path[: -len(GGUF)]):
        raise NotServable(f"{file.path!r} is one part of a split GGUF file; those are not read", param="source")
    return file


def _is_small(file: RemoteFile) -> bool:
    return (
        "/" not in file.path
        and not file.path.startswith(".")
        and is_kept(file.path)
        and file.num_bytes <= MOST_SMALL_BYTES
    )


def _at_top(path: str, suffix: str) -> bool:
    return "/" not in path and not path.startswith(".") and _suffix(path) == suffix


def _suffix(path: str) -> str:
    return PurePosixPath(path).suffix.lower()


def _names(files: Sequence[RemoteFile]) -> str:
    more = ", ..." if len(files) > 12 else ""
    return ", ".join(repr(file.path) for file in files[:12]) + more
