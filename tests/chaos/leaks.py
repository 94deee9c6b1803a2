"""What a node holds when nothing is asked of it: the same before and after, or something leaked."""

from __future__ import annotations

import asyncio
import contextlib
import re
import sqlite3
import time
import urllib.request
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from tests.chaos.stage import SERVICES, Stage
from thaloom.kernel.sandbox.finding import find_groups
from thaloom.kernel.sandbox.grouping import folder_name

PATIENCE_S = 60.0
POOLS = 8
"""So many more descriptors or threads of one process are pools that grow with what happens at once."""
GROWN_BYTES = 32 << 20
"""So much more of a process, or of all processes of a role: allocators keep what was needed once."""
_WORKER = re.compile(r"w-[0-9a-f]{12}")
_OWN_FILES = re.compile(r"^(logs/.*|daemon-test\.log|state\.db.*|kept/.*|config\.toml)$")
"""What grows by being used: told, and not compared."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """`same`: must be the same. `pools`: may have some more, `POOLS`. `sizes`: may be larger by GROWN_BYTES. `told`:
    only told."""

    same: dict[str, int]
    pools: dict[str, int]
    sizes: dict[str, int]
    told: dict[str, int]


def look(stage: Stage) -> Look:
    """Blocks for some tenths of a second."""
    same: Counter[str] = Counter()
    pools: dict[str, int] = {}
    sizes: dict[str, int] = {}
    told: dict[str, int] = {}
    _processes(stage, same, pools, sizes)
    _groups(stage, same)
    _mounts(same)
    _files(stage, same, told)
    _books(stage, same)
    return Look(same=dict(same), pools=pools, sizes=sizes, told=told)


def _processes(stage: Stage, same: Counter[str], pools: dict[str, int], sizes: dict[str, int]) -> None:
    leases = {each.identity.pid: f"{each.role} {each.service}".strip() for each in stage.leases()}
    leases[stage.node.daemon.pid] = "daemon"
    ours = {identity.pid for identity in stage.node.processes_of_home()}
    for pid in ours:
        with contextlib.suppress(OSError):
            words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
            module = next((word for word in words if word.startswith("thaloom.")), words[0])
            same[f"process {module}"] += 1
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                state, parent = (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()[:2]
                same["zombies"] += state == "Z" and int(parent) in ours
    for pid, name in leases.items():
        with contextlib.suppress(OSError):
            pools[f"descriptors of {name}"] = max(
                len(list(Path(f"/proc/{pid}/fd").iterdir())), pools.get(f"descriptors of {name}", 0)
            )
            pools[f"threads of {name}"] = max(
                len(list(Path(f"/proc/{pid}/task").iterdir())), pools.get(f"threads of {name}", 0)
            )
            resident = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
            size = int(resident[1]) * 1024 if resident else 0
            sizes[f"memory of {name}"] = max(size, sizes.get(f"memory of {name}", 0))


def _groups(stage: Stage, same: Counter[str]) -> None:
    groups = find_groups(folder_name(stage.node.home)).list()
    same["control groups"] = len(groups)
    same["members of control groups, empty ones"] = sum(not group.members() for group in groups)


def _mounts(same: Counter[str]) -> None:
    same["mounts here"] = len(Path("/proc/self/mountinfo").read_text().splitlines())


def _files(stage: Stage, same: Counter[str], told: dict[str, int]) -> None:
    """Of the home and of its temporary folder, by name; ids of workers all count as one name."""
    home, disk = stage.node.home, stage.node.home.parent
    for path in sorted(disk.rglob("*")):
        with contextlib.suppress(OSError):
            status = path.lstat()
            name = str(path.relative_to(home)) if path.is_relative_to(home) else str(path.relative_to(disk))
            if _OWN_FILES.match(name):
                told[f"bytes of {name}"] = status.st_blocks * 512
                if not name.endswith(".partial"):
                    continue
            same[f"file {_WORKER.sub('w-*', name)}"] += 1
            if not path.is_dir() and not name.startswith("run/"):
                same["bytes on disk"] += status.st_blocks * 512


def _books(stage: Stage, same: Counter[str]) -> None:
    with contextlib.closing(sqlite3.connect(f"file:{stage.node.home}/state.db?mode=ro", uri=True)) as database:
        same["leases"] = database.execute("SELECT count(*) FROM leases").fetchone()[0]
    same["leases of the dead"] = same["leases"] - len(stage.leases())
    with stage.client() as client:
        for memory in client.status().memory:
            same[f"ledger of {memory.device}: bytes promised"] = memory.reserved_bytes
        status = client.status()
        same["workers that wait"] = int(status.standby_pid is not None)
        same["ledger of cpu: bytes promised"] -= status.standby_bytes  # it is measured, and differs by a page or two
        same["services"] = len(client.services())
        same["keys"] = len(client.keys().keys)
        same["aliases"] = len(client.aliases())
        same["models"] = len(client.models())
        same["jobs"] = sum(client.jobs().counts.values())
    with urllib.request.urlopen(f"{stage.node.url}/metrics?names=own", timeout=PATIENCE_S) as page:
        metrics = page.read().decode()
    for name in ("kv_blocks_used", "running_requests", "waiting_requests"):
        figures = re.findall(rf"^thaloom_worker_{name}{{[^}}]*}} (\S+)", metrics, re.MULTILINE)
        same[f"worker {name}"] = sum(int(float(figure)) for figure in figures)
        if len(figures) != sum(wish.replicas for wish in SERVICES.values()):
            same[f"worker {name}: workers that do not tell"] += 1
    same["open requests"] = sum(
        int(float(figure)) for figure in re.findall(r"^thaloom_open_requests\S* (\S+)", metrics, re.MULTILINE)
    )
    tasks = re.search(r"^thaloom_tasks (\S+)", metrics, re.MULTILINE)
    same["tasks of the door"] = int(float(tasks[1])) if tasks else -1


def more_than(now: Look, before: Look) -> list[str]:
    """What there is more of, or less, in words."""
    names = sorted({*now.same, *before.same})
    found = [
        f"{name}: {now.same.get(name, 0)}, before {before.same.get(name, 0)}"
        for name in names
        if now.same.get(name, 0) != before.same.get(name, 0)
    ]
    found += [
        f"{name}: {count}, before {before.pools.get(name, 0)}"
        for name, count in now.pools.items()
        if count > before.pools.get(name, 0) + POOLS
    ]
    return found + [
        f"{name}: {count}, before {before.sizes.get(name, 0)}"
        for name, count in now.sizes.items()
        if count > before.sizes.get(name, 0) + GROWN_BYTES
    ]


async def look_when_calm(stage: Stage, like: Look | None = None) -> Look:
    """When it holds nothing for requests and no more than in `like`; or what there is when patience ends."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        now = await asyncio.to_thread(look, stage)
        busy = any(now.same[f"worker {name}"] for name in ("kv_blocks_used", "running_requests", "waiting_requests"))
        busy |= not now.same["workers that wait"]  # the next has its group and its files as well
        if (not busy and (like is None or not more_than(now, like))) or time.monotonic() > deadline:
            return now
        await asyncio.sleep(0.5)


