from typing import Any

import pytest

from thaloom.base import plugins
from thaloom.base.errors import DriverUnavailable
from thaloom.base.plugins import ABI, Manifest, Plugin, Registry


def plugin(name: str, *, kind: Any = "driver", abi: int = ABI) -> Plugin[str]:
    return Plugin(
        manifest=Manifest(kind=kind, name=name, version="1", summary="a test", abi=abi), factory=lambda: f"made {name}"
    )


class Point:
    def __init__(self, name: str, outcome: Any) -> None:
        self.name = name
        self._outcome = outcome

    def load(self) -> Any:
        if isinstance(self._outcome, Exception):
            raise self._outcome
        return self._outcome


def test_a_plugin_is_made_when_asked_for() -> None:
    registry: Registry[str] = Registry("driver")
    registry.add(plugin("b"))
    registry.add(plugin("a"))
    assert registry.names() == ["a", "b"]
    assert registry.manifest("a").summary == "a test"
    assert registry.create("a") == "made a"


def test_an_unknown_plugin_is_refused_with_what_there_is() -> None:
    registry: Registry[str] = Registry("driver")
    with pytest.raises(DriverUnavailable, match="none"):
        registry.create("x")
    registry.add(plugin("a"))
    with pytest.raises(DriverUnavailable, match="there are: a"):
        registry.create("x")


def test_another_contract_version_is_absent_and_says_so() -> None:
    registry: Registry[str] = Registry("driver")
    registry.add(plugin("old", abi=ABI + 1))
    assert registry.names() == []
    assert str(ABI + 1) in registry.absent()[0].reason
    with pytest.raises(DriverUnavailable, match="contract"):
        registry.create("old")


def test_another_kind_is_a_mistake_of_ours() -> None:
    registry: Registry[str] = Registry("driver")
    with pytest.raises(ValueError, match="not a driver"):
        registry.add(plugin("x", kind="engine"))


def test_a_plugin_that_does_not_load_does_not_fell_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    points = [Point("bad", ImportError("no vendor library")), Point("good", plugin("good"))]
    monkeypatch.setattr(plugins, "entry_points", lambda group: points if group == "thaloom.drivers" else [])
    registry: Registry[str] = Registry("driver")
    registry.discover()
    assert registry.names() == ["good"]
    assert registry.absent()[0].reason == "ImportError: no vendor library"
