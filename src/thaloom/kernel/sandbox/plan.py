"""From what is wished around a program to the steps its launcher takes (inside/steps.py): pure.

The order matters: groups and limits while we still may, then namespaces, then the new root, then away with every
privilege, and last the two filters nobody can take off again.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from thaloom.kernel.sandbox.inside.words import decode, encode
from thaloom.kernel.sandbox.types import BATCH_NICE, SCHED_BATCH, TURN_NS, Confinement, Latency, WallName

Step = tuple[str, ...]
LAUNCHER = Path(__file__).parent / "inside" / "__main__.py"

_SCHEDULING: dict[Latency, Step] = {
    "normal": (),
    "interactive": ("schedule", "0", "0", str(TURN_NS)),
    "batch": ("schedule", str(SCHED_BATCH), str(BATCH_NICE), "0"),
}
"""Policy, nice, turn in ns. Policies by number: sched(7)."""
_DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
_LINKS = (("/dev/fd", "/proc/self/fd"), ("/dev/stdin", "/proc/self/fd/0"), ("/dev/stdout", "/proc/self/fd/1"),
          ("/dev/stderr", "/proc/self/fd/2"))  # fmt: skip
_COVERED = ("/dev", "/run")
"""Of a host that is seen whole: raw disks and other programs' sockets are no files to be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ways:
    """How this host builds its walls."""

    user_namespace: bool
    """Whether a user namespace is needed for the others: nobody but root does without."""
    root: bool
    """Whether there are privileges to be dropped without one."""
    own_processes: bool
    """Whether /proc can be mounted anew, showing only what the program may look into."""
    system: tuple[tuple[str, str], ...]
    """(real path, where it is seen) of the host's programs and libraries."""
    links: tuple[tuple[str, str], ...]
    """(path, relative target) of symbolic links in the root."""


def steps_of(
    wish: Confinement,
    walls: frozenset[WallName],
    ways: Ways,
    *,
    failure: str | None = None,
    groups: Mapping[str, Path] | None = None,
    real: Mapping[str, str] | None = None,
) -> list[Step]:
    """All steps. `walls`: those to build. `real`: real paths of what is reached through a symbolic link."""
    assert wish.disk is None or "view" in walls, "a disk of its own is mounted where the program alone sees it"
    real = real or {}
    steps: list[Step] = [] if failure is None else [("failure", failure)]
    steps += [("join", name, str(folder)) for name, folder in (groups or {}).items()]
    steps.append(("oom", str(wish.oom_score)))
    steps += [step] if (step := _SCHEDULING[wish.latency]) else []
    if wish.file_bytes is not None:
        steps.append(("limit", "FSIZE", str(wish.file_bytes)))
    steps.append(("limit", "CORE", "0"))  # a core dump holds what people said
    steps += [] if wish.disk is None else [("disk", wish.disk[0])]
    steps += _namespaces(wish, walls, ways)
    steps.append(("umask", "077"))
    if "view" in walls:
        steps += _view(wish, ways, real)
        if not wish.whole_host:
            steps += [("environ", "HOME", "/tmp"), ("environ", "TMPDIR", "/tmp")]
    if wish.environment_fd is not None:
        steps.append(("environment_from", str(wish.environment_fd)))
    if wish.folder is not None:
        steps.append(("folder", wish.folder))
    if "privileges" in walls:
        steps += [("privileges",)] if ways.root or ways.user_namespace else []
    steps.append(("no_new_privileges",))
    steps += [("with_parent",)] if wish.with_parent else []
    if "landlock" in walls:
        steps += _rules(wish, ways, seen="view" in walls)
    if "syscalls" in walls:
        steps.append(("syscalls", wish.network))
    return steps


def fence_steps(groups: Mapping[str, Path], latency: Latency, oom_score: int | None = None) -> list[Step]:
    """For a program that is kept to limits and behind no wall."""
    steps: list[Step] = [("join", name, str(folder)) for name, folder in groups.items()]
    steps += [] if oom_score is None else [("oom", str(oom_score))]
    return steps + ([step] if (step := _SCHEDULING[latency]) else [])


def command_of(plan: Path, command: Iterable[str]) -> list[str]:
    """The command line that builds the walls of `plan` and becomes `command`, whose first word is an absolute path."""
    return [sys.executable, "-I", "-S", str(LAUNCHER), str(plan), "--", *command]


def write_plan(path: Path, steps: list[Step]) -> None:
    path.write_bytes(encode(steps))


def read_plan(path: Path) -> list[Step]:
    """Nothing for one that is gone or no plan."""
    try:
        return decode(path.read_bytes())
    except (OSError, UnicodeDecodeError):
        return []


def groups_of(steps: Iterable[Step]) -> dict[str, Path]:
    """The folders of the groups that a plan joins, by hierarchy."""
    return {step[1]: Path(step[2]) for step in steps if step[0] == "join" and len(step) == 3}


