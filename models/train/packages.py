"""Debian packages as they come: fetch, unpack, and say under which licence they lie."""

from __future__ import annotations

import os
import re
import subprocess
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

LICENCE_FIELD = re.compile(r"^License:[ \t]*(\S.*)$", re.MULTILINE)
LICENCE_PHRASES = {
    "GPL": r"GNU General Public Licen[sc]e|/common-licenses/GPL",
    "LGPL": r"(?:Lesser|Library) General Public Licen[sc]e|/common-licenses/LGPL",
    "GFDL": r"GNU Free Documentation Licen[sc]e|/common-licenses/GFDL",
    "Apache-2.0": r"Apache License|/common-licenses/Apache",
    "Artistic": r"Artistic License|/common-licenses/Artistic",
    "BSD": r"Redistribution and use in source and binary forms|/common-licenses/BSD",
    "MIT": r"Permission is hereby granted, free of charge",
    "PSF": r"PYTHON SOFTWARE FOUNDATION LICENSE",
    "permissive": r"permission to use, copy, modify,?(?: and(?:/or)?)? distribute",
    "public-domain": r"public domain",
}
MAX_LICENCE_WORDS = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """One unpacked package; `root` holds its file tree."""

    name: str
    version: str
    licence: str
    root: Path


def fetch(names: list[str], archive: Path) -> None:
    """Downloads those packages that `archive` lacks, with the machine's own apt sources."""
    archive.mkdir(parents=True, exist_ok=True)
    present = {path.name.split("_")[0] for path in archive.glob("*.deb")}
    missing = [name for name in names if name not in present]
    for start in range(0, len(missing), 40):
        subprocess.run(["apt-get", "download", *missing[start : start + 40]], cwd=archive, check=True)


def unpack(name: str, archive: Path, trees: Path) -> Package:
    """Unpacks one fetched package (once) and reads its version and licence."""
    [path] = archive.glob(f"{name}_*.deb")
    root = trees / name
    if not root.exists():
        partial = trees / f".{name}.{os.getpid()}"
        partial.mkdir(parents=True)
        subprocess.run(["dpkg-deb", "-x", path, partial], check=True)
        with suppress(OSError):  # another process was faster with a package two of them share
            partial.rename(root)
    version = path.name.split("_")[1].replace("%3a", ":")
    documents = root / "usr/share/doc" / name
    if documents.is_symlink():  # this package leaves its copyright file to a sibling
        sibling = documents.readlink().name
        fetch([sibling], archive)
        licence = unpack(sibling, archive, trees).licence
    else:
        licence = licence_of(documents / "copyright")
    return Package(name=name, version=version, licence=licence, root=root)


def licence_of(copyright_file: Path) -> str:
    """The licences a copyright file names in its fields, the most frequent first, or else those it quotes."""
    text = copyright_file.read_text(errors="replace") if copyright_file.is_file() else ""
    fields = [field.strip() for field in LICENCE_FIELD.findall(text)]
    declared = Counter(field for field in fields if len(field.split()) <= MAX_LICENCE_WORDS)
    if declared:
        return ", ".join(licence for licence, _ in declared.most_common(6))
    prose = " ".join(text.split())
    found = [licence for licence, phrase in LICENCE_PHRASES.items() if re.search(phrase, prose, re.IGNORECASE)]
    return ", ".join(found) or "see the package's copyright file"
