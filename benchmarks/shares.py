"""How many requests one pool of pages admits beside static splits of the same bytes:

    python -m benchmarks.shares RATES... [--record]

RATES are tables of how often clients ask, in windows of ten minutes: client, t_s, rate_rps, cv (ServeGen's, .gz or
not). Ten clients at a time stand for ten services on one device, each scaled to the same mean. In every tick of 30 s as
many requests come as are drawn for its window (of a Gamma distribution with the window's own mean and variation); each
holds 4 pages for two ticks, and none is to wait.

A static split gives each service its own peak, so it needs the sum of the peaks. A pool that could see to everybody at
any moment would need the peak of the sum: their ratio is the group's *ceiling*. What is measured is the smallest pool
in which the workers' own policy (kernel.memory.sharing.targets) keeps anybody from waiting, with a floor for each
service of so much of its mean: sum of peaks over that pool is how many times the static split's requests the same bytes
admit, at equal service. In a static split of that smallest pool, by peaks, some would wait: how many is told too.

Pages are asked back within the tick, as moving one takes less than a thousandth of it (benchmarks/pages.py).
"""

from __future__ import annotations

import argparse
import csv
import gzip
import statistics
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.node import machine, write_record
from numpy.typing import NDArray

from thaloom.kernel.memory.sharing import ENDLESS, Share, targets

SERVICES = 10
WINDOW_S, TICKS = 600, 20
"""Ticks in a window."""
PAGES_EACH, MEAN_PAGES = 4, 200
"""Of a request; of a service."""
FLOORS = (0.0, 0.25, 0.5)
"""Of a service's mean. The first is what no promise would cost, the second is the one to judge by."""
JUDGED = 0.25
AHEAD = 1024

