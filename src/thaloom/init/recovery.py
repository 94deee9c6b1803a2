"""What a new daemon finds of an earlier one: processes that go on, leases of those that do not, and orphans.

A process and its lease cannot be made in one step. The order is: journal (intent), files of the process, the process,
its lease, journal (outcome). A kill in between leaves a process without a lease; it is found by its command line, and
what it was started for by the intent. One that waits for orders which no daemon gives any more is nobody's.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from thaloom.base.clock import Clock
from thaloom.base.files import PARTIAL, remove
from thaloom.base.ids import ServiceName, WorkerId, new_worker_id
from thaloom.base.procs import ProcessIdentity, identify
from thaloom.init.layout import WALLS, Layout
from thaloom.init.walls.leftovers import leftovers
from thaloom.kernel.sandbox.host import TRIAL_PREFIX
from thaloom.kernel.state.store import StateStore
from thaloom.kernel.state.types import JournalEntry, Lease

_JOURNAL_LOOK_BACK = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The leases of what lives, and processes of this home that nobody knows what for."""

    alive: tuple[Lease, ...]
    dead: tuple[Lease, ...]
    strangers: tuple[ProcessIdentity, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A process of this user and its command line."""

    identity: ProcessIdentity
    arguments: tuple[str, ...]
    waits: bool = False
    """It was to be a worker, and is none yet (init.rounds.standby)."""


def recover(layout: Layout, store: StateStore, clock: Clock) -> Found:
    """Set the books right against the machine: leases for all that lives, none for what does not."""
    found = sort_out(layout, store.leases(), store.journal.latest(_JOURNAL_LOOK_BACK), list(running()), clock.now())
    for lease in found.alive:
        store.put_lease(lease)
    for lease in found.dead:
        store.delete_lease(lease.id)
    _sweep(layout, found.alive)
    return found


def sort_out(
    layout: Layout, leases: Iterable[Lease], journal: Iterable[JournalEntry], running: Iterable[Running], now: float
) -> Found:
    """Which processes go on under which leases. `journal`: newest first."""
    alive: list[Lease] = []
    dead: list[Lease] = []
    running = list(running)
    arguments = {process.identity: process.arguments for process in running}
    for lease in leases:
        # After a restart of the machine even pid and start time may be somebody else's: nobody's process is stopped.
        identity = ProcessIdentity(pid=lease.pid, start_ticks=lease.start_ticks)
        (alive if f"thaloom.{lease.role}" in arguments.get(identity, ()) else dead).append(lease)
    known = {lease.pid for lease in alive}
    intents = {entry.data.get("process"): entry for entry in reversed(list(journal)) if entry.phase == "intent"}
    strangers = []
    for process in running:
        if process.identity.pid in known or not _of_this_home(layout, process.arguments):
            continue
        taken = {lease.id for lease in (*alive, *dead)}
        lease_found = None if process.waits else _lease_of(layout, process, intents, taken, now)
        if lease_found is None:
            strangers.append(process.identity)
        else:
            alive.append(lease_found)
    return Found(alive=tuple(alive), dead=tuple(dead), strangers=tuple(strangers))


def running(proc: Path = Path("/proc")) -> Iterator[Running]:
    """Every process of this user. One that ends meanwhile is left out."""
    for folder in proc.iterdir():
        if not folder.name.isdigit():
            continue
        try:
            if folder.stat().st_uid != os.getuid():
                continue
            arguments = (folder / "cmdline").read_bytes().decode("utf-8", errors="surrogateescape").split("\0")
        except OSError:
            continue
        identity = identify(int(folder.name))
        if identity is not None and identity.alive():
            yield Running(identity=identity, arguments=tuple(arguments), waits=waits(folder, arguments))


def waits(process: Path, arguments: Collection[str]) -> bool:
    """Whether it is one that was started to wait and has not become a worker: it has its daemon, or what is left of
    it, for standard input until then. `process`: its folder in /proc."""
    with contextlib.suppress(OSError):  # one that holds a key lets nobody look, and is a worker
        return "--standby" in arguments and str((process / "fd" / "0").readlink()).startswith("socket:")
    return False


def _of_this_home(layout: Layout, arguments: tuple[str, ...]) -> bool:
    if "thaloom.worker" in arguments:
        return Path(_after(arguments, "--spec")).parent == layout.workers
    return "thaloom.door" in arguments and _after(arguments, "--home") == str(layout.home)


def _lease_of(
    layout: Layout, process: Running, intents: dict[str | None, JournalEntry], taken: set[WorkerId], now: float
) -> Lease | None:
    """The lease it should have had, as far as its command line and the journal tell."""
    if "thaloom.door" in process.arguments:
        host, port = _after(process.arguments, "--host"), _after(process.arguments, "--port")
        place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        begun = (WorkerId(entry.data["process"]) for entry in reversed(intents.values()) if entry.kind == "StartDoor")
        return Lease(
            id=next((door for door in begun if door not in taken), None) or new_worker_id(),  # its group is called so
            role="door",
            service=None,
            pid=process.identity.pid,
            start_ticks=process.identity.start_ticks,
            socket=f"https://{place}" if "--tls" in process.arguments else place,
            started_at=now,
        )
    worker = WorkerId(Path(_after(process.arguments, "--spec")).stem)
    intent = intents.get(worker)
    if intent is None or intent.kind != "StartWorker":
        return None
    return Lease(
        id=worker,
        role="worker",
        service=ServiceName(intent.data["service"]),
        pid=process.identity.pid,
        start_ticks=process.identity.start_ticks,
        socket=str(layout.worker_socket(worker)),
        started_at=intent.time,
        revision=int(intent.data["revision"]),
    )


def _after(arguments: tuple[str, ...], flag: str) -> str:
    place = arguments.index(flag) if flag in arguments else len(arguments)
    return arguments[place + 1] if place + 1 < len(arguments) else ""


def _sweep(layout: Layout, alive: Iterable[Lease]) -> None:
    """Delete what dead workers left in the folder of sockets (an older Thaloom put sockets elsewhere in it), and what
    a killed daemon left half-written or half-tried: nobody but the daemon makes such files, and we are the daemon."""
    for pattern in (f"node.key.*{PARTIAL}", f"run/*{PARTIAL}", f"run/tokenizers/*/*{PARTIAL}", f"run/{TRIAL_PREFIX}*"):
        for path in layout.home.glob(pattern):
            remove(path)
    wanted = set[Path]()
    for lease in alive:
        wanted |= {*leftovers(layout, lease.id), Path(lease.socket), Path(f"{lease.socket}.failure.json")}
    for path in layout.workers.iterdir():
        if path not in wanted and path.suffix != WALLS:  # by these their groups are found (init.walls.confining)
            remove(path)
