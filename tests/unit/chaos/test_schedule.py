"""The schedule of faults follows from the seed alone, and has everything in it."""

from __future__ import annotations

import json

import pytest

from tests.chaos.schedule import BEGIN_S, END_S, KINDS, Fault, from_json, make_schedule, to_json
from tests.chaos.striking import Striker


def test_equal_seeds_give_equal_faults_and_others_others() -> None:
    assert make_schedule(7, 1200) == make_schedule(7, 1200)
    assert make_schedule(7, 1200) != make_schedule(8, 1200)


def test_a_schedule_is_known_for_good() -> None:
    """A record names a seed: what it stood for must not change with a Python or a refactoring unnoticed."""
    first = make_schedule(1, 60, kinds=("kill_worker", "kill_door", "fill_disk"))[0]
    assert first == Fault(number=0, at_s=2.0, kind="kill_door", whom=0.09386, span_s=0.0)


@pytest.mark.parametrize("seed", range(20))
def test_every_kind_comes_in_twenty_minutes_and_none_too_early_or_too_late(seed: int) -> None:
    faults = make_schedule(seed, 1200)
    assert {fault.kind for fault in faults} == set(KINDS)
    assert 100 < len(faults) < 200
    assert all(BEGIN_S <= fault.at_s < 1200 - END_S for fault in faults)
    assert [fault.number for fault in faults] == list(range(len(faults)))
    assert sorted(fault.at_s for fault in faults) == [fault.at_s for fault in faults]


def test_it_comes_back_from_a_record() -> None:
    faults = make_schedule(3, 300)
    text = json.dumps({"seed": 3, "schedule": to_json(faults)})
    assert from_json(json.loads(text)) == faults
    assert from_json(to_json(faults)) == faults


@pytest.mark.parametrize("data", [None, {}, {"schedule": 3}, [{"number": 1}], [{"kind": "nothing"}], 7])
def test_what_is_no_schedule_is_refused(data: object) -> None:
    with pytest.raises(ValueError, match=r"schedule|fault"):
        from_json(data)


@pytest.mark.parametrize("wrong", [{"kind": "rain"}, {"whom": 1.0}, {"at_s": -1.0}, {"span_s": -0.1}])
def test_a_fault_checks_itself(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"fault|whom"):
        Fault(**{"number": 0, "at_s": 1.0, "kind": "reload", "whom": 0.5, "span_s": 0.0} | wrong)  # type: ignore[arg-type]


def test_somebody_carries_out_every_kind() -> None:
    assert all(callable(getattr(Striker, f"_{kind}", None)) for kind in KINDS)
