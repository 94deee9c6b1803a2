"""What the messages of every public protocol have in common: how strictly callers are read, and how nodes answer."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Ask(BaseModel):
    """Base of what callers send: types and ranges are checked, and unknown fields let pass, as existing clients
    expect."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True, allow_inf_nan=False)


class Answer(BaseModel):
    """Base of what a node answers. It may grow new fields; an older client ignores them."""

    model_config = ConfigDict(extra="ignore", frozen=True)
