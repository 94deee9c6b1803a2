"""Writes what stands beside the weights: the card, the notice of sources, the list of held-out documents.

    python describe.py ../tiny WORK_FOLDER/corpus

Run it last: the card quotes evaluation.json, training.json and training_log.csv.
"""

from __future__ import annotations

import argparse
import csv
import json
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from string import Template
from typing import Any

TEMPLATE = Path(__file__).with_name("MODEL_CARD.template.md")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("corpus", type=Path)
    arguments = parser.parse_args()
    model: Path = arguments.model
    sources = json.loads((arguments.corpus / "sources.json").read_text())
    used = [source for source in sources if source["train_bytes"] + source["heldout_bytes"]]
    (model / "heldout.txt").write_text(heldout_list(arguments.corpus / "heldout.jsonl"))
    (model / "NOTICE").write_text(notice(used))
    (model / "MODEL_CARD.md").write_text(card(model, used))


def heldout_list(path: Path) -> str:
    """One line per document: package, path, bytes and SHA-256 of its cleaned text, parted by tabs."""
    with path.open() as lines:
        documents = [json.loads(line) for line in lines]
    rows = ["# package\tpath\tbytes\tsha256 of the cleaned text; in the order in which they are scored"]
    for document in documents:
        text = document["text"].encode()
        rows.append(f"{document['package']}\t{document['path']}\t{len(text)}\t{sha256(text).hexdigest()}")
    return "\n".join(rows) + "\n"


def notice(sources: list[dict[str, Any]]) -> str:
    lines = [
        'Thaloom\'s bundled model "tiny"',
        "",
        "The weights, the tokenizer and the configuration are Thaloom's own work, made from nothing by the",
        "scripts in models/train, and are offered under the Apache License, Version 2.0, as Thaloom is.",
        "",
        "They were computed from documentation in the following packages of Debian 12 (bookworm), section",
        "main: free software by the Debian Free Software Guidelines. The texts themselves are not part of",
        "this folder; they remain under the licences of their authors, which each package states in",
        "/usr/share/doc/PACKAGE/copyright. The names below are those of that file, the most frequent first;",
        "they cover the whole package, programs included. A model of this size can still repeat a phrase of",
        "what it read: the licence of the text then applies to that phrase.",
        "",
    ]
    for source in sorted(sources, key=lambda source: str(source["package"])):
        lines.append(f"{source['package']} {source['version']}: {source['licence']}")
    return "\n".join(lines) + "\n"


def card(model: Path, sources: list[dict[str, Any]]) -> str:
    evaluation = json.loads((model / "evaluation.json").read_text())
    training = json.loads((model / "training.json").read_text())
    config = json.loads((model / "config.json").read_text())
    progress, recipe = training["progress"], training["recipes"][-1]
    weights = model / "model.safetensors"
    values = {
        **config,
        **recipe,
        **evaluation,
        "parameters": f"{(weights.stat().st_size - header_bytes(weights)) // 2:,}",
        "weights_bytes": f"{weights.stat().st_size:,}",
        "weights_sha256": sha256(weights.read_bytes()).hexdigest(),
        "heldout_bytes": f"{evaluation['heldout_bytes']:,}",
        "xz_9e_bytes": f"{evaluation['xz_9e_bytes']:,}",
        "steps": f"{progress['step']:,}",
        "tokens": f"{progress['tokens'] / 1e6:.1f}",
        "minutes": f"{progress['seconds'] / 60:.0f}",
        "decay_from": f"{progress['decay_from']:,}",
        "decay_steps": f"{progress['step'] - progress['decay_from']:,}",
        "num_packages": len(sources),
        "train_documents": f"{sum(source['train_documents'] for source in sources):,}",
        "train_megabytes": f"{sum(source['train_bytes'] for source in sources) / 1e6:.1f}",
        "earlier": earlier_recipes(training["recipes"]),
        "log": log_table(model / "training_log.csv"),
        "sources": source_table(sources),
    }
    return Template(TEMPLATE.read_text()).substitute(values)


def header_bytes(weights: Path) -> int:
    """The length of a safetensors file's header, its own eight length bytes included."""
    with weights.open("rb") as file:
        return 8 + int.from_bytes(file.read(8), "little")


def earlier_recipes(recipes: list[dict[str, Any]]) -> str:
    """One sentence per change of the recipe during the run; nothing where there was none."""
    sentences = []
    for before, after in pairwise(recipes):
        changed = [name for name in after if name != "from_step" and before[name] != after[name]]
        values = ", ".join(f"{name} {before[name]}" for name in changed)
        sentences.append(f" Until step {after['from_step']} the run had {values}.")
    return "".join(sentences)


def log_table(path: Path, num_rows: int = 16) -> str:
    with path.open() as file:
        rows = list(csv.DictReader(file))
    chosen = [rows[round(place * (len(rows) - 1) / (num_rows - 1))] for place in range(num_rows)]
    lines = ["| step | million tokens | loss, nats per token | minutes |", "|---:|---:|---:|---:|"]
    for row in chosen:
        tokens, minutes = int(row["tokens"]) / 1e6, float(row["seconds"]) / 60
        lines.append(f"| {row['step']} | {tokens:.2f} | {row['loss_nats_per_token']} | {minutes:.1f} |")
    return "\n".join(lines)


def source_table(sources: list[dict[str, Any]]) -> str:
    lines = [
        "| package | version | weight | training bytes | held-out bytes | licences |",
        "|---|---|---:|---:|---:|---|",
    ]
    for source in sorted(sources, key=lambda source: -source["train_bytes"]):
        licence = str(source["licence"]).replace("|", "/")
        licence = licence if len(licence) <= 90 else licence[:87].rsplit(",", 1)[0] + ", ..."
        lines.append(
            f"| {source['package']} | {source['version']} | {source['weight']} | {source['train_bytes']} "
            f"| {source['heldout_bytes']} | {licence} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
