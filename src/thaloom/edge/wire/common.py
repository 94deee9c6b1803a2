"""What the messages of every public protocol have in common: how strictly callers are read, and how nodes answer."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler
from pydantic_core import CoreSchema


def _fail_fast(schema: Any) -> None:
    """In place: of every list in a core schema."""
    if isinstance(schema, dict):
        if schema.get("type") == "list":
            schema["fail_fast"] = True
        for part in schema.values():
            _fail_fast(part)
    elif isinstance(schema, list | tuple):
        for part in schema:
            _fail_fast(part)


class Ask(BaseModel):
    """Base of what callers send: types and ranges are checked, and unknown fields let pass, as existing clients
    expect."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True, allow_inf_nan=False)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """A list is refused at its first wrong item. One complaint is all that is told, and making a million of them
        would hold up everybody."""
        schema = handler(source)
        _fail_fast(schema)
        return schema


class Answer(BaseModel):
    """Base of what a node answers. It may grow new fields; an older client ignores them."""

    model_config = ConfigDict(extra="ignore", frozen=True)
