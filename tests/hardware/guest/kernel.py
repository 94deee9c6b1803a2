"""What the guest is made of besides our files: the emulator, and a kernel of the distribution."""

from __future__ import annotations

import os
import platform
import shutil
from dataclasses import dataclass
from pathlib import Path

EMULATOR = "qemu-system-x86_64"
KERNEL = "vmlinuz-*-cloud-amd64"
INSTALL = "please run: make deps-system"


@dataclass(frozen=True, slots=True)
class Parts:
    emulator: str
    kernel: Path


def find_parts(folders: tuple[Path, ...] | None = None, *, path: str | None = None) -> Parts | str:
    """Or what is missing, with what would mend it."""
    if platform.machine() != "x86_64":
        return f"the guest needs the interpreter of an x86-64 host, and this one is {platform.machine()}"
    emulator = shutil.which(EMULATOR, path=path)
    if emulator is None:
        return f"{EMULATOR} is not here; {INSTALL}"
    found = [kernel for folder in _places() if folders is None for kernel in folder.glob(KERNEL)]
    found += [kernel for folder in folders or () for kernel in folder.glob(KERNEL)]
    if not found:
        return f"no kernel {KERNEL} is here; {INSTALL}"
    return Parts(emulator, max(found, key=lambda kernel: kernel.stat().st_mtime))


def _places() -> tuple[Path, ...]:
    """Where tools/deps_system.sh unpacks one, and where one would be installed."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "thaloom-guest", Path("/boot")