def shown_in(steps: Iterable[Step], path: str) -> bool:
    """Whether a program behind these walls meets what the host has at `path`. Its scratch space is not the host's."""
    parts = [step for step in steps if step[0] == "view"]
    if not parts:
        return True
    covered = [step[2] for step in parts if step[1] in ("cover", "scratch") and _below(path, step[2])]
    places = [step[-1] for step in parts if step[1] in ("read", "write", "disk") and _below(path, step[-1])]
    places += ["/proc"] if _below(path, "/proc") else []
    return max(map(len, places), default=-1) > max(map(len, covered), default=-1)


def disk_of(steps: Iterable[Step]) -> Path | None:
    """The image of the file system that is its own."""
    return next((Path(step[1]) for step in steps if step[0] == "disk"), None)


def has_scratch(steps: Iterable[Step]) -> bool:
    return any(step[:2] == ("view", "scratch") for step in steps)


def longest_file(steps: Iterable[Step]) -> int | None:
    """The limit on the length of its files, its log included."""
    return next((int(step[2]) for step in steps if step[:2] == ("limit", "FSIZE")), None)


def _namespaces(wish: Confinement, walls: frozenset[WallName], ways: Ways) -> list[Step]:
    names = ["mount"] if "view" in walls else []
    names += ["network"] if "network" in walls and wish.network != "host" else []
    names += ["ipc"] if "ipc" in walls else []
    if names and ways.user_namespace:
        names.append("user")
    return [("separate", *names)] if names else []


Part = tuple[Literal["read", "write", "disk", "scratch", "cover"], str, str]
"""(what, source or size, where it is seen)"""


def _view(wish: Confinement, ways: Ways, real: Mapping[str, str]) -> list[Step]:
    parts: list[Part] = [("scratch", str(wish.scratch_bytes), "/tmp"), ("scratch", str(wish.scratch_bytes), "/dev/shm")]
    if wish.whole_host:
        parts += [("read", "/", "/"), *(("cover", "", path) for path in (*_COVERED, *wish.hidden))]
    else:
        parts += [("read", source, seen) for source, seen in ways.system]
    parts += [("read", real.get(path, path), path) for path in wish.read]
    parts += [("read", real.get(path, path), path) for path in (*_DEVICES, *wish.devices)]
    parts += [("write", real.get(path, path), path) for path in (*wish.write, *wish.words)]
    parts += [("write", source, seen) for source, seen in wish.moved]
    parts += [] if wish.disk is None else [("disk", *wish.disk)]
    if wish.sockets is not None:
        parts.append(("write", real.get(wish.sockets, wish.sockets), wish.sockets))
    steps: list[Step] = [("view", "begin")]
    if not wish.whole_host:
        steps += [("view", "link", *link) for link in ways.links]
    steps += [_step(part) for part in _needed(parts)]
    steps += [("view", "processes", "own" if ways.own_processes else "shared")]
    steps += [("view", "link", *link) for link in _LINKS]
    return [*steps, ("view", "finish")]


def _step(part: Part) -> Step:
    what, source, seen = part
    if what == "scratch":
        return ("view", "scratch", seen, source)
    return ("view", what, seen) if what in ("cover", "disk") else ("view", what, source, seen)


def _needed(parts: list[Part]) -> list[Part]:
    """Outer ones first; without those that an outer one shows already in the same way."""
    kept: dict[str, Part] = {}
    for part in sorted(parts, key=lambda part: len(PurePosixPath(part[2]).parts)):
        what, source, seen = part
        around = next((kept[str(path)] for path in PurePosixPath(seen).parents if str(path) in kept), None)
        same = around is not None and around[0] == "read" == what and _joined(around[1], seen, around[2]) == source
        same |= around is not None and what == "cover" and around[0] != "read"
        if not same and (seen not in kept or what != "read"):
            kept[seen] = part
    return list(kept.values())


def _joined(source: str, seen: str, around: str) -> str:
    return str(PurePosixPath(source) / PurePosixPath(seen).relative_to(around))


def _rules(wish: Confinement, ways: Ways, *, seen: bool) -> list[Step]:
    """With a view, its root may be read: the host's is another one. Without, every path is named."""
    reading = ("/",) if seen or wish.whole_host else (*(at for _, at in ways.system), "/proc", *wish.read)
    writing = [*wish.write, *(there if seen else source for source, there in wish.moved)]
    writing += [] if wish.disk is None else [wish.disk[1]]
    writing += ["/tmp", "/dev/shm"] if seen else []  # the host's own would be everybody's
    steps: list[Step] = [("allow", "read", path) for path in reading]
    steps += [("allow", "write", path) for path in writing]
    steps += [("allow", "words", path) for path in wish.words]
    steps += [("allow", "device", path) for path in (*_DEVICES, *wish.devices)]
    steps += [] if wish.sockets is None else [("allow", "sockets", wish.sockets)]
    steps += [("allow", "file", path) for path in wish.files]
    return [*steps, ("landlock", wish.network)]


def _below(path: str, folder: str) -> bool:
    return PurePosixPath(path).is_relative_to(folder)
