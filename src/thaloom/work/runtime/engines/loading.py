"""From a worker's spec to a foreign engine that is well: started, waited for, given up with its own last words."""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thaloom.base.clock import Clock
from thaloom.base.errors import DriverUnavailable, ServiceFailed, ThaloomError
from thaloom.kernel.models.store import ModelStore
from thaloom.kernel.state.types import OUTSIDE
from thaloom.work.runtime.engines import kinds
from thaloom.work.runtime.engines.http import Place, Waits, request
from thaloom.work.runtime.engines.kinds import Kind, Start
from thaloom.work.runtime.engines.models import foreign_model, stored_model, why_foreign
from thaloom.work.runtime.engines.places import place_of
from thaloom.work.runtime.engines.process import EngineProcess
from thaloom.work.runtime.engines.served import ForeignServed
from thaloom.work.runtime.spec import WorkerSpec
from thaloom.work.runtime.worker.loading import LoadingStopped
from thaloom.work.runtime.worker.serving import Served, Site

READY_S = 1200.0
"""From its start to its being well: a large model from a slow disk, compiled for a device, takes minutes."""
POLL_S = 0.2
LOOPBACK = "127.0.0.1"
KEY_VARIABLE = "THALOOM_ENGINE_KEY"
"""The bearer token for a server that runs already: a secret, so it comes by the environment only."""
_ASKING = Waits(connect_s=2.0, silence_s=5.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignEngine:
    """An engine that is well: where it is, what it calls the model, how many requests it takes at once."""

    kind: Kind
    place: Place
    model: str
    context_length: int | None
    max_sequences: int
    degraded: str
    """What it does in another way than a worker of ours."""
    digest: str = ""
    """Of a model of the store."""
    process: EngineProcess | None
    """None: it is not ours to end."""

    def serve(self, site: Site) -> Served:
        return ForeignServed(self, site)

    def close(self) -> None:
        if self.process is not None:
            self.process.stop(10.0)


def load_foreign(
    spec: WorkerSpec,
    stop: threading.Event,
    clock: Clock,
    *,
    environment: Mapping[str, str] = os.environ,
    ready_s: float = READY_S,
    start: Callable[..., EngineProcess] = EngineProcess,
) -> ForeignEngine:
    """Blocks. Raises DriverUnavailable (not installed, cannot be started, ended), ServiceFailed (never well in time),
    whatever refuses the model, or LoadingStopped once `stop` is set."""
    kind = kinds.find(spec.engine)
    max_sequences = min(spec.max_sequences, kind.most_sequences or spec.max_sequences)
    if kind.command is None:
        place = place_of(spec.url, spec.engine_hosts, environment.get(KEY_VARIABLE))
        _until_well(kind, place, None, stop, clock, ready_s)
        name, context_length = _served(place, spec.model)
        return ForeignEngine(
            kind=kind, place=place, model=name, context_length=spec.context_length or context_length,
            max_sequences=max_sequences, degraded=kind.otherwise, process=None,
        )  # fmt: skip
    if spec.engine in OUTSIDE:
        model, degraded, digest = foreign_model(spec.engine, spec.model), kind.otherwise, ""
    else:
        store = ModelStore(Path(spec.store), clock)
        manifest = store.get(spec.model)
        model, digest = stored_model(store, manifest), manifest.digest
        degraded = f"{why_foreign(manifest.card.architecture)}; {kind.otherwise}"
    context_length = model.context(spec.context_length)
    key = secrets.token_urlsafe(24)  # others on this machine may reach its port
    place = Place(host=LOOPBACK, port=_free_port(), prefix="/v1", key=key)
    asked = Start(
        model=spec.model, name=spec.service, host=place.host, port=place.port, num_threads=spec.num_threads,
        context_length=context_length, max_sequences=max_sequences, store=spec.store,
    )  # fmt: skip
    try:
        process = start(kind.command(asked), kinds.environment(kind, environment, key, spec.num_threads))
    except OSError as error:
        raise DriverUnavailable(f"engine {kind.name!r} cannot be started: {error}") from error
    try:
        _until_well(kind, place, process, stop, clock, ready_s)
    except BaseException:
        process.stop(10.0)
        raise
    return ForeignEngine(
        kind=kind, place=place, model=spec.service, context_length=context_length, max_sequences=max_sequences,
        degraded=degraded, digest=digest, process=process,
    )  # fmt: skip


def _until_well(
    kind: Kind, place: Place, process: EngineProcess | None, stop: threading.Event, clock: Clock, ready_s: float
) -> None:
    deadline = clock.monotonic() + ready_s
    while True:
        if stop.is_set():
            raise LoadingStopped
        if process is not None and process.ended:
            raise DriverUnavailable(f"engine {kind.name!r} ended while it loaded: {process.last_words()}")
        why = asyncio.run(_ill(kind, place))
        if why is None:
            return
        if clock.monotonic() >= deadline:
            words = "" if process is None else f"; its last words: {process.last_words()}"
            raise ServiceFailed(f"engine {kind.name!r} was not ready within {ready_s:g} s: {why}{words}")
        stop.wait(POLL_S)


async def _ill(kind: Kind, place: Place) -> str | None:
    """Why it cannot be asked yet, or None. A health path of its own lies beside `/v1`."""
    where = place if kind.command is None else Place(host=place.host, port=place.port)
    try:
        async with request(where, "GET", kind.health_path, None, _ASKING) as answer:
            await answer.body(1 << 20)
            return None if answer.status == 200 else f"{kind.health_path} answers {answer.status}"
    except ThaloomError as error:
        return error.message


def _served(place: Place, wanted: str) -> tuple[str, int | None]:
    """The model by the server's own name, and its context if it says. Raises ServiceFailed if it serves no such one."""
    try:
        listed: Any = asyncio.run(_models(place))
        entries = {entry["id"]: entry for entry in listed["data"]}
    except (ThaloomError, KeyError, TypeError) as error:
        raise ServiceFailed(f"the server at {place.host}:{place.port} does not list its models: {error}") from error
    if wanted not in entries:
        names = ", ".join(sorted(map(str, entries))[:10]) or "none"
        raise ServiceFailed(f"the server at {place.host}:{place.port} has no model {wanted!r} (it has: {names})")
    length = entries[wanted].get("max_model_len")
    return wanted, length if isinstance(length, int) and length > 0 else None


async def _models(place: Place) -> Any:
    async with request(place, "GET", "/models", None, _ASKING) as answer:
        return await answer.json()


def _free_port() -> int:
    """One that is free now. If somebody takes it first, the engine ends and the next try gets another."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])
