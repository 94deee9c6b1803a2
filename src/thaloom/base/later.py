"""Modules that are imported when something of them is first used: what a command does not need it does not pay for."""

from __future__ import annotations

import importlib
from typing import Any


class Later:
    """Stands for a module. For names that are looked up as `module.name`, never for `from module import name`."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        found = getattr(importlib.import_module(self._name), attribute)
        setattr(self, attribute, found)
        return found
