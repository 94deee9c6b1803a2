r"""A plan as lines of words, for a reader that has no time to import a parser.

One step a line: its name, then its words, divided by tabs. A backslash, tab or line break inside a word is written
`\\`, `\t`, `\n`. Bytes that are no text survive, as everywhere in Python's paths.
"""

from __future__ import annotations


def encode(steps: list[tuple[str, ...]]) -> bytes:
    return "".join("\t".join(map(_escaped, step)) + "\n" for step in steps).encode("utf-8", "surrogateescape")


def decode(data: bytes) -> list[tuple[str, ...]]:
    lines = data.decode("utf-8", "surrogateescape").split("\n")
    return [tuple(map(_plain, line.split("\t"))) for line in lines if line]


def _escaped(word: str) -> str:
    return word.replace("\\", "\\\\").replace("\t", "\\t").replace("\n", "\\n")


def _plain(word: str) -> str:
    if "\\" not in word:
        return word
    pieces = word.split("\\\\")
    return "\\".join(piece.replace("\\t", "\t").replace("\\n", "\n") for piece in pieces)
