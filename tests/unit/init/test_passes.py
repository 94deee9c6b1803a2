"""How long passes take."""

from __future__ import annotations

from thaloom.init.rounds.passes import Passes


def test_the_last_pass_and_the_slowest_of_a_hundred() -> None:
    passes = Passes()
    assert (passes.num, passes.last_s, passes.slowest_s) == (0, 0.0, 0.0)
    passes.took(9.0, 1.0)
    for _ in range(100):
        passes.took(0.5, 0.25)
    assert (passes.num, passes.last_s, passes.slowest_s, passes.last_cpu_s) == (101, 0.5, 0.5, 0.25)
