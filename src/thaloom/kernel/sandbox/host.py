"""What this host can enforce: found out by doing it, once, around a program that does nothing."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from thaloom.kernel.sandbox.inside import landlock
from thaloom.kernel.sandbox.inside.seccomp import ARCHITECTURES
from thaloom.kernel.sandbox.plan import Ways, command_of, steps_of, write_plan
from thaloom.kernel.sandbox.types import WALLS, Ability, Confinement, WallName

_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/opt", "/nix", "/gnu", "/sys")
_ETC = (
    "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "alternatives", "localtime", "timezone", "locale.alias",
    "nsswitch.conf", "passwd", "group", "hosts", "host.conf", "gai.conf", "resolv.conf", "services", "protocols",
    "ssl/certs", "ssl/openssl.cnf", "ca-certificates", "pki/tls/certs", "pki/ca-trust", "OpenCL", "vulkan",
    "mime.types", "fonts",
)  # fmt: skip
"""Of /etc only what every program reads: there are secrets beside it."""
_TRIAL_S = 20.0
TRIAL_PREFIX = "thaloom-walls-"
"""Of the folder of a trial. One that is there while nobody tries was left by somebody who was killed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Walls:
    """Which walls this host builds, and how."""

    abilities: Mapping[WallName, Ability]
    ways: Ways

    @property
    def enforced(self) -> frozenset[WallName]:
        return frozenset(name for name in WALLS if self.abilities[name].enforced)


NO_WALLS = Walls(
    abilities={name: Ability(name=name, why_not="walls are switched off") for name in WALLS},
    ways=Ways(user_namespace=False, root=False, own_processes=False, system=(), links=()),
)


def find_walls(trial_folder: Path | None = None, *, as_user: bool | None = None) -> Walls:
    """Blocks for a tenth of a second, or for one for each wall that does not hold. `as_user`: in a user namespace
    whoever we are; None: only if we are not root."""
    with tempfile.TemporaryDirectory(prefix=TRIAL_PREFIX, dir=trial_folder) as folder:
        trial = _Trial(Path(folder), root=os.geteuid() == 0 if as_user is None else not as_user)
        return trial.find()


class _Trial:
    """Walls around a program that does nothing."""

    def __init__(self, folder: Path, *, root: bool) -> None:
        self._folder = folder
        self._root = root
        self._system, self._links = system_paths()

    def find(self) -> Walls:
        candidates: frozenset[WallName] = frozenset(WALLS)
        for user_namespace in (False, True) if self._root else (True,):
            for own_processes in (True, False):
                ways = self._ways(user_namespace, own_processes)
                if self._fails(candidates, ways) is None:
                    return self._told(ways, {})
        return self._one_by_one()

    def _one_by_one(self) -> Walls:
        """Some do not hold: which, and why."""
        choices = [
            self._ways(user, own) for user in ((False, True) if self._root else (True,)) for own in (True, False)
        ]
        ways = next((ways for ways in choices if self._fails(frozenset({"view"}), ways) is None), None)
        if ways is None:
            ways = next((ways for ways in choices if self._fails(frozenset({"ipc"}), ways) is None), choices[-1])
        failures = {wall: self._fails(frozenset({wall}), ways) for wall in WALLS}
        return self._told(ways, {wall: why for wall, why in failures.items() if why is not None})

    def _told(self, ways: Ways, failures: Mapping[WallName, str]) -> Walls:
        abi = landlock.abi()
        failures = dict(failures)
        if abi < landlock.SIGNALS_ABI and "processes" not in failures:
            failures["processes"] = (
                f"Landlock ABI {abi}: keeping signals inside needs {landlock.SIGNALS_ABI} (Linux 6.12)"
            )
        if platform.machine() not in ARCHITECTURES and "syscalls" in failures:
            failures["syscalls"] = f"the system calls of {platform.machine()} are not known here"
        user = " in a user namespace" if ways.user_namespace else ""
        by: dict[WallName, str] = {
            "view": f"mount namespace{user}",
            "network": f"network namespace{user}",
            "ipc": f"ipc namespace{user}",
            "processes": f"Landlock ABI {abi}{', /proc of its own' if ways.own_processes else ''}",
            "landlock": f"Landlock ABI {abi}",
            "syscalls": "seccomp filter",
            "privileges": "no_new_privs, no capabilities",
        }
        abilities = {
            name: Ability(name=name, why_not=failures[name]) if name in failures else Ability(name=name, by=by[name])
            for name in WALLS
        }
        return Walls(abilities=abilities, ways=ways)

    def _fails(self, walls: frozenset[WallName], ways: Ways) -> str | None:
        """Why a program cannot be started behind these, or None."""
        plan, failure = self._folder / "plan", self._folder / "failure"
        wish = Confinement(read=python_paths())
        write_plan(plan, steps_of(wish, walls, ways, real=real_paths(wish)))
        failure.unlink(missing_ok=True)
        command = command_of(plan, [sys.executable, "-I", "-S", "-c", ""])
        try:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_TRIAL_S, check=False, cwd="/"
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return str(error)
        if done.returncode == 0:
            return None
        words = done.stderr.decode(errors="replace").strip().splitlines()
        return words[-1].removeprefix("thaloom: ") if words else f"it ended with {done.returncode}"

    def _ways(self, user_namespace: bool, own_processes: bool) -> Ways:
        return Ways(
            user_namespace=user_namespace, root=self._root, own_processes=own_processes, system=self._system,
            links=self._links,
        )  # fmt: skip


def system_paths(root: Path = Path("/")) -> tuple[tuple[tuple[str, str], ...], tuple[tuple[str, str], ...]]:
    """((real path, where it is seen) ...), ((link, relative target) ...) of the host's programs and libraries."""
    system, links = [], []
    for name in (*_SYSTEM, *(f"/etc/{name}" for name in _ETC)):
        path = root / name.lstrip("/")
        if path.is_symlink() and path.parent == root:
            links.append((name, os.path.relpath(os.path.realpath(path), root)))
        elif path.exists():
            system.append((os.path.realpath(path), name))
    return tuple(system), tuple(links)


def real_paths(wish: Confinement) -> dict[str, str]:
    """Of what the program is shown, the real path where a symbolic link leads to it: behind the walls a link may lead
    nowhere."""
    paths = [*wish.read, *wish.write, *wish.words, *wish.devices, *([] if wish.sockets is None else [wish.sockets])]
    return {path: real for path in paths if (real := os.path.realpath(path)) != path}


def python_paths(path: Iterable[str] = ()) -> tuple[str, ...]:
    """What this interpreter needs to start again as it is: its installation, its environment, and where it imports
    from."""
    # Where we were started from is on the path of `python -m`, and not on that of our workers (-P).
    asked = [str(Path(place).absolute()) for place in os.environ.get("PYTHONPATH", "").split(os.pathsep) if place]
    imports = [place for place in path or sys.path if place != str(Path.cwd()) or place in asked]
    places = [sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix, *imports]
    places += [str(Path(sys.executable).parent), str(Path(os.path.realpath(sys.executable)).parent)]
    found: dict[str, None] = {}
    for place in places:
        if place and Path(place).is_absolute() and Path(place).exists() and place != "/":
            found |= {str(Path(place)): None, os.path.realpath(place): None}
    return tuple(found)
