"""The bundled model is found where this installation has it, and absent is None."""

from __future__ import annotations

from pathlib import Path

import pytest

from thaloom.kernel.models import bundled
from thaloom.kernel.models.bundled import NAMES, bundled_model


def test_tiny_is_a_bundled_name() -> None:
    assert NAMES == ("tiny",)


def test_an_unknown_name_is_not_bundled() -> None:
    assert bundled_model("../tiny") is None


@pytest.mark.parametrize("place", ["lib/thaloom/bundled/tiny", "models/tiny"])
def test_the_model_is_found_in_the_package_or_beside_the_source(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "lib" / "thaloom"
    package.mkdir(parents=True)
    monkeypatch.setattr(bundled, "_PACKAGE", package)
    folder = tmp_path / place
    assert bundled_model("tiny") is None
    folder.mkdir(parents=True)
    assert bundled_model("tiny") is None, "an empty folder is no model"
    (folder / "config.json").write_text("{}")
    assert bundled_model("tiny") == folder


def test_the_source_tree_is_looked_for_beside_src() -> None:
    root = Path(__file__).resolve().parents[3]
    assert root / "src" / "thaloom" == bundled._PACKAGE
