"""What the library would follow to an answer that is not valid is said more strictly, or else refused by name.

All of it was found by holding the library (llguidance 1.9.1) against the meaning: `make schemas`, and pairs of bounds.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

_DATE = (
    r"([0-9]{4}-((0[13-9]|1[0-2])-[0-9]{2}|02-([01][0-9]|2[0-8]))"
    r"|([0-9]{2}(0[48]|[2468][048]|[13579][26])|([02468][048]|[13579][26])00)-02-29)"
)
_TIME = "[0-9]{2}:[0-9]{2}:[0-5]"
_FORMATS = {
    "date": f"^{_DATE}",
    "time": f"^{_TIME}",
    "date-time": f"^{_DATE}[Tt]{_TIME}",
    "email": r"^[^@]{1,64}@[^.]{1,63}(\.[^.]{1,63})*$",
}
"""What must be true of them beside what is checked: no 29th of February but in leap years; no 60th second, which is
right on few days; parts that are not longer than names may be (RFC 3339, 5.6 and 5.7; RFC 5321, 4.5.3.1)."""
_DATA = frozenset({"const", "enum", "default", "examples"})
"""Under these stands no schema."""


def tightened(schema: dict[str, Any]) -> dict[str, Any]:
    """Of the same meaning, for all that the library makes of it. Raises ValueError that names a keyword."""
    for part in _parts(schema):
        _check_bounds(part)
    made: dict[str, Any] = _with_formats(schema)
    return made


def _with_formats(data: Any) -> Any:
    if isinstance(data, list):
        return [_with_formats(part) for part in data]
    if not isinstance(data, dict):
        return data
    made = {key: value if key in _DATA else _with_formats(value) for key, value in data.items()}
    form, others = made.get("format"), made.get("allOf", [])
    if isinstance(form, str) and form in _FORMATS and isinstance(others, list):
        made["allOf"] = [*others, {"pattern": _FORMATS[form]}]
    return made


def _parts(data: Any) -> Iterator[dict[str, Any]]:
    waiting = [data]
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict):
            yield part
            waiting += [value for key, value in part.items() if key not in _DATA]
        elif isinstance(part, list):
            waiting += part


def _check_bounds(part: dict[str, Any]) -> None:
    """A whole number that is excluded is let in where the other bound is less than 1 away: `exclusiveMinimum` 2 with
    `maximum` 2.5 takes 2. Source: tried with llguidance 1.9.1 against the meaning, all kinds of pairs of bounds."""
    kinds = part.get("type", "number")
    if "number" not in (kinds if isinstance(kinds, list) else [kinds]):
        return
    low = max(_bounds(part, "minimum", "exclusiveMinimum"), default=-math.inf)
    high = min(_bounds(part, "maximum", "exclusiveMaximum"), default=math.inf)
    for keyword in ("exclusiveMinimum", "exclusiveMaximum"):
        for bound in _bounds(part, keyword):
            if float(bound).is_integer() and 0 < high - low < 1:
                raise ValueError(f"{keyword} {bound:g} would not be kept with less than 1 to the other bound")


def _bounds(part: dict[str, Any], *keywords: str) -> list[float]:
    found = (part.get(keyword) for keyword in keywords)
    return [
        bound
        for bound in found
        if isinstance(bound, int | float) and not isinstance(bound, bool) and abs(bound) < 1e300
    ]
