"""`benchmarks/shares.py`: one pool beside static splits, on rates that are written by hand and on real ones."""

from __future__ import annotations

import statistics
from pathlib import Path

import numpy as np
import pytest
from benchmarks import shares

from tests.shared_data import shared_data


def test_services_that_are_busy_in_turn_share_what_one_needs() -> None:
    demand = np.zeros((4, 400), np.int64)
    for service in range(4):
        demand[service, 100 * service : 100 * (service + 1)] = 50
    assert shares.smallest_pool(demand, np.zeros(4, np.int64)) == (50, 150)
    pool, moved = shares.smallest_pool(demand, np.full(4, 10))
    assert (pool, moved) == (80, 120), "floors are not lent"
    assert shares.late_in_static(demand, demand.max(axis=1), 50) == pytest.approx(38 / 50)


def test_services_that_are_busy_together_gain_nothing() -> None:
    demand = np.full((4, 100), 50)
    assert shares.smallest_pool(demand, np.zeros(4, np.int64)) == (200, 0)
    assert shares.replay(demand, np.zeros(4, np.int64), 199) is None


def test_windows_that_are_missing_are_quiet(tmp_path: Path) -> None:
    (tmp_path / "rates.csv").write_text("client,t_s,rate_rps,cv\n7,0,2,1\n7,1200,4,1\n9,600,1,1.5\n")
    rates = shares.read(tmp_path / "rates.csv")
    assert rates.rate.tolist() == [[2, 0, 4], [0, 1, 0]]
    assert rates.variation.tolist() == [[1, 0, 1], [0, 1.5, 0]]


@pytest.mark.data
def test_on_real_rates_one_pool_comes_near_to_what_is_possible() -> None:
    rates = shares.read(shared_data("sched/servegen/deepseek-r1.top25.rates.csv.gz"))
    groups = [shares.of_group(rates, seed) for seed in range(5)]
    assert statistics.median(group["floor 0.25"]["of_ceiling"] for group in groups) >= 0.85
