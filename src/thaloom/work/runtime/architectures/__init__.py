"""Model families: each reads the `config.json` of its models and records their forward pass as a Program.

A family is a plugin (`thaloom.architectures`). Its manifest's `provides` lists the names under which models ask for
it (`architectures` in config.json), so that choosing one runs no factory but the chosen one's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from thaloom.base.errors import NotServable
from thaloom.base.plugins import Registry
from thaloom.hal.ops import Program

Config = Mapping[str, object]
"""A model's config.json as parsed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """What every family can say of a model from its config alone."""

    vocab_size: int
    context_length: int
    """Tokens of the longest sequence the model was made for."""
    hidden_size: int
    num_layers: int


class Architecture(Protocol):
    """One family of models. Stateless."""

    @property
    def name(self) -> str: ...

    @property
    def families(self) -> tuple[str, ...]:
        """Names in `architectures` of config.json that mean this family."""
        ...

    def read(self, config: Config) -> ModelShape:
        """The model's shape. Raises NotServable that names the key this family cannot serve as asked.

        A key that asks for nothing (None, False, 0, empty) is never a reason; one that is not known and asks for
        something always is: nothing is ignored that might change an answer.
        """
        ...

    def build(self, config: Config) -> Program:
        """The forward pass, with the weights' names as their files have them. Raises as `read` does."""
        ...


def select(registry: Registry[Architecture], config: Config) -> Architecture:
    """The family that `config` names. Raises NotServable naming what was asked for and what there is."""
    asked = config.get("architectures")
    if not isinstance(asked, list | tuple) or not asked or not all(isinstance(name, str) for name in asked):
        raise NotServable("config.json names no architecture", param="architectures")
    for name in registry.names():
        if asked[0] in registry.manifest(name).provides:
            return registry.create(name)
    known = sorted(family for name in registry.names() for family in registry.manifest(name).provides)
    raise NotServable(
        f"no architecture {asked[0]!r} here (there are: {', '.join(known) or 'none'})", param="architectures"
    )
