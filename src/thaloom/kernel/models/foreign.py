"""Which models are converted when they are imported, and the folder in which that happens.

<root>/staging/<pid>.<n>/    a model being converted; its maker holds the store's lock, so whoever has the store to
                             itself (a sweep) knows that what lies there belongs to nobody
"""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from thaloom.base.errors import NotServable
from thaloom.kernel.models.checkpoints import Checkpoint, quantisation_config
from thaloom.kernel.models.converting import Foreign
from thaloom.kernel.models.gguf_import import GgufModel
from thaloom.kernel.models.import_files import WEIGHTS, choose, names_in, source_file
from thaloom.kernel.models.locks import share

GGUF = ".gguf"
_serial = itertools.count()


def foreign_model(path: Path) -> Foreign | None:
    """What is at `path`, if it is to be converted: a GGUF file, a folder with one and no safetensors, or a folder with
    weights in AWQ, GPTQ or compressed-tensors. None: it is taken as it is, or refused, by the ordinary import.

    Raises what the formats raise.
    """
    if path.is_file():
        return GgufModel(source_file(path)) if path.suffix.lower() == GGUF else None
    if not path.is_dir():
        return None
    files = names_in(path)
    found = [name for name in files if name.lower().endswith(GGUF)]
    if found and not any(name.lower().endswith(WEIGHTS) for name in files):
        if len(found) > 1:
            raise NotServable(f"{str(path)!r} holds {len(found)} GGUF files; name one of them", param="path")
        return GgufModel(source_file(path / found[0]))
    if "config.json" not in files or not any(name.lower().endswith(WEIGHTS) for name in files):
        return None
    chosen = choose(path)
    settings = quantisation_config(chosen)
    return None if settings is None else Checkpoint(chosen, settings)


@contextmanager
def staged(root: Path) -> Iterator[Path]:
    """An empty folder of the store, gone afterwards. Nothing is swept meanwhile."""
    with share(root / "lock"):
        folder = root / "staging" / f"{os.getpid()}.{next(_serial)}"
        folder.mkdir(parents=True)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def leftovers(root: Path) -> list[Path]:
    """Files of conversions that were killed. Only for whoever has the store to itself."""
    return sorted(path for path in (root / "staging").glob("*/*") if path.is_file())


def clear_staging(root: Path) -> None:
    """Away with the folders; likewise."""
    shutil.rmtree(root / "staging", ignore_errors=True)