Pages = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Rates:
    """(clients, windows) each."""

    rate: NDArray[np.float64]
    variation: NDArray[np.float64]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rates", type=Path, nargs="+")
    parser.add_argument("--groups", type=int, default=100)
    parser.add_argument("--record", action="store_true", help="write benchmarks/records/<date>-shares.json")
    given = parser.parse_args()
    tables = {}
    for path in given.rates:
        rates = read(path)
        groups = [of_group(rates, seed) for seed in range(given.groups)]
        tables[path.name.split(".csv")[0]] = summary(groups)
        show(path, tables[path.name.split(".csv")[0]])
    if given.record:
        parameters = {"services": SERVICES, "groups": given.groups, "tick_s": WINDOW_S // TICKS}
        write_record("shares", machine() | parameters | {"traces": tables})
    return 0


def read(path: Path) -> Rates:
    found: dict[str, dict[int, tuple[float, float]]] = defaultdict(dict)
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as file:
        for row in csv.DictReader(file):
            found[row["client"]][int(row["t_s"]) // WINDOW_S] = float(row["rate_rps"]), float(row["cv"])
    num_windows = 1 + max(max(windows) for windows in found.values())
    table = np.zeros((2, len(found), num_windows))
    for client, windows in enumerate(found.values()):
        for window, pair in windows.items():
            table[:, client, window] = pair
    return Rates(*table)


def of_group(rates: Rates, seed: int) -> dict[str, Any]:
    chance = np.random.default_rng(seed)
    chosen = chance.choice(len(rates.rate), SERVICES, replace=False)
    demand = draw_demand(rates.rate[chosen], rates.variation[chosen], chance)
    peaks = demand.max(axis=1)
    windows = rates.rate[chosen] / rates.rate[chosen].mean(axis=1, keepdims=True)
    row: dict[str, Any] = {
        "ceiling": peaks.sum() / demand.sum(axis=0).max(),
        "ceiling_of_rates": windows.max(axis=1).sum() / windows.sum(axis=0).max(),
    }
    for floor in FLOORS:
        floors = np.minimum(peaks, np.rint(floor * demand.mean(axis=1))).astype(np.int64)
        pool, moved = smallest_pool(demand, floors)
        admitted = peaks.sum() / pool
        row[f"floor {floor:g}"] = {
            "admitted": admitted,
            "of_ceiling": admitted / row["ceiling"],
            "late_in_static": late_in_static(demand, peaks, pool),
            "pages_moved_per_hour": moved / (demand.shape[1] / TICKS * WINDOW_S / 3600),
        }
    return row


def draw_demand(rate: NDArray[np.float64], variation: NDArray[np.float64], chance: np.random.Generator) -> Pages:
    """(services, ticks): the pages that would be held if nobody had to wait."""
    mean = np.repeat(rate / rate.mean(axis=1, keepdims=True), TICKS, axis=1) * (MEAN_PAGES / PAGES_EACH / 2)
    spread = np.repeat(np.maximum(variation, 0.1) ** 2, TICKS, axis=1)
    come = np.rint(chance.gamma(np.maximum(mean, 1e-9) / spread, spread)).astype(np.int64)
    held = come.copy()
    held[:, 1:] += come[:, :-1]
    return held * PAGES_EACH


def smallest_pool(demand: Pages, floors: Pages) -> tuple[int, int]:
    """In which nobody waits, and how many pages changed owners there. No policy could do with less than the most that
    is held or promised at any moment; ours gets one percent more until it can do with that."""
    num_pages = int(np.maximum(demand, floors[:, None]).sum(axis=0).max())
    while (moved := replay(demand, floors, num_pages)) is None:
        num_pages += max(1, num_pages // 100)
    return num_pages, moved


def replay(demand: Pages, floors: Pages, num_pages: int) -> int | None:
    """How many pages changed owners; None as soon as somebody waits."""
    held = [0] * len(demand)
    ticks = np.ascontiguousarray(demand.T)
    at = moved = 0
    while at < len(ticks):
        short = (ticks[at : at + AHEAD] > held).any(axis=1)
        if not short.any():
            at += AHEAD
            continue
        at += int(short.argmax())
        wanted = ticks[at].tolist()
        shares = [
            Share(floor, floor, ENDLESS, 0, have, want)
            for floor, have, want in zip(floors.tolist(), held, wanted, strict=True)
        ]
        aims = targets(shares, num_pages)
        if any(aim < want for aim, want in zip(aims, wanted, strict=True)):
            return None
        given = [min(have, aim) for have, aim in zip(held, aims, strict=True)]
        held = [max(have, want) for have, want in zip(given, wanted, strict=True)]
        assert sum(max(have, floor) for have, floor in zip(held, floors.tolist(), strict=True)) <= num_pages, "oversold"
        moved += sum(share.held - left for share, left in zip(shares, given, strict=True))
        at += 1
    return moved


def late_in_static(demand: Pages, peaks: Pages, num_pages: int) -> float:
    """The share of what is asked for that finds no page where each service has a part of the pool for good."""
    parts = np.floor(peaks * (num_pages / peaks.sum()))
    return float(np.maximum(demand - parts[:, None], 0).sum() / demand.sum())


def summary(groups: list[dict[str, Any]]) -> dict[str, Any]:
    def spread(values: list[float]) -> dict[str, float]:
        ordered = sorted(values)
        return {
            "median": round(statistics.median(ordered), 4),
            "p10": round(ordered[len(ordered) // 10], 4),
            "least": round(ordered[0], 4),
        }

    table: dict[str, Any] = {name: spread([row[name] for row in groups]) for name in ("ceiling", "ceiling_of_rates")}
    for floor in FLOORS:
        name = f"floor {floor:g}"
        table[name] = {key: spread([row[name][key] for row in groups]) for key in groups[0][name]}
    return table


def show(path: Path, table: dict[str, Any]) -> None:
    drawn, of_rates = (table[name]["median"] for name in ("ceiling", "ceiling_of_rates"))
    print(f"{path.name}: ceiling {drawn:.2f}, of rates alone {of_rates:.2f}")
    for floor in FLOORS:
        row = table[f"floor {floor:g}"]
        print(
            f"  floor {floor:4g} of the mean: {row['admitted']['median']:.2f} times as many admitted, "
            f"{row['of_ceiling']['median']:.1%} of the ceiling (least {row['of_ceiling']['least']:.1%}); "
            f"{row['late_in_static']['median']:.2%} late in a static split of these bytes"
            + ("   <- judged by" if floor == JUDGED else "")
        )


if __name__ == "__main__":
    sys.exit(main())
