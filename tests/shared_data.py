"""Real traces and data sets, where they lie beside the checkout."""

from __future__ import annotations

from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "shared" / "data"


def shared_data(name: str) -> Path:
    """The file; skips the test, which is marked `data`, where there is none."""
    if not (path := FOLDER / name).exists():
        pytest.skip(f"no {path}")
    return path
