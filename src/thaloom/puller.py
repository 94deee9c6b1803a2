"""Pulls one model and ends: a process of its own, so that what strangers send is read far from whoever holds the node.

    python -m thaloom.puller < spec.json

Told on standard input, since a token is in it; progress and the outcome are JSON lines on standard output, at least one
a second: when nobody reads them any more, the process ends, and what came is kept.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import sys
from pathlib import Path
from typing import Any

from thaloom import __version__
from thaloom.base.air_gap import AirGap
from thaloom.base.clock import SystemClock
from thaloom.base.config import from_mapping
from thaloom.base.errors import InternalError, StateUnusable, ThaloomError
from thaloom.base.events import Degraded, Emit, Recorder
from thaloom.base.outgoing import Outgoing
from thaloom.kernel.models.pulling.partials import SEGMENT_BYTES
from thaloom.kernel.models.pulling.pull import Means, pull
from thaloom.kernel.models.pulling.retrying import PATIENCE, Patience
from thaloom.kernel.models.store import ModelStore
from thaloom.kernel.models.types import HubModel, HubSettings, ModelName
from thaloom.kernel.trust.inherited import InheritedKey

_HEARTBEAT_S = 1.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """What it is told."""

    store: Path
    pulls: Path
    calls: Path
    """Where calls that were not made are listed (base.air_gap)."""
    closed: str | None
    """Why no call goes out, or None."""
    model: HubModel
    settings: HubSettings
    name: str | None
    replace: bool
    encrypt: bool = False
    num_connections: int = 8
    segment_bytes: int = SEGMENT_BYTES
    patience: Patience = PATIENCE


def main() -> int:
    os.umask(0o077)
    try:
        events = Recorder()
        key = InheritedKey(os.environ)
        model = asyncio.run(_pull(from_mapping(Spec, json.load(sys.stdin)), key, events))
    except ThaloomError as error:
        _say({"error": error.to_dict()})
    except OSError as error:
        _say({"error": StateUnusable(f"{error.strerror}: {error.filename}").to_dict()})
    except Exception as error:  # noqa: BLE001 - the last word of a process: whoever waits is told
        _say({"error": InternalError(f"{type(error).__name__}: {error}").to_dict()})
    else:
        bent = [{"reason": event.reason, "message": event.message} for event in events.of(Degraded)]
        _say({"model": model, "degraded": bent})
    return 0


async def _pull(spec: Spec, key: InheritedKey, emit: Emit) -> str:
    clock = SystemClock()
    told: dict[str, Any] = {"stage": "starting", "done": 0, "total": None}

    def tell(stage: str, done: int, total: int | None) -> None:
        told.update(stage=stage, done=done, total=total)
        _say(told)

    async def beat() -> None:
        while True:
            await clock.sleep(_HEARTBEAT_S)
            _say(told)

    gap = AirGap(spec.calls, clock, closed=spec.closed)
    beating = asyncio.create_task(beat())
    try:
        async with Outgoing(gap, user_agent=f"thaloom/{__version__}") as outgoing:
            means = Means(
                store=ModelStore(spec.store, clock, emit, key=key),
                pulls=spec.pulls,
                outgoing=outgoing,
                clock=clock,
                patience=spec.patience,
                num_connections=spec.num_connections,
                segment_bytes=spec.segment_bytes,
            )
            name = None if spec.name is None else ModelName.parse(spec.name)
            manifest = await pull(
                spec.model, spec.settings, means,
                name=name, replace=spec.replace, encrypt=spec.encrypt, progress=tell,
            )  # fmt: skip
    finally:
        beating.cancel()
    return str(manifest.name)


def _say(message: dict[str, Any]) -> None:
    """One line; the process ends at once when nobody listens: a kill would leave no more behind."""
    line = memoryview(json.dumps(message).encode() + b"\n")
    try:
        while line:  # not through a buffer: two threads speak here
            line = line[os.write(sys.stdout.fileno(), line) :]
    except BrokenPipeError:
        os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
