"""The bundled model behind a real door, held to random JSON schemas and grammars: tests/follow_schemas.py has the long
form (make schemas)."""

from __future__ import annotations

import pytest

from tests.follow_schemas import run

pytestmark = pytest.mark.slow


def test_every_answer_is_valid_by_its_schema() -> None:
    record = run(range(5000, 5060), range(5000, 5030), 1)
    assert record["failures"] == []
    assert sum(record["grammar_outcomes"].values()) == 30
    outcomes = record["outcomes"]
    assert outcomes["valid"] + outcomes.get("cut", 0) + outcomes.get("refused", 0) == 60
    assert outcomes["valid"] >= 50
    assert outcomes.get("refused", 0) <= 6
