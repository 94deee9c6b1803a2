"""The models that come with Thaloom: inside an installed package, or beside the source of a checkout."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[2]

NAMES = ("tiny",)


def bundled_model(name: str) -> Path | None:
    """The folder of a bundled model, or None if this installation was made without it."""
    if name not in NAMES:
        return None
    for folder in (_PACKAGE / "bundled" / name, _PACKAGE.parents[1] / "models" / name):
        if (folder / "config.json").is_file():
            return folder
    return None
