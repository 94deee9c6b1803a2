from __future__ import annotations

import pytest

from thaloom.kernel.sandbox import latency
from thaloom.kernel.sandbox.inside import kernel_calls
from thaloom.kernel.sandbox.latency import WEIGHTS, ability_of, find_batch, find_turns
from thaloom.kernel.sandbox.types import TURN_NS, Ability, LimitName

HELD: dict[LimitName, Ability] = {"cpu_weight": Ability(name="cpu_weight", by="groups")}
NOT_HELD: dict[LimitName, Ability] = {"cpu_weight": Ability(name="cpu_weight", why_not="no groups")}


def test_who_answers_somebody_outweighs_who_can_wait() -> None:
    assert WEIGHTS["interactive"] > WEIGHTS["normal"] > WEIGHTS["batch"]


def test_a_class_is_whole_or_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency, "find_turns", lambda: Ability(name="turns", why_not="an old kernel"))
    assert ability_of("normal", NOT_HELD).enforced
    assert ability_of("batch", HELD).enforced
    assert "no groups" in (ability_of("batch", NOT_HELD).why_not or "")
    assert ability_of("interactive", HELD).why_not == "turns: an old kernel"
    assert ability_of("interactive", NOT_HELD).why_not == "cpu_weight: no groups; turns: an old kernel"
    monkeypatch.setattr(latency, "find_turns", lambda: Ability(name="turns", by="it"))
    assert ability_of("interactive", HELD).enforced


@pytest.mark.parametrize(
    ("given", "enforced"), [(TURN_NS, True), (0, False), (3_000_000, False), (OSError(1, "not permitted"), False)]
)
def test_a_turn_is_read_again(given: int | OSError, enforced: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def turn() -> int:
        if isinstance(given, OSError):
            raise given
        return given

    monkeypatch.setattr(kernel_calls, "set_scheduling", lambda *_: None)
    monkeypatch.setattr(kernel_calls, "turn_ns", turn)
    assert find_turns.__wrapped__().enforced is enforced


@pytest.mark.parametrize("refusal", [None, OSError(1, "not permitted")])
def test_giving_way_may_be_refused(refusal: OSError | None, monkeypatch: pytest.MonkeyPatch) -> None:
    def schedule(*_: int) -> None:
        if refusal is not None:
            raise refusal

    monkeypatch.setattr(kernel_calls, "set_scheduling", schedule)
    found = find_batch.__wrapped__()
    assert found.enforced is (refusal is None)
    assert refusal is None or "not permitted" in (found.why_not or "")


def test_looking_changes_nothing_for_who_looks() -> None:
    before = kernel_calls.turn_ns()
    find_turns.__wrapped__()
    assert kernel_calls.turn_ns() == before
