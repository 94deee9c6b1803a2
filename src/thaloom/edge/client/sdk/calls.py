"""One question to a node, before it travels."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import quote, urlencode

from pydantic import BaseModel

from thaloom.base.errors import BadParameter
from thaloom.edge.wire.control import PREFIX

Method = Literal["GET", "POST", "PUT", "DELETE"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    method: Method
    target: str
    """Path and query, percent-encoded."""
    content: bytes | None = None
    """JSON."""
    repeatable: bool
    """Done twice, it does no more than done once."""
    endless: bool = False
    """The answer may be silent for as long as it likes."""

    @property
    def is_control(self) -> bool:
        return self.target.startswith(PREFIX)


def get(path: str, /, *parts: str, endless: bool = False, **query: str | int | bool | None) -> Call:
    """`{}` in the path stands for a part."""
    return Call(method="GET", target=target(path, parts, query), repeatable=True, endless=endless)


def post(path: str, /, *parts: str, repeatable: bool = False, **fields: Any) -> Call:
    content = to_json(given(fields)) if fields else None
    return Call(method="POST", target=target(path, parts), content=content, repeatable=repeatable)


def put(path: str, /, *parts: str, **fields: Any) -> Call:
    return Call(method="PUT", target=target(path, parts), content=to_json(given(fields)), repeatable=True)


def delete(path: str, /, *parts: str, **query: str) -> Call:
    """Not repeatable: done twice, it says that there is no such thing."""
    return Call(method="DELETE", target=target(path, parts, query), repeatable=False)


def target(path: str, parts: tuple[str, ...] = (), query: Mapping[str, str | int | bool | None] | None = None) -> str:
    said = given(query or {})
    told = {name: str(value).lower() if isinstance(value, bool) else value for name, value in said.items()}
    return path.format(*map(as_part, parts)) + (f"?{urlencode(told)}" if told else "")


def as_part(name: str) -> str:
    """As one part of a path, and never one that is walked."""
    if not name:
        raise BadParameter("a name cannot be empty", param="name")
    return quote(name, safe="").replace(".", "%2E") if name in (".", "..") else quote(name, safe="")


def given(fields: Mapping[str, Any]) -> dict[str, Any]:
    """None is what nobody said."""
    return {name: value for name, value in fields.items() if value is not None}


def to_json(fields: Mapping[str, Any]) -> bytes:
    """Raises BadParameter for what JSON has no form for."""
    try:
        return json.dumps(fields, ensure_ascii=False, allow_nan=False, default=_plain).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise BadParameter(f"not to be said in JSON: {error}") from error


def _plain(value: Any) -> Any:
    """An answer's message can be said again as it is."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", exclude_none=True)
    if isinstance(value, (set, frozenset, tuple)):
        return list(value)
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} has no form in JSON")
