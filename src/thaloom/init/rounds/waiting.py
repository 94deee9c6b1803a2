"""One process that waits to be a worker, as its daemon has it: the other end of work/runtime/worker/standby.py."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from thaloom.base.ids import WorkerId
from thaloom.base.procs import ProcessIdentity, spawn
from thaloom.work.runtime.worker.standby import MAX_BYTES, REPORTS, Orders, Refused, Report, Taken


@dataclass(slots=True, kw_only=True, eq=False)
class Waiting:
    """From its start until it is a worker, or has ended. Owner of the channel, whose end is its end."""

    id: WorkerId
    identity: ProcessIdentity
    channel: socket.socket
    started_at: float
    given: asyncio.Event = field(default_factory=asyncio.Event)
    """It is somebody's now, and its id with it."""
    has_orders: bool = False
    """Whatever becomes of us, it carries them out."""

    async def heard(self, timeout_s: float) -> Report:
        """What it says next. Raises OSError (TimeoutError among them), ValueError."""
        async with asyncio.timeout(timeout_s):
            message = await asyncio.get_running_loop().sock_recv(self.channel, MAX_BYTES)
        if not message:
            raise ConnectionResetError("it ended")
        return REPORTS.decode(message)

    async def become(self, orders: Orders, inherited: Sequence[int], log: Path, timeout_s: float) -> str | None:
        """Give it its orders, `log` for its output and these descriptors of ours; why it did not carry them out, in
        which case it is to be ended, or None."""
        try:
            with log.open("ab") as output:
                message = [msgspec.json.encode(orders)]
                socket.send_fds(self.channel, message, [output.fileno(), *inherited])
            self.has_orders = True
            report = await self.heard(timeout_s)
        except (OSError, ValueError) as error:
            return str(error) or type(error).__name__
        except BaseException:
            self.end()
            raise
        finally:
            self.channel.close()
        if isinstance(report, Taken):
            return None
        return report.reason if isinstance(report, Refused) else f"it answered {report}"

    def end(self) -> None:
        self.channel.close()
        self.identity.send(signal.SIGKILL)

    async def ended(self) -> None:
        """End it, and return when it has."""
        self.end()
        await self.identity.wait()


def start_waiting(
    worker: WorkerId, command: Sequence[str], environment: Mapping[str, str], log: Path, started_at: float
) -> Waiting:
    """Run `command`, its output in a new `log`. Raises OSError."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    try:
        with theirs:
            log.unlink(missing_ok=True)
            identity = spawn(command, log=log, env=dict(environment), stdin=theirs.fileno())
    except BaseException:
        ours.close()
        raise
    return Waiting(id=worker, identity=identity, channel=ours, started_at=started_at)
