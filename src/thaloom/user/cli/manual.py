"""The manual, written from the commands themselves: `python -m thaloom.user.cli.manual FOLDER` makes
FOLDER/man1/*.1 in English and FOLDER/zh_CN/man1/*.1 in Chinese.

A wheel carries them where `man` looks beside a program's own folder (hatch_build.py), and `make man` shows them.
Source: man(7) and mandoc's `-T lint`, which finds nothing in them (tests/contract/user_cli/test_manual.py).
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import click

from thaloom import __version__
from thaloom.base.errors import EXIT_CODES
from thaloom.user.cli.command import Verbs, argument_records, option_records
from thaloom.user.cli.output import fold
from thaloom.user.cli.reference import contexts
from thaloom.user.cli.texts import LANGUAGES, Language, has_text, text

FOLDERS: dict[Language, str] = {"en": "man1", "zh": "zh_CN/man1"}
ENVIRONMENT = (
    *("THALOOM_HOME", "THALOOM_HOST", "THALOOM_PORT", "THALOOM_URL", "THALOOM_TOKEN", "THALOOM_CA"),
    *("THALOOM_FINGERPRINT", "THALOOM_LANG", "NO_COLOR"),
)
_WIDTH, _WIDTH_OF_WIDE = 72, 18
"""Columns of a line of text in the source. mandoc complains of more than 80 bytes, and counts eight for a sign that is
two columns wide."""


def pages() -> Iterator[tuple[str, str]]:
    """Path and text of every page."""
    for language in LANGUAGES:
        with _speaking(language):
            for context in contexts():
                yield f"{FOLDERS[language]}/{_name(context)}.1", page(context)


def page(context: click.Context) -> str:
    """One command's page, in the language of the environment."""
    command, key = context.command, getattr(context.command, "key", "")
    parts = [
        f'.TH {_plain(_name(context).upper())} 1 "{_date()}" "Thaloom {__version__}" "Thaloom"',
        *_section("name", f"{_plain(_name(context))} \\- \\", _text(text(f"verb.{key}"))),
        *_section("synopsis", f"\\fB{_plain(context.command_path)}\\fR \\", _synopsis(context)),
        *_section("description", _text(text(f"verb.{key}"), end=True), *_more(key)),
    ]
    if isinstance(command, Verbs):
        for heading, verbs in command.sections.items():
            parts += _list(text(heading), [(verb, text(f"verb.{command.key_of(verb)}")) for verb in verbs])
    parts += _list(text("help.arguments"), argument_records(command, context))
    parts += _list(text("help.options"), option_records(command, context))
    if has_text(f"examples.{key}"):
        parts += [f".SH {_heading(text('help.examples'))}", ".EX", *map(_plain, _example_lines(key)), ".EE"]
    parts += _list(text("manual.environment"), [(name, text(f"environment.{name}")) for name in ENVIRONMENT])
    parts += _list(text("manual.exit"), [(str(code), text(f"exit.{code}")) for code in EXIT_CODES])
    parts += _section("see_also", *_others(context))
    return "\n".join(parts) + "\n"


def _name(context: click.Context) -> str:
    return context.command_path.replace(" ", "-")


def _synopsis(context: click.Context) -> str:
    return _plain(" ".join(context.command.collect_usage_pieces(context)))


def _more(key: str) -> list[str]:
    return [".PP", _text(text(f"more.{key}"))] if has_text(f"more.{key}") else []


def _example_lines(key: str) -> list[str]:
    return text(f"examples.{key}").splitlines()


def _others(context: click.Context) -> list[str]:
    """The page above and those below."""
    below = []
    if isinstance(context.command, click.Group):
        below = [f"{_name(context)}-{verb}" for verb in context.command.list_commands(context)]
    names = ([] if context.parent is None else [_name(context.parent)]) + below
    return [f".BR {_plain(name)} (1){',' if name != names[-1] else ''}" for name in names]


# -- the language of pages


def _section(name: str, *lines: str) -> list[str]:
    return [f".SH {_heading(text(f'manual.{name}'))}", *lines]


def _list(heading: str, records: Iterable[tuple[str, str]]) -> list[str]:
    rows = [line for term, told in records for line in (".TP", f"\\fB{_plain(term)}\\fR", _text(told))]
    return [f".SH {_heading(heading)}", *rows] if rows else []


def _heading(words: str) -> str:
    return _plain(words.upper())


def _text(words: str, *, end: bool = False) -> str:
    """Prose in short lines. Where a line is folded inside of a Chinese sentence, no space may come into it."""
    if end and words[-1].isascii():
        words += "." if words[-1].isalnum() else ""
    words = _marked(re.sub(r"\s+", " ", words).strip())
    lines, rest = [], words
    for piece in fold(words, _WIDTH if words.isascii() else _WIDTH_OF_WIDE):
        rest = rest.lstrip().removeprefix(piece)
        lines.append(_protected(piece) + ("\\" if rest and not rest.startswith(" ") else ""))
    return "\n".join(lines)


def _marked(words: str) -> str:
    """`code` in bold, and every hyphen of an option one that can be copied."""
    code = re.sub(r"`([^`]+)`", r"\\fB\1\\fR", _escaped(words))
    return re.sub(r"(?<![\w-])--?\w[\w-]*", lambda option: option[0].replace("-", "\\-"), code)


def _plain(words: str) -> str:
    """As it is: every hyphen one that can be copied into a command line."""
    return _protected(_escaped(words).replace("-", "\\-").replace("'", "\\(aq").replace("`", "\\(ga"))


def _escaped(words: str) -> str:
    return words.replace("\\", "\\e")


def _protected(line: str) -> str:
    """A line of text must not begin as a request does."""
    return "\\&" + line if line.startswith((".", "'")) else line


def _date() -> str:
    """Of the build; SOURCE_DATE_EPOCH makes it the same each time (reproducible-builds.org)."""
    return time.strftime("%Y-%m-%d", time.gmtime(float(os.environ.get("SOURCE_DATE_EPOCH") or time.time())))


@contextlib.contextmanager
def _speaking(language: Language) -> Iterator[None]:
    before = os.environ.get("THALOOM_LANG")
    os.environ["THALOOM_LANG"] = language
    try:
        yield
    finally:
        if before is None:
            del os.environ["THALOOM_LANG"]
        else:
            os.environ["THALOOM_LANG"] = before


def write(folder: Path) -> list[Path]:
    """Every page under `folder`."""
    written = []
    for path, words in pages():
        place = folder / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(words, encoding="utf-8")
        written.append(place)
    return written


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m thaloom.user.cli.manual FOLDER")
    print(f"{len(write(Path(sys.argv[1])))} pages in {sys.argv[1]}")
