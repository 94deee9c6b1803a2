"""Our own JSON files are read by the same strict reader as the settings: ids, dictionaries and null included."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NewType

import pytest

from thaloom.base.config import from_mapping
from thaloom.base.errors import BadParameter

Name = NewType("Name", str)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    name: Name
    parent: Name | None = None
    names: tuple[Name, ...] = ()
    files: dict[str, str] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)


def test_ids_dictionaries_and_null_are_read() -> None:
    data = {"name": "a", "parent": None, "names": ["b"], "files": {"x": "y"}, "data": {"deep": [1, None, {}]}}
    assert from_mapping(Row, data) == Row(
        name=Name("a"), names=(Name("b"),), files={"x": "y"}, data={"deep": [1, None, {}]}
    )


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"name": 1}, "name"),
        ({"name": None}, "name"),
        ({"parent": 1}, "parent"),
        ({"names": "b"}, "names"),
        ({"names": {"b": 1}}, "names"),
        ({"files": []}, "files"),
        ({"files": {"x": 1}}, "files.x"),
        ({"data": "x"}, "data"),
    ],
)
def test_a_value_of_another_kind_is_refused_by_name(change: dict[str, Any], param: str) -> None:
    with pytest.raises(BadParameter) as caught:
        from_mapping(Row, {"name": "a"} | change)
    assert caught.value.param == param
