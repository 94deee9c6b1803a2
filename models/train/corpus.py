"""Builds the training and held-out texts from Debian packages.

    python corpus.py WORK_FOLDER            # everything
    python corpus.py WORK_FOLDER --only convert

Three steps, each kept in WORK_FOLDER so that it can be resumed: fetch and
convert every package of sources.txt into documents; drop what repeats; split
by document into train.jsonl, heldout.jsonl and sources.json.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from multiprocessing import Pool
from pathlib import Path

from documents import Document, documents_of
from packages import fetch, unpack
from repeats import without_repeats
from split import split

SOURCES = Path(__file__).with_name("sources.txt")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--only", choices=["convert", "assemble"])
    parser.add_argument("--out", default="corpus", help="name of the result's folder inside the work folder")
    arguments = parser.parse_args()
    if arguments.only != "assemble":
        convert_all(arguments.work, list(package_weights()))
    if arguments.only != "convert":
        assemble(arguments.work, arguments.work / arguments.out)


def package_weights() -> dict[str, int]:
    """The packages of sources.txt in its order, each with its weight."""
    weights, weight = {}, 1
    for line in SOURCES.read_text().splitlines():
        words = line.partition("#")[0].split()
        if len(words) == 1 and words[0].isdigit():
            weight = int(words[0])
            continue
        weights.update(dict.fromkeys(words, weight))
    return weights


def convert_all(work: Path, names: list[str]) -> None:
    """Leaves WORK/converted/<package>.jsonl for each package: a header line, then one line per document."""
    fetch(["mandoc", *names], work / "debs")
    mandoc = unpack("mandoc", work / "debs", work / "trees").root / "usr/bin/mandoc"
    (work / "converted").mkdir(exist_ok=True)
    with Pool() as pool:
        for _ in pool.imap_unordered(partial(convert_package, work=work, mandoc=mandoc), names):
            pass


def convert_package(name: str, work: Path, mandoc: Path) -> None:
    target = work / "converted" / f"{name}.jsonl"
    if target.exists():
        return
    package = unpack(name, work / "debs", work / "trees")
    header = {"package": name, "version": package.version, "licence": package.licence}
    lines = [header, *(asdict(document) for document in documents_of(package, mandoc))]
    partial_file = target.with_suffix(".part")
    partial_file.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    partial_file.rename(target)


def assemble(work: Path, out: Path) -> None:
    """Writes train.jsonl, heldout.jsonl and sources.json into `out`."""
    weights = package_weights()
    headers = {name: header_of(work, name) | {"weight": weight} for name, weight in weights.items()}
    kept = list(without_repeats(document for name in weights for document in converted(work, name)))
    train, heldout = split(kept)
    out.mkdir(exist_ok=True)
    write_documents(out / "train.jsonl", train)
    write_documents(out / "heldout.jsonl", heldout)
    for name, header in headers.items():
        for part, documents in (("train", train), ("heldout", heldout)):
            texts = [document.text.encode() for document in documents if document.package == name]
            header[f"{part}_documents"], header[f"{part}_bytes"] = len(texts), sum(map(len, texts))
    (out / "sources.json").write_text(json.dumps(list(headers.values()), indent=1))
    for part, documents in (("train", train), ("heldout", heldout)):
        print(part, len(documents), "documents", sum(len(document.text.encode()) for document in documents), "bytes")


def header_of(work: Path, name: str) -> dict[str, str | int]:
    with (work / "converted" / f"{name}.jsonl").open() as lines:
        header: dict[str, str | int] = json.loads(next(lines))
    return header


def converted(work: Path, name: str) -> Iterator[Document]:
    with (work / "converted" / f"{name}.jsonl").open() as lines:
        next(lines)
        for line in lines:
            yield Document(**json.loads(line))


def write_documents(path: Path, documents: list[Document]) -> None:
    with path.open("w") as out:
        for document in documents:
            out.write(json.dumps(asdict(document), ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
