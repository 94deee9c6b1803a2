"""How much memory this host can still give, by measure: of the machine and of every control group around us."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path


def available_bytes(root: Path = Path("/")) -> int:
    """Bytes a new process could take without swapping or meeting a limit; at least 0."""
    return max(0, min([_machine_available(root), *(limit - used for limit, used in _groups(root))]))


def total_bytes(root: Path = Path("/")) -> int:
    """All memory of the machine, or the tightest limit around us where that is less."""
    return min([_meminfo(root)["MemTotal"], *(limit for limit, _ in _groups(root))])


def _machine_available(root: Path) -> int:
    """Source: proc(5), MemAvailable: free, plus what can be dropped without swapping."""
    return _meminfo(root)["MemAvailable"]


def _meminfo(root: Path) -> dict[str, int]:
    lines = (root / "proc/meminfo").read_text().splitlines()
    return {name: int(rest.split()[0]) * 1024 for name, _, rest in (line.partition(":") for line in lines)}


def _groups(root: Path) -> Iterator[tuple[int, int]]:
    """(limit, used without droppable file pages) of each memory control group above this process, v2 and v1.

    Source: kernel documentation, admin-guide/cgroup-v2 (memory.max, memory.current) and cgroup-v1/memory.
    """
    for line in (root / "proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            yield from _chain(root / "sys/fs/cgroup", path, "memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            base = root / "sys/fs/cgroup/memory"
            yield from _chain(base, path, "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


def _chain(base: Path, path: str, limit_file: str, used_file: str, droppable: str) -> Iterator[tuple[int, int]]:
    """A limit may stand on any folder of the way up. Inside a container only part of the way is mounted."""
    folder = base / path.lstrip("/")
    while folder.is_relative_to(base):
        limit = _number(folder / limit_file)
        used = _number(folder / used_file)
        if limit is not None and used is not None and limit < _UNLIMITED:
            yield limit, max(0, used - _statistic(folder / "memory.stat", droppable))
        folder = folder.parent


_UNLIMITED = 1 << 60
"""v1 writes the largest page count it knows where there is no limit."""


def _number(path: Path) -> int | None:
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def _statistic(path: Path, name: str) -> int:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.split()[:1] == [name]), 0)
