"""SHA256SUMS: the digests a model's maker states, as `sha256sum` writes them. Where there is such a file, it counts."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from thaloom.base.errors import CorruptObject, MalformedFile
from thaloom.kernel.models.types import FileEntry

SUMS = "SHA256SUMS"
_LINE = re.compile(r"([0-9a-fA-F]{64}) [ *](?:\./)?(.+)")


def parse_sums(text: str) -> dict[str, str]:
    """Path -> SHA-256. Raises MalformedFile for a line that is neither empty nor a sum."""
    sums: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        match = _LINE.fullmatch(line)
        if match is not None:
            sums[match[2]] = match[1].lower()
        elif line.strip():
            raise MalformedFile(f"{SUMS!r} has no SHA-256 and name in line {number}", file=SUMS)
    return sums


def check_sums(entries: Iterable[FileEntry], sums: Mapping[str, str]) -> None:
    """Raises CorruptObject naming the first file that is not what its maker made."""
    for entry in entries:
        if sums.get(entry.path, entry.sha256) != entry.sha256:
            raise CorruptObject(f"{entry.path!r} does not have the SHA-256 its maker states", file=entry.path)
