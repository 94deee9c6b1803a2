"""Text for people: widths, colours, figures, and letters that must not steer a terminal."""

from __future__ import annotations

import io

import pytest

from thaloom.edge.wire.control import Progress
from thaloom.user.cli import output, progress
from thaloom.user.cli.progress import bar


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def open_terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Not a fixture: pytest sets its own streams between a fixture and its test."""
    terminal = Terminal()
    for variable in ("NO_COLOR", "THALOOM_LANG", "LC_ALL", "LC_MESSAGES", "LANG"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("sys.stdout", terminal)
    monkeypatch.setattr("sys.stderr", terminal)
    return terminal


@pytest.mark.parametrize(
    ("words", "columns"),
    [("", 0), ("abc", 3), ("模型", 4), ("ａ", 2), ("e\u0301", 1), ("\x1b[31mred\x1b[0m", 3), ("，", 2)],
)
def test_width(words: str, columns: int) -> None:
    assert output.width(words) == columns


def test_columns_stay_below_one_another_in_chinese_too() -> None:
    lines = output.align([["名称", "大小"], ["a", "1"], ["很长的名称", "1000"]], right=frozenset({1}))
    assert [output.width(line) for line in lines] == [16, 16, 16]
    assert lines[1] == "a" + " " * 14 + "1"


@pytest.mark.parametrize(
    ("words", "lines"),
    [
        ("", [""]),
        ("two words", ["two", "words"]),
        ("一二三四五六", ["一二三四", "五六"]),
        ("一二三四。五", ["一二三", "四。五"]),
        ("一 ab 三", ["一 ab 三"]),
        ("一二 longword", ["一二", "longword"]),
    ],
)
def test_lines_are_folded_where_each_language_allows(words: str, lines: list[str]) -> None:
    assert output.fold(words, 8) == lines


def test_a_row_that_is_short_is_a_bug_of_ours() -> None:
    with pytest.raises(ValueError):
        output.align([["a", "b"], ["c"]])


def test_colour_only_where_a_person_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    open_terminal(monkeypatch)
    assert output.paint("x", "red") == "\x1b[31mx\x1b[0m"
    assert output.paint("x", "red", io.StringIO()) == "x"
    monkeypatch.setenv("NO_COLOR", "1")
    assert output.paint("x", "red") == "x"
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "dumb")
    assert output.paint("x", "red") == "x"


def test_what_a_model_says_does_not_steer_the_terminal() -> None:
    assert output.harmless("a\x1b]0;title\x07b\r\x9bc\n\td\x7f") == "a]0;titlebc\n\td"


@pytest.mark.parametrize(
    ("number", "words"), [(0, "0"), (812, "812"), (4200, "4.2K"), (4_200_000, "4.2M"), (7_600_000_000, "7.6B")]
)
def test_amounts(number: int, words: str) -> None:
    assert output.amount(number) == words


def test_what_nobody_measured_is_not_zero() -> None:
    assert output.size(None) == output.count(None) == output.ABSENT


def test_json_is_one_document_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = open_terminal(monkeypatch)
    out = output.Output(as_json=True)
    out.line("x")
    out.note("x")
    out.table(["a"], [["b"]])
    out.facts([("a", "b")])
    out.document({"名": 1})
    assert terminal.getvalue() == '{\n  "名": 1\n}\n'


def test_a_bar() -> None:
    half = Progress(stage="copying", done_bytes=2**20, total_bytes=2 * 2**20)
    drawn = "#" * 15 + "-" * 15
    assert bar("tiny", half).endswith(f"[{drawn}]  1.0 MiB / 2.0 MiB  50%")
    assert "[" not in bar("tiny", Progress(stage="new", done_bytes=5, total_bytes=None))
    assert "100%" in bar("tiny", Progress(stage="copying", done_bytes=3, total_bytes=2)), "never beyond the end"


def test_progress_is_drawn_on_a_terminal_and_wiped_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = open_terminal(monkeypatch)
    with progress.progress_bar(output.Output(), "tiny") as draw:
        draw(Progress(stage="copying", done_bytes=1, total_bytes=2))
    assert "50%" in terminal.getvalue()
    assert terminal.getvalue().endswith("\r\x1b[2K")


def test_the_spinner_is_wiped_even_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = open_terminal(monkeypatch)
    with pytest.raises(RuntimeError), progress.spinner(output.Output(), "loading") as change:
        change("still loading")
        raise RuntimeError
    assert terminal.getvalue().endswith("\r\x1b[2K")


@pytest.mark.parametrize("as_json", [True, False])
def test_nothing_moves_where_nobody_looks(monkeypatch: pytest.MonkeyPatch, as_json: bool) -> None:
    stream = Terminal() if as_json else io.StringIO()
    monkeypatch.setattr("sys.stderr", stream)
    with progress.spinner(output.Output(as_json=as_json), "x") as change:
        change("y")
    with progress.progress_bar(output.Output(as_json=as_json), "x") as draw:
        draw(Progress(stage="copying", done_bytes=1, total_bytes=2))
    assert stream.getvalue() == ""
