"""One contract over every kind of plugin: a manifest that declares, and a factory that does the heavy import.

A distribution offers a plugin by an entry point in the group `thaloom.<kind>s` whose value is a `Plugin`. Reading
the manifest must be cheap; whatever is heavy (a vendor library, a framework) is imported inside `factory`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Generic, Literal, TypeVar

from thaloom.base.errors import DriverUnavailable

T = TypeVar("T")
Kind = Literal[
    "driver",
    "engine",
    "architecture",
    "dialect",
    "policy",
    "source",
    "detector",
    "remedy",
    "tuning_target",
    "copilot_tool",
]

ABI = 1
"""Major version of the plugin contract. A plugin made for another major is refused, by name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a plugin says of itself before any of it is imported."""

    kind: Kind
    name: str
    version: str
    summary: str
    abi: int = ABI
    license: str = "Apache-2.0"
    requires: tuple[str, ...] = ()
    """Distributions or system libraries the factory will import, for `doctor` to check."""
    provides: tuple[str, ...] = ()
    """Features others may ask for, in the words of the plugin's kind."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plugin(Generic[T]):
    manifest: Manifest
    factory: Callable[[], T]
    """Makes the implementation. Raises DriverUnavailable with the reason if this host cannot run it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Absent:
    """A plugin that was found and cannot be used, and why. Never confused with one that is not there."""

    name: str
    reason: str


class Registry(Generic[T]):
    """All plugins of one kind: those registered in code, and those found by entry point."""

    def __init__(self, kind: Kind) -> None:
        self.kind: Kind = kind
        self._plugins: dict[str, Plugin[T]] = {}
        self._absent: dict[str, Absent] = {}

    def add(self, plugin: Plugin[T]) -> None:
        manifest = plugin.manifest
        if manifest.kind != self.kind:
            raise ValueError(f"{manifest.name!r} is a {manifest.kind}, not a {self.kind}")
        if manifest.abi != ABI:
            self._absent[manifest.name] = Absent(
                name=manifest.name, reason=f"made for plugin contract {manifest.abi}, this is {ABI}"
            )
            return
        self._plugins[manifest.name] = plugin

    def discover(self) -> None:
        """Add every installed plugin of this kind. One that fails to load is recorded as absent, with why."""
        for point in entry_points(group=f"thaloom.{self.kind}s"):
            try:
                self.add(point.load())
            except (ImportError, AttributeError, ValueError, TypeError) as error:
                self._absent[point.name] = Absent(name=point.name, reason=f"{type(error).__name__}: {error}")

    def names(self) -> list[str]:
        return sorted(self._plugins)

    def manifest(self, name: str) -> Manifest:
        return self._plugins[name].manifest

    def absent(self) -> list[Absent]:
        return sorted(self._absent.values(), key=lambda absent: absent.name)

    def create(self, name: str) -> T:
        """Run the factory. Raises DriverUnavailable if the plugin is unknown or cannot work here."""
        if name in self._absent:
            raise DriverUnavailable(f"{self.kind} {name!r}: {self._absent[name].reason}")
        if name not in self._plugins:
            raise DriverUnavailable(f"no {self.kind} {name!r} (there are: {', '.join(self.names()) or 'none'})")
        return self._plugins[name].factory()
