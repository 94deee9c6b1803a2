"""How much memory this host has and can still give, by measure: of the machine, and of every control group around us.

Every file may be missing (containers, fake trees in tests): what nobody tells is None. Source: proc(5), cgroups(7), and
the kernel's admin-guide: cgroup-v2, cgroup-v1/memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

_UNLIMITED = 1 << 60
"""v1 writes the largest page count it knows where there is no limit."""
_FILES = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)
"""Of a group, v2 and v1: its limit, what it uses, and how memory.stat calls file pages that can be dropped."""


def total_bytes(root: Path = Path("/")) -> int | None:
    """All memory of the machine, or the tightest limit around us where that is less."""
    return _least([_meminfo(root, "MemTotal"), *(limit for limit, _ in _limits(root))])


def available_bytes(root: Path = Path("/")) -> int | None:
    """Bytes a new process could take without swapping or meeting a limit; at least 0."""
    left = [max(0, limit - used) for limit, used in _limits(root) if used is not None]
    return _least([_meminfo(root, "MemAvailable"), *left])


def group_folders(controller: str, root: Path = Path("/")) -> Iterator[Path]:
    """Of this process's control group for the controller, v2 and v1, and those above it: a limit may stand on any.
    Inside a container only part of the way is mounted."""
    base = root / "sys/fs/cgroup"
    for line in (_text(root / "proc/self/cgroup") or "").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            top = base
        elif controller in controllers.split(","):
            top = base / controller if (base / controller).is_dir() else base / controllers
        else:
            continue
        folder = top / path.lstrip("/")
        yield from (place for place in [folder, *folder.parents] if place.is_relative_to(top))


def _limits(root: Path) -> Iterator[tuple[int, int | None]]:
    """(limit, used without file pages that can be dropped) of each group around us that has a limit."""
    for folder in group_folders("memory", root):
        for limit_file, used_file, droppable in _FILES:
            limit = _number(folder / limit_file)
            if limit is not None and limit < _UNLIMITED:
                used, spare = _number(folder / used_file), _statistic(folder / "memory.stat", droppable)
                yield limit, None if used is None else max(0, used - (spare or 0))


def _meminfo(root: Path, name: str) -> int | None:
    """In bytes. MemAvailable: free, plus what can be dropped without swapping."""
    found = _statistic(root / "proc/meminfo", f"{name}:")
    return None if found is None else found * 1024


def _statistic(path: Path, name: str) -> int | None:
    """Of a file with a name and a number in each line."""
    lines = [line.split() for line in (_text(path) or "").splitlines()]
    return next((int(words[1]) for words in lines if words[:1] == [name] and words[1:2] and words[1].isdigit()), None)


def _number(path: Path) -> int | None:
    text = (_text(path) or "").strip()
    return int(text) if text.isdigit() else None


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None


def _least(values: Iterable[int | None]) -> int | None:
    return min((value for value in values if value is not None), default=None)
