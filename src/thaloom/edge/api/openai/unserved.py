"""Fields that are refused by name, unless they ask for nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from thaloom.base.errors import BadParameter


def refuse_unserved(data: Any, neutral: Mapping[str, tuple[Any, ...]], path: str = "") -> None:
    """Raises BadParameter for a field of `data` that would change the answer and is not served. `path`: of `data`."""
    if not isinstance(data, Mapping):
        return
    for name, values in neutral.items():
        if not _asks_for_nothing(data.get(name), values):
            where = f"{path}{name}"
            raise BadParameter(f"{where} is not served, and leaving it out would change the answer", param=where)


def _asks_for_nothing(value: Any, neutral: tuple[Any, ...]) -> bool:
    return value is None or any(value == one and isinstance(value, bool) == isinstance(one, bool) for one in neutral)
