"""Clean text documents out of an unpacked package."""

from __future__ import annotations

import gzip
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from packages import Package
from text_html import text_from_html
from text_manual import is_manual, text_from_manual
from text_plain import text_from_info, text_from_wrapped

MIN_CHARACTERS = 400
SKIPPED_NAMES = re.compile(
    r"(genindex|py-modindex|modindex|(^|/)search|copyright|changelog|changes|NEWS|ChangeLog|COPYING|LICENSE|GPL|GFDL"
    r"|AUTHORS|THANKS|MAINTAINERS|translation|bookindex|(^|/)index-|general-index|classes-|inherits|hierarchy"
    r"|functions_|globals_|_source\.html|/vim/vim\d+/doc/(version|todo)|namespacemembers|annotated|examples?/)"
)
FOREIGN = re.compile(
    r"[/.](ar|bg|ca|cs|da|de|el|eo|es|et|eu|fa|fi|fr|gl|hr|hu|id|it|ja|ko|lt|lv|mk|nb|nl|nn|no|pl|pt|ro|ru|sk|sl|sr|sv"
    r"|ta|tr|uk|vi|zh)([_-][A-Za-z]+)?([/.]|$)"
)
ENGLISH = frozenset("the of and to a in is for that be this with are or if it by not as on can from an will".split())
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\u200b-\u200f\ue000-\uf8ff\ufeff\ufffd]")
TYPOGRAPHY = str.maketrans({"\u00a0": " ", "\u2010": "-", "\u2011": "-", "\u2212": "-", "\u202f": " ", "\u00ad": ""})


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """One text with its origin; `kind` is the form it was converted from."""

    package: str
    path: str
    kind: str
    text: str


def documents_of(package: Package, mandoc: Path) -> Iterator[Document]:
    """Yields the English documents of a package in the order of their paths."""
    paths = sorted(path for path in package.root.rglob("*") if path.is_file() and not path.is_symlink())
    names = [path.relative_to(package.root).as_posix() for path in paths]
    has_html = sum(kind_of(name) == "html" for name in names) > 5
    for path, name in zip(paths, names, strict=True):
        kind = kind_of(name)
        if kind is None or (has_html and kind in {"plain", "info"}):
            continue
        text = clean(convert(read(path), kind, mandoc))
        if len(text) >= MIN_CHARACTERS and is_english(text):
            yield Document(package=package.name, path=name, kind=kind, text=text)


def kind_of(name: str) -> str | None:
    """manual, html, info, plain, or None for a file that is no English document."""
    if is_manual("/" + name):
        return "manual"
    plain = name.removesuffix(".gz").removesuffix(".xz")
    if SKIPPED_NAMES.search(plain) or FOREIGN.search(plain) or "/man/" in plain:
        return None
    if plain.endswith((".html", ".xhtml", ".htm")):
        return "html"
    if re.search(r"/info/[^/]*\.info(-\d+)?$", plain):
        return "info"
    in_documents = plain.startswith("usr/share/doc/") or "/doc/" in plain
    if in_documents and (plain.endswith((".txt", ".rst", ".md", ".pod")) or "/README" in plain):
        return "plain"
    return None


def read(path: Path) -> bytes:
    raw = path.read_bytes()
    try:
        return gzip.decompress(raw) if path.suffix == ".gz" else raw
    except (OSError, EOFError):
        return b""


def convert(source: bytes, kind: str, mandoc: Path) -> str:
    if kind == "manual":
        return text_from_manual(source, mandoc)
    if kind == "html":
        return text_from_html(source)
    text = source.decode("utf-8", "replace")
    return text_from_info(text) if kind == "info" else text_from_wrapped(text)


def clean(text: str) -> str:
    """One typography: NFC, no control characters, no runs of blank lines or of rules."""
    text = CONTROL.sub("", unicodedata.normalize("NFC", text).translate(TYPOGRAPHY))
    text = re.sub(r"([^\w\s])\1{8,}", lambda run: run.group(1) * 8, text)
    text = re.sub(r"[ \t]+\n", "\n", text)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def is_english(text: str) -> bool:
    """Prose, in English: enough letters, enough of the commonest words, mostly ASCII."""
    words = re.findall(r"[^\W\d_]+", text.lower())
    if len(words) < 60:
        return False
    common = sum(word in ENGLISH for word in words) / len(words)
    ascii_share = sum(character < "\x80" for character in text) / len(text)
    letters = sum(map(len, words)) / len(text)
    return common > 0.12 and ascii_share > 0.97 and letters > 0.45
