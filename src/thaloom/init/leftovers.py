"""What is left of a process of this node once it has ended."""

from __future__ import annotations

import shutil
from pathlib import Path

from thaloom.base.ids import WorkerId
from thaloom.init.layout import Layout


def leftovers(layout: Layout, process: WorkerId) -> list[Path]:
    """Files and folders of a worker that mean nothing once it has ended."""
    return [layout.worker_folder(process), layout.worker_spec(process), layout.worker_walls(process)]


def remove_leftovers(layout: Layout, process: WorkerId) -> None:
    for path in leftovers(layout, process):
        remove(path)


def remove(path: Path) -> None:
    """A file, or a folder with all in it; nothing if it is gone. Never follows a link."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
