"""Documents in their one form: what is said and not what is default, and the version that follows from it. Pure."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any, TypeVar

from thaloom.base.config import from_mapping
from thaloom.base.errors import BadParameter
from thaloom.kernel.state.types import Document

T = TypeVar("T")
_OWN = ("name", "labels")
"""Of a fact, what stands in a document's metadata and not in its spec."""


def read_spec(kind: type[T], document: Document) -> T:
    """The fact that a document states. Raises BadParameter that names the field as the document has it: `spec.model`,
    `metadata.labels.app`."""
    for key in _OWN:
        if key in document.spec:
            raise BadParameter(f"unknown field 'spec.{key}' (it is 'metadata.{key}')", param=f"spec.{key}")
    known = {field.name for field in dataclasses.fields(kind)} - set(_OWN)  # type: ignore[arg-type]
    for key in document.spec:
        if key not in known:
            raise BadParameter(f"unknown field 'spec.{key}' (known: {', '.join(sorted(known))})", param=f"spec.{key}")
    own = {"name": document.name, "labels": dict(document.labels)}
    try:
        return from_mapping(kind, {**document.spec, **own})
    except BadParameter as error:
        raise BadParameter(error.message, param=place(error.param), **error.details) from error


def place(param: str | None) -> str:
    """Where in a document a fact's field stands."""
    if not param:
        return "spec"
    return f"metadata.{param}" if param.partition(".")[0] in _OWN else f"spec.{param}"


def written(kind: str, fact: Any) -> Document:
    """A fact (a dataclass with `name` and `labels`) as a document that says no more than it has to."""
    spec = {
        field.name: value
        for field in dataclasses.fields(fact)
        if field.name not in _OWN and (value := getattr(fact, field.name)) != _default(field)
    }
    return Document(kind=kind, name=fact.name, labels=dict(fact.labels), spec=plain(spec))


def version(document: Document) -> str:
    """What it is known by: the same as long as the document says the same. `v` and sixteen hexadecimal digits."""
    said = [document.kind, document.name, dict(document.labels), plain(document.spec)]
    text = json.dumps(said, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return f"v{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def record(document: Document | None) -> dict[str, Any] | None:
    """For plans and the journal."""
    if document is None:
        return None
    labels = {"labels": dict(document.labels)} if document.labels else {}
    return {**labels, **plain(document.spec)}


def same(one: Document | None, other: Document | None) -> bool:
    """Whether they wish the same."""
    return record(one) == record(other)


def plain(value: Any) -> Any:
    """JSON values only: dataclasses as what they say, lists for tuples."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: plain(item)
            for field in dataclasses.fields(value)
            if (item := getattr(value, field.name)) != _default(field)
        }
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default
