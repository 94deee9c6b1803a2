"""Documents that promise paths, commands and pages are held to them."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from thaloom.base.errors import ERRORS

ROOT = Path(__file__).resolve().parents[3]
DOCUMENTS = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", "native/**/*.md", "models/**/*.md", "benchmarks/**/*.md", "src/**/*.md")
    for path in ROOT.glob(pattern)
)
PATH_IN_TEXT = re.compile(r"`((?:src|docs|tests|tools|native|models|benchmarks)/[\w./-]*)`")
LINK = re.compile(r"\]\((?!https?:|#|mailto:)([^)#]+)")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_path_a_document_names_exists(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    named = [ROOT / path for path in PATH_IN_TEXT.findall(text)]
    linked = [document.parent / path for path in LINK.findall(text)]
    assert [str(path) for path in named + linked if not path.exists()] == []


def test_the_map_names_every_room() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    package = ROOT / "src" / "thaloom"
    rooms = [room.name for floor in package.iterdir() if floor.is_dir() for room in floor.iterdir() if room.is_dir()]
    missing = [room for room in rooms if not room.startswith("_") and room not in text]
    assert missing == []


def test_the_readme_names_two_commands_in_both_languages() -> None:
    for name in ("README.md", "README.zh-CN.md"):
        text = (ROOT / name).read_text(encoding="utf-8")
        block = text.split("<!-- two commands -->")[1].split("<!-- end -->")[0]
        assert re.findall(r"^make \w+", block, re.MULTILINE) == ["make run", "make test"], name


def test_the_makefile_lists_its_targets() -> None:
    shown = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for target in ("run", "test", "check", "bench", "wheel", "docs", "deps-system", "help"):
        assert re.search(rf"^{target}\b", shown, re.MULTILINE), target


def test_generated_pages_are_up_to_date() -> None:
    command = [sys.executable, str(ROOT / "tools" / "generate_docs.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_error_has_its_place_on_the_help_page() -> None:
    text = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
    for leaf in ERRORS.values():
        anchor = leaf("x").help_page.partition("#")[2]
        assert f"### {anchor}\n" in text


def test_decisions_have_a_state_and_a_number() -> None:
    for page in sorted((ROOT / "docs" / "decisions").glob("[0-9]*.md")):
        text = page.read_text(encoding="utf-8")
        assert text.startswith(f"# {page.name[:4]}: "), page.name
        state = re.search(r"^State: (ideation|discussion|published|committed|abandoned)\b", text, re.MULTILINE)
        assert state, page.name
