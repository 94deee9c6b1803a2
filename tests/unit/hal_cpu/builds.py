"""Which builds of the native library there are to test: all that were made, or the one the environment names."""

from __future__ import annotations

import os
from pathlib import Path

from thaloom.hal.drivers.cpu import native
from thaloom.hal.drivers.cpu.probe import Machine

_named = os.environ.get("THALOOM_CPU_VARIANT")
_built = native.built_variants(Machine().device().features)

NAMES: list[str] = [_named] if _named else _built or ["none"]
FILES: list[Path] = [
    Path(name) if "/" in name else native.FOLDER / f"thaloom_cpu_{name}.so" for name in NAMES if name != "none"
]
