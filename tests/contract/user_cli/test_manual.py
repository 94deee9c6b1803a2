"""The manual: every command has a page in both languages, as mandoc wants it, and a wheel carries them."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest

from thaloom.base.errors import EXIT_CODES
from thaloom.user.cli.catalogue import TEXTS
from thaloom.user.cli.manual import FOLDERS, pages
from thaloom.user.cli.reference import contexts
from thaloom.user.cli.texts import LANGUAGES

ROOT = Path(__file__).resolve().parents[3]
PAGES = dict(pages())
mandoc = pytest.mark.skipif(shutil.which("mandoc") is None, reason="mandoc is not here; please run: make deps-system")


def rendered(folder: Path, page: str) -> str:
    """The page as a terminal shows it, as words in one line."""
    place = folder / "page.1"
    place.write_text(page, encoding="utf-8")
    command = ["mandoc", "-T", "utf8", "-O", "width=500", str(place)]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return " ".join(re.sub(r".\x08", "", shown).split())


def test_every_command_has_a_page_in_both_languages() -> None:
    names = [context.command_path.replace(" ", "-") for context in contexts()]
    assert sorted(PAGES) == sorted(f"{FOLDERS[tongue]}/{name}.1" for name in names for tongue in LANGUAGES)
    for path, page in PAGES.items():
        assert (".SH 名称" in page) == path.startswith("zh_CN/")


@pytest.mark.packages
@mandoc
def test_mandoc_has_nothing_to_say(tmp_path: Path) -> None:
    places = []
    for path, page in PAGES.items():
        places.append(tmp_path / path)
        places[-1].parent.mkdir(parents=True, exist_ok=True)
        places[-1].write_text(page, encoding="utf-8")
    done = subprocess.run(["mandoc", "-T", "lint", *map(str, places)], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)


@pytest.mark.packages
@mandoc
@pytest.mark.parametrize("tongue", LANGUAGES)
def test_a_page_says_what_the_help_says(tongue: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THALOOM_LANG", tongue)
    for context in contexts():
        page = rendered(tmp_path, PAGES[f"{FOLDERS[tongue]}/{context.command_path.replace(' ', '-')}.1"])  # type: ignore[index]
        for parameter in context.command.get_params(context):
            for word in (*parameter.opts, *parameter.secondary_opts) if isinstance(parameter, click.Option) else ():
                assert word in page, context.command_path
        key = getattr(context.command, "key", "")
        for kind in ("verb", "more"):
            told = TEXTS.get(f"{kind}.{key}", ("", ""))[LANGUAGES.index(tongue)]  # type: ignore[arg-type]
            assert " ".join(told.replace("`", "").split()) in page, context.command_path
        for line in TEXTS.get(f"examples.{key}", ("", ""))[0].splitlines():
            assert " ".join(line.split()) in page, context.command_path
        assert all(f"{code} " in page for code in EXIT_CODES)


def test_every_exit_code_has_a_text() -> None:
    assert {key.partition(".")[2] for key in TEXTS if key.startswith("exit.")} == {str(code) for code in EXIT_CODES}


def test_options_can_be_copied_from_a_page() -> None:
    """A plain hyphen is a typographic one to some readers of manuals."""
    for path, page in PAGES.items():
        assert re.search(r"(?m)(?:^|[\s/(（])--?[a-z]", page) is None, path


def hatch_build() -> Any:
    spec = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_wheel_carries_the_manual(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THALOOM_LANG", "zh")
    build_data: dict[str, Any] = {"shared_data": {}}
    assert hatch_build().contribute_manual(ROOT, tmp_path, build_data) is None
    assert build_data == {"shared_data": {str(tmp_path): "share/man"}}
    found = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.1"))
    assert found == sorted(PAGES)
    assert ".SH NAME" in (tmp_path / "man1" / "thaloom.1").read_text()


def test_a_wheel_without_the_manual_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "no-python"))
    build_data: dict[str, Any] = {"shared_data": {}}
    reason = hatch_build().contribute_manual(ROOT, tmp_path / "man", build_data)
    assert reason is not None
    assert "no-python" in reason
    assert build_data == {"shared_data": {}}
