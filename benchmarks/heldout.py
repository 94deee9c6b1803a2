"""Rebuild held-out documents of the bundled model from Debian packages: those whose SHA-256 models/tiny lists.

    python benchmarks/heldout.py FOLDER                 # writes FOLDER/heldout.jsonl, one document a line

Needs `apt-get` with Debian 12's own sources, and lxml (`make bench-quality` gives it an environment of its own). The
conversion is models/train's. Of packages that were updated since, a few documents may not come out as they were; how
many were found of how many is printed, and what is not the very text is never taken.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "models" / "train"))

PACKAGES = ("manpages-dev", "sqlite3-doc", "python3.11-doc", "util-linux", "debhelper", "groff")
"""Small, quick to fetch, and of different kinds: 420 KB of the 3.8 MB held out."""


def main() -> int:
    from documents import documents_of  # lxml is not in the environment of the rest
    from packages import fetch, unpack

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    wanted = listed()
    debs, trees = arguments.folder / "debs", arguments.folder / "trees"
    fetch(["mandoc", *PACKAGES], debs)
    mandoc = unpack("mandoc", debs, trees).root / "usr/bin/mandoc"
    found: dict[str, str] = {}
    for package in PACKAGES:
        for document in documents_of(unpack(package, debs, trees), mandoc):
            digest = hashlib.sha256(document.text.encode()).hexdigest()
            if digest in wanted:
                found[digest] = document.text
    texts = [found[digest] for digest in wanted if digest in found]
    lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
    (arguments.folder / "heldout.jsonl").write_text(lines)
    print(f"{len(texts)} of {len(wanted)} documents, {sum(len(text.encode()) for text in texts)} bytes")
    return 0 if texts else 1


def listed() -> dict[str, str]:
    """SHA-256 -> package of the held-out documents of PACKAGES, in the order in which they are scored."""
    rows = (ROOT / "models" / "tiny" / "heldout.txt").read_text().splitlines()
    fields = [row.split("\t") for row in rows if not row.startswith("#")]
    return {digest: package for package, _, _, digest in fields if package in PACKAGES}


if __name__ == "__main__":
    sys.exit(main())
