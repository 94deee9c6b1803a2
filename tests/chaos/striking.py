"""How each fault is carried out. A new kind of fault is a line in `schedule.KINDS` and a method here."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import select
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TypeVar

from tests.chaos.clients import Keys
from tests.chaos.facts import Harm, HarmKind
from tests.chaos.jobs import running
from tests.chaos.judge import HEALED_WITHIN_S
from tests.chaos.operators import Operator
from tests.chaos.schedule import Fault
from tests.chaos.stage import PATIENCE_S, Living, Stage, fill
from thaloom.base.actions import Terms
from thaloom.base.errors import DiskFull, KeyNotFound, NodeNotRunning, ThaloomError
from thaloom.base.procs import ProcessIdentity, identify
from thaloom.edge.client.control import ControlClient
from thaloom.edge.wire.control import KeyRequest

T = TypeVar("T")
_AGAIN_S = 0.1


class Striker:
    """Carries out faults; some at the same time. Belongs to one event loop."""

    def __init__(self, stage: Stage, keys: Keys, seed: int) -> None:
        self._stage = stage
        self._keys = keys
        self._full_since: float | None = None
        self._free_since = -1e9
        self.operator = Operator(stage, "struck", seed, self.disk_is_full)
        """Whose actions the daemon is killed in."""
        self.struck: Counter[str] = Counter()
        self.missed: Counter[str] = Counter()
        """Faults that met nobody: whom they were for was dead already."""
        self.backups = 0

    def disk_is_full(self) -> bool:
        """Or was a moment ago: an answer may be on its way."""
        return self._full_since is not None or self._stage.clock() - self._free_since < 1.0

    async def run(self, faults: Sequence[Fault]) -> None:
        """Each at its time, whatever the others do; returns when the last is over."""
        async with asyncio.TaskGroup() as tasks:
            for fault in faults:
                await asyncio.sleep(max(0.0, fault.at_s - self._stage.clock()))
                tasks.create_task(self._strike(fault))

    async def _strike(self, fault: Fault) -> None:
        strike: Callable[[Fault], Awaitable[bool]] = getattr(self, f"_{fault.kind}")
        began = self._stage.clock()
        try:
            met = await strike(fault)
        except Exception as error:  # noqa: BLE001 - one fault that could not be carried out must not hide the others
            self._stage.fail(f"fault {fault.number} ({fault.kind}) could not be carried out: {error!r}")
            return
        (self.struck if met else self.missed)[fault.kind] += 1
        took_s = self._stage.clock() - began
        print(f"{began:7.1f} s {fault.kind}{'' if met else ': nobody there'} ({took_s:.1f} s)", flush=True)

    # -- processes

    async def _kill_worker(self, fault: Fault) -> bool:
        found = await self._choose("worker", fault.whom)
        if found is None:
            return False
        await self._kill(fault, "worker", found.identity, service=found.service)
        return True

    async def _kill_door(self, fault: Fault) -> bool:
        found = await self._choose("door", fault.whom)
        if found is None:
            return False
        await self._kill(fault, "door", found.identity)
        return True

    async def _kill_job(self, fault: Fault) -> bool:
        """The program itself, or who keeps it: by the last digit of `whom`."""
        programs = int(fault.whom * 1e6) % 2 == 0
        found = await asyncio.to_thread(running, self._stage, programs=programs)
        if not found:
            return False
        job = found[int(fault.whom * len(found))]
        await self._kill(fault, "job", job.identity, service=job.service)
        return True

    async def _kill_daemon(self, fault: Fault) -> bool:
        return await self._end_daemon(fault, signal.SIGKILL)

    async def _kill_daemon_in_action(self, fault: Fault) -> bool:
        """As the daemon does something that was asked for. The span says how far into it."""
        if self.operator.busy or identify(self._stage.node.daemon.pid) is None:
            return False
        met = False

        async def meanwhile() -> None:
            nonlocal met
            await asyncio.sleep(fault.span_s)
            met = await self._end_daemon(fault, signal.SIGKILL, away_s=0.2)

        await self.operator.act(fault.whom, meanwhile)
        return met

    async def _kill_worker_and_daemon(self, fault: Fault) -> bool:
        daemon = asyncio.create_task(self._end_daemon(fault, signal.SIGKILL))
        met = await self._kill_worker(fault)
        return await daemon or met

    async def _kill_job_and_daemon(self, fault: Fault) -> bool:
        daemon = asyncio.create_task(self._end_daemon(fault, signal.SIGKILL))
        met = await self._kill_job(fault)
        return await daemon or met

    async def _kill_door_and_daemon(self, fault: Fault) -> bool:
        daemon = asyncio.create_task(self._end_daemon(fault, signal.SIGKILL))
        met = await self._kill_door(fault)
        return await daemon or met

    async def _kill_all(self, fault: Fault) -> bool:
        """As when the machine runs out of memory and its kernel takes whatever is there."""
        daemon = asyncio.create_task(self._end_daemon(fault, signal.SIGKILL))
        leases = await asyncio.to_thread(self._stage.leases)
        served = {each.identity for each in await asyncio.to_thread(self._stage.workers)}
        keepers = await asyncio.to_thread(running, self._stage, programs=False)
        async with asyncio.TaskGroup() as tasks:
            for each in leases:
                if each.role == "door":
                    tasks.create_task(self._kill(fault, "door", each.identity))
                elif each.identity in served:
                    tasks.create_task(self._kill(fault, "worker", each.identity, service=each.service))
            for each in keepers:
                tasks.create_task(self._kill(fault, "job", each.identity, service=each.service))
        return await daemon or bool(leases)

    async def _freeze_worker(self, fault: Fault) -> bool:
        """Stopped for a while and let go on: late is not dead, and no request may fail by it."""
        found = await self._choose("worker", fault.whom)
        if found is None or not found.identity.send(signal.SIGSTOP):
            return False
        try:
            await asyncio.sleep(fault.span_s)
        finally:
            found.identity.send(signal.SIGCONT)
        return True

    async def _hand_over(self, fault: Fault) -> bool:
        """The daemon is told to leave everything running, as for an upgrade."""
        return await self._end_daemon(fault, signal.SIGUSR2)

    async def _end_daemon(self, fault: Fault, signum: signal.Signals, *, away_s: float | None = None) -> bool:
        stage = self._stage
        identity = identify(stage.node.daemon.pid)
        if identity is None or not identity.alive():
            return False
        before = stage.daemon_back_at
        stage.away_s = fault.span_s if away_s is None else away_s
        at = stage.clock()
        if signum != signal.SIGKILL:
            identity = await self._tell_daemon(signum)
            if identity is None:
                return False
        elif not identity.send(signum):
            return False
        await self._gone(identity)
        done_at = stage.clock()
        while stage.daemon_back_at == before:
            await asyncio.sleep(0.01)
        self._note("daemon", fault, at, done_at, stage.daemon_back_at)
        return True

    async def _choose(self, role: str, whom: float) -> Living | None:
        if role == "worker":
            found = await asyncio.to_thread(self._stage.workers)
        else:
            found = [each for each in await asyncio.to_thread(self._stage.leases) if each.role == role]
        return found[int(whom * len(found))] if found else None

    async def _kill(self, fault: Fault, kind: HarmKind, identity: ProcessIdentity, *, service: str = "") -> None:
        at = self._stage.clock()
        if identity.send(signal.SIGKILL):
            await self._gone(identity)
            now = self._stage.clock()
            self._note(kind, fault, at, now, now, service=service)

    async def _gone(self, identity: ProcessIdentity) -> None:
        """To its last thread: only then are its sockets closed. It is a zombie before that."""
        with contextlib.suppress(ProcessLookupError):
            descriptor = os.pidfd_open(identity.pid)
            try:
                deadline = self._stage.clock() + PATIENCE_S
                while identify(identity.pid) == identity and not select.select([descriptor], [], [], 0)[0]:
                    if self._stage.clock() > deadline:
                        raise TimeoutError(f"pid {identity.pid} does not end")
                    await asyncio.sleep(0.002)
            finally:
                os.close(descriptor)

    # -- keys, disk, settings, backups

    async def _revoke_key(self, fault: Fault) -> bool:
        """Taken back under its holder's hands; some seconds later he gets another."""
        client = int(fault.whom * len(self._keys))
        name = self._keys.of(client)[0]
        at = self._stage.clock()
        await self._insist(f"revoke-{fault.number}", lambda node: node.remove_key(name))
        done_at = self._stage.clock()
        self._note("key", fault, at, done_at, done_at, key=name)
        await asyncio.sleep(fault.span_s)
        lost: list[str] = []
        while True:
            fresh = f"c{client}-{fault.number}-{len(lost)}"
            try:
                made = await self._stage.call(lambda node, fresh=fresh: node.make_key(KeyRequest(name=fresh)))  # type: ignore[misc]
                break
            except (NodeNotRunning, DiskFull):  # made perhaps, and nobody knows the key
                lost.append(fresh)
                await asyncio.sleep(_AGAIN_S)
        self._keys.replace(client, made.key.name, made.secret)
        for number, each in enumerate(lost):
            with contextlib.suppress(KeyNotFound):
                await self._insist(f"lost-{fault.number}-{number}", lambda node, each=each: node.remove_key(each))  # type: ignore[misc]
        return True

    async def _fill_disk(self, fault: Fault) -> bool:
        return await self._with_full_disk(fault, self._kill_worker)

    async def _fill_disk_and_kill_daemon(self, fault: Fault) -> bool:
        async def both(fault: Fault) -> bool:
            met = await self._kill_worker(fault)
            return await self._end_daemon(fault, signal.SIGKILL, away_s=0.3) or met

        return await self._with_full_disk(fault, both)

    async def _with_full_disk(self, fault: Fault, strike: Callable[[Fault], Awaitable[bool]]) -> bool:
        """Whatever else strikes must heal while the disk is full."""
        if self._full_since is not None:
            return False
        stage = self._stage
        hog = stage.node.home.parent / "hog"
        at = self._full_since = stage.clock()
        try:
            await asyncio.to_thread(fill, hog)
            done_at = stage.clock()
            await asyncio.sleep(0.5)
            await strike(fault)
            while not await stage.until_whole(1.0):
                last = max(harm.over_at for harm in stage.facts.harms)
                if stage.clock() - max(last, stage.daemon_back_at) > HEALED_WITHIN_S:
                    missing = await asyncio.to_thread(stage.missing)
                    stage.fail(f"fault {fault.number}: not healed on a full disk: {missing}")
                    break
            await asyncio.sleep(max(0.0, fault.span_s - (stage.clock() - done_at)))
        finally:
            await asyncio.to_thread(hog.unlink, missing_ok=True)
            self._full_since, self._free_since = None, stage.clock()
        self._note("disk", fault, at, done_at, stage.clock())
        return True

    async def _reload(self, fault: Fault) -> bool:
        settings = self._stage.node.home / "config.toml"
        fresh = settings.with_name("config.toml.new")
        try:
            await asyncio.to_thread(fresh.write_text, f"heartbeat_s = {0.5 + fault.whom:.3f}\n")
            await asyncio.to_thread(fresh.replace, settings)
        except OSError:
            await asyncio.to_thread(fresh.unlink, missing_ok=True)
            return False
        return await self._tell_daemon(signal.SIGHUP) is not None

    async def _back_up(self, fault: Fault) -> bool:
        """Whole and read back, whatever happens to the node meanwhile."""
        with tempfile.TemporaryDirectory(prefix="chaos-backup-") as folder:
            target = Path(folder) / f"{fault.number}.tar"
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "thaloom.archivist", "backup", str(target)),
                env=self._stage.node.environment,
                stdout=asyncio.subprocess.PIPE,
            )
            began_full = self.disk_is_full()
            output, _ = await process.communicate()
            last = json.loads(output.decode().strip().splitlines()[-1])
            if "error" in last and not (began_full or self.disk_is_full()):
                self._stage.fail(f"fault {fault.number}: backup: {last['error']}")
            elif "error" not in last:
                self.backups += 1
        return True

    # -- asking

    async def _tell_daemon(self, signum: signal.Signals) -> ProcessIdentity | None:
        """A signal that has a meaning only to a daemon that is ready, as init systems send it: whom it was sent to."""
        for _ in range(100):
            with contextlib.suppress(ThaloomError):
                pid = (await self._stage.call(lambda client: client.status())).pid
                identity = identify(pid)
                if identity is not None and identity.send(signum):
                    return identity
            await asyncio.sleep(_AGAIN_S)
        return None

    async def _insist(self, action: str, what: Callable[[ControlClient], T]) -> T:
        """The same by one id, until there is an answer that is not about the daemon or the disk."""
        terms = Terms(action=action)
        attempt = 0
        while True:
            try:
                return await asyncio.to_thread(what, ControlClient(self._stage.node.home, terms=terms))
            except NodeNotRunning:
                pass
            except DiskFull:
                attempt += 1
                terms = Terms(action=f"{action}-{attempt}")  # that one has ended: failed
            await asyncio.sleep(_AGAIN_S)

    def _note(
        self, kind: HarmKind, fault: Fault, at: float, done_at: float, over_at: float, *, service: str = "",
        key: str = "",
    ) -> None:  # fmt: skip
        self._stage.facts.harms.append(
            Harm(
                kind=kind,
                fault=fault.number,
                at=round(at, 4),
                done_at=round(done_at, 4),
                over_at=round(over_at, 4),
                service=service,
                key=key,
            )
        )