def left_behind(stage: Stage, mounts: int) -> list[str]:
    """After the node is down: what is still there, in words."""
    home = stage.node.home
    found = [f"process {identity.pid}" for identity in stage.node.processes_of_home()]
    found += [f"socket {path.name}" for path in (home / "run").rglob("*") if path.is_socket()]
    found += [f"file {path.relative_to(home)}" for path in (home / "run" / "workers").rglob("*")]
    found += [f"file {path.relative_to(home)}" for path in home.rglob("*.partial")]
    found += [f"control group {group.name}" for group in find_groups(folder_name(home)).list()]
    found += [f"folder {path}" for path in Path("/sys/fs/cgroup").rglob(folder_name(home))]
    found += ["routes.json"] if (home / "run" / "routes.json").exists() else []
    here = len(Path("/proc/self/mountinfo").read_text().splitlines())
    found += [f"mounts: {here}, before {mounts}"] if here != mounts else []
    return found


_BAD_WORDS = (
    "Traceback (most recent call last)", "was never retrieved", "was never awaited", "Exception in ", "Segmentation",
    "AssertionError",
)  # fmt: skip
_BAD_EVENTS = ("RequestCrashed", "InternalError", "ConnectionFailed", "RoundFailed", "ResumeFailed")
_LIBRARY = "Exception in callback Future.set_result(None)"
"""As in tests.fuzz_door.node: a race inside anyio that harms nobody."""


def complaints(stage: Stage) -> list[str]:
    """Lines of the logs that no fault should bring about."""
    found = []
    home = stage.node.home
    for path in (*sorted((home / "logs").iterdir()), home / "daemon-test.log"):
        for line in path.read_text(errors="replace").splitlines():
            bad = any(word in line for word in _BAD_WORDS) or any(f'"event": "{name}"' in line for name in _BAD_EVENTS)
            if bad and _LIBRARY not in line:
                found.append(f"{path.name}: {line[:400]}")
    return found
