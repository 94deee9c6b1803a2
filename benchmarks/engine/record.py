"""From pairs to a dated record: JSON with every run in it, and a table for people."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.engine.cells import WEIGHT_CLASSES, Cell, WeightClass
from benchmarks.engine.interleave import Key, Measured
from benchmarks.engine.pairs import Pair, Run, judge
from benchmarks.engine.roofline import Roofline


def to_record(measured: Measured, rooflines: Mapping[WeightClass, Roofline]) -> dict[str, Any]:
    """Everything, by class, cell and peer."""
    classes: dict[str, Any] = {}
    for (weight_class, cell, peer), pairs in measured.pairs.items():
        entry = _cell_entry(classes, weight_class, cell)
        entry["peers"][peer] = {
            **dataclasses.asdict(judge(pairs, follows_memory=cell.follows_memory)),
            "pairs": [_pair_record(pair) for pair in pairs],
        }
    for (weight_class, cell), runs in measured.alone.items():
        _cell_entry(classes, weight_class, cell)["alone"] = [dataclasses.asdict(run) for run in runs]
    for weight_class, cell in _cells(measured):
        entry = _cell_entry(classes, weight_class, cell)
        runs = ours_of(measured, weight_class, cell)
        entry["ours"] = statistics.median(run.rate for run in runs)
        if weight_class in rooflines:
            entry["share_of_roofline"] = statistics.median(
                run.rate / rooflines[weight_class].rate(cell, bytes_per_s=run.probe) for run in runs
            )
        entry["best_peer"] = best_peer(entry["peers"])
    return {
        "versions": measured.versions,
        "left_out": measured.left_out,
        "ended_early": measured.ended_early,
        "failed": {f"{peer}, {cell.name}": why for (_, cell, peer), why in measured.failed.items()},
        "classes": classes,
    }


def crowded(record: Mapping[str, Any]) -> str:
    """A warning for the head of the table, if other work was beside."""
    told = [peer for cells in record["classes"].values() for cell in cells.values() for peer in cell["peers"].values()]
    num_pairs = sum(len(peer["pairs"]) for peer in told)
    num_crowded = sum(peer["num_crowded"] for peer in told)
    if not num_crowded:
        return ""
    return (
        f"**{num_crowded} of {num_pairs} pairs were crowded: other work wanted the processors for more than a fifth of "
        "the time. Ratios of crowded pairs are no result: engines whose threads wait for each other by spinning "
        "(llama.cpp) lose many times more than others.**"
    )


def ours_of(measured: Measured, weight_class: WeightClass, cell: Cell) -> list[Run]:
    """Every run of ours in a cell, whoever it was paired with."""
    paired = [
        pair.ours for (of_class, of_cell, _), pairs in measured.pairs.items() for pair in pairs
        if (of_class, of_cell) == (weight_class, cell)
    ]  # fmt: skip
    return paired + measured.alone.get((weight_class, cell), [])


def best_peer(peers: Mapping[str, Mapping[str, Any]]) -> str | None:
    """The one we lead least; by their own medians where no ratio counts."""
    if not peers:
        return None
    ratios = {name: told["ratio"] or told["ours"] / told["peer"] for name, told in peers.items()}
    return min(ratios, key=lambda name: ratios[name])


def table(record: Mapping[str, Any]) -> str:
    """Markdown: ours against the best peer of each class and cell, then everybody's medians."""
    lines: list[str] = []
    for weight_class in [name for name in WEIGHT_CLASSES if name in record["classes"]]:
        cells = record["classes"][weight_class]
        lines += [
            f"**{weight_class}** (tokens/s, medians; ratio: median of pairs, quartiles, number of pairs)",
            "",
            "| cell | ours | share of roofline | best peer | its rate | ratio |",
            "| --- | --- | --- | --- | --- | --- |",
            *(_row(cell, told) for cell, told in cells.items()),
            "",
            *_everybody(cells),
            "",
        ]
    if record["left_out"] or record["failed"]:
        lines += ["Not measured:", ""]
        lines += [f"* {name}: {_first_line(why)}" for name, why in {**record["left_out"], **record["failed"]}.items()]
        lines.append("")
    return "\n".join(lines)


def _row(cell: str, told: Mapping[str, Any]) -> str:
    share = f"{told['share_of_roofline']:.2f}" if "share_of_roofline" in told else ""
    name = told["best_peer"]
    if name is None:
        return f"| {cell} | {_number(told['ours'])} | {share} | none | | |"
    peer = told["peers"][name]
    return f"| {cell} | {_number(peer['ours'])} | {share} | {name} | {_number(peer['peer'])} | {ratio_text(peer)} |"


def ratio_text(told: Mapping[str, Any]) -> str:
    """`1.62 (1.55 to 1.70, 5)`, or why there is none."""
    refused = f", {told['num_refused']} refused" if told["num_refused"] else ""
    refused += f", {told['num_crowded']} crowded" if told["num_crowded"] else ""
    if told["ratio"] is None:
        return f"refused: memory moved in {told['num_refused']} of {told['num_refused'] + told['num_pairs']} pairs"
    return f"**{told['ratio']:.2f}** ({told['low']:.2f} to {told['high']:.2f}, {told['num_pairs']}{refused})"


def _everybody(cells: Mapping[str, Any]) -> list[str]:
    names = list(dict.fromkeys(name for told in cells.values() for name in told["peers"]))
    if not names:
        return []
    lines = ["| engine | " + " | ".join(cells) + " |", "| --- |" + " --- |" * len(cells)]
    lines.append("| ours | " + " | ".join(_number(told["ours"]) for told in cells.values()) + " |")
    for name in names:
        figures = [told["peers"].get(name) for told in cells.values()]
        shown = [
            "" if told is None else _number(told["peer"]) + (f" (x{told['ratio']:.2f})" if told["ratio"] else "")
            for told in figures
        ]
        lines.append(f"| {name} | " + " | ".join(shown) + " |")
    return lines


def _number(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.1f}"


def _first_line(text: str) -> str:
    return text.splitlines()[0] if text else ""


def _cell_entry(classes: dict[str, Any], weight_class: WeightClass, cell: Cell) -> dict[str, Any]:
    entry: dict[str, Any] = classes.setdefault(weight_class, {}).setdefault(cell.name, {"peers": {}})
    return entry


def _pair_record(pair: Pair) -> dict[str, float | None]:
    return {
        "ours": round(pair.ours.rate, 2),
        "peer": round(pair.peer.rate, 2),
        "ours_probe": round(pair.ours.probe),
        "peer_probe": round(pair.peer.probe),
        "ours_waited": pair.ours.waited,
        "peer_waited": pair.peer.waited,
    }


def _cells(measured: Measured) -> Sequence[tuple[WeightClass, Cell]]:
    keys: list[Key] = list(measured.pairs)
    return list(dict.fromkeys([(weight_class, cell) for weight_class, cell, _ in keys] + list(measured.alone)))
