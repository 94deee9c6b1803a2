"""Rows of the database as facts, and facts as JSON in them."""

from __future__ import annotations

import json
from typing import Any, TypeVar

from thaloom.base.config import from_mapping
from thaloom.base.errors import BadParameter, StateUnusable

T = TypeVar("T")


def read(kind: type[T], data: dict[str, Any]) -> T:
    """A row as facts. A key or value we do not know means somebody else wrote it: never guessed around."""
    try:
        return from_mapping(kind, data)
    except BadParameter as error:
        raise StateUnusable(f"the node's database holds a {kind.__name__} we cannot read: {error.message}") from error


def encode(value: Any) -> str:
    """In ASCII: a path need not be UTF-8, and SQLite takes no half characters."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def decode(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise StateUnusable(f"the node's database holds text that is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise StateUnusable("the node's database holds JSON that is not an object")
    return value
