"""Pulls under way. They belong to the node and not to whoever asked: a caller may leave, and come back to the same."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from thaloom.base.air_gap import AirGap, RefusedCall
from thaloom.base.clock import Clock
from thaloom.base.errors import Forbidden, InternalError, ModelNotFound, NodeNotRunning, QueueFull, ThaloomError
from thaloom.base.events import Degraded, Emit
from thaloom.init.access.vault import Vault
from thaloom.init.errands.errand import run_errand
from thaloom.init.errands.progress import OnProgress
from thaloom.init.events import PullBegun, PullEnded
from thaloom.init.layout import Layout
from thaloom.init.walls.fencing import Fences
from thaloom.kernel.models.pulling.naming import default_name
from thaloom.kernel.models.pulling.partials import PartialPull, key_of, unfinished
from thaloom.kernel.models.pulling.sources import DEFAULT_ENDPOINTS, parse_source
from thaloom.kernel.models.store import ModelStore
from thaloom.kernel.models.types import HubModel, HubSettings, Manifest, ModelName, UnfinishedPull

MOST_PULLS = 32
AT_ONCE = 2
"""Each has several connections; more pulls would only share the same line."""
_Key = tuple[str, str | None, bool, bool]
"""What makes two pulls the same one: source, name, and the two wishes."""
_TRUE = ("1", "on", "yes", "true")


@dataclass(slots=True)
class _Running:
    """One pull and those who follow it. `ended` has its outcome."""

    model: HubModel
    """With its endpoint."""
    ended: asyncio.Future[Manifest]
    latest: tuple[str, int, int | None] = ("waiting", 0, None)
    followers: list[OnProgress] = field(default_factory=list)
    task: asyncio.Task[None] | None = None

    def tell(self, stage: str, done: int, total: int | None) -> None:
        self.latest = (stage, done, total)
        for follower in self.followers:
            follower(stage, done, total)


class Pulls:
    """`close` ends all of them, in time for the node's end; what came is kept."""

    def __init__(
        self,
        layout: Layout,
        *,
        air_gap: bool,
        read_through: bool,
        models: ModelStore,
        tasks: asyncio.TaskGroup,
        clock: Clock,
        emit: Emit,
        pulled: Callable[[Manifest], None],
        vault: Vault,
        fences: Fences,
        require_memory: Callable[[str], None],
    ) -> None:
        """`require_memory(what)` raises OutOfMemory where nothing new is to be begun."""
        self._layout = layout
        self.use(air_gap=air_gap, read_through=read_through)
        self._models = models
        self._tasks = tasks
        self._clock = clock
        self._emit = emit
        self._pulled = pulled
        self._vault = vault
        self._fences = fences
        self._require_memory = require_memory
        self._running: dict[_Key, _Running] = {}
        self._turns = asyncio.Semaphore(AT_ONCE)

    def use(self, *, air_gap: bool, read_through: bool) -> None:
        """Heed these from the next pull on."""
        self._closed = "the node is air-gapped (air_gap, THALOOM_AIRGAP)" if air_gap else None
        self._read_through = read_through

    async def pull(
        self,
        model: HubModel,
        settings: HubSettings,
        name: ModelName | None,
        *,
        replace: bool,
        read_through: bool,
        encrypt: bool,
        progress: OnProgress,
    ) -> Manifest:
        """The model, when it is there. Cancelling leaves the pull to itself. Raises what the pull does, QueueFull,
        OutOfMemory; Forbidden for a read-through that the node does not allow; for `encrypt` what the vault raises."""
        if read_through and not self._read_through:
            raise Forbidden("this node pulls nothing on behalf of those who ask its hub (hub_read_through is off)")
        encrypt = encrypt or await asyncio.to_thread(self._is_encrypted, name or default_name(model))
        if encrypt:
            self._vault()
        settings = _filled(settings, os.environ)
        key = (_key(model, settings), None if name is None else str(name), replace, encrypt)
        running = self._running.get(key)
        if running is None:
            running = self._begin(key, model, settings, name, replace=replace, encrypt=encrypt)
        progress(*running.latest)
        running.followers.append(progress)
        try:
            return await asyncio.shield(running.ended)
        finally:
            running.followers.remove(progress)

    def _is_encrypted(self, name: ModelName) -> bool:
        """One that is encrypted stays so."""
        try:
            return self._models.get(name).encrypted
        except ThaloomError:
            return False

    async def unfinished(self) -> Sequence[UnfinishedPull]:
        at_work = {key for key, *_ in self._running}
        found = await asyncio.to_thread(unfinished, self._layout.pulls)
        return [dataclasses.replace(pull, running=key in at_work) for key, pull in found]

    async def there(self, source: str) -> Sequence[UnfinishedPull]:
        """Those of that source. Raises BadParameter."""
        model = parse_source(source)
        return [pull for pull in await self.unfinished() if _means_text(model, pull.source)]

    async def remove(self, source: str) -> str:
        """End a pull and delete what came of it. Raises ModelNotFound if there is none, BadParameter."""
        model = parse_source(source)
        at_work = {key: running for (key, *_), running in self._running.items() if _means(model, running.model)}
        for running in at_work.values():
            await self._cancel(running)
        left = await asyncio.to_thread(unfinished, self._layout.pulls)
        keys = at_work.keys() | {key for key, pull in left if _means_text(model, pull.source)}
        for key in sorted(keys):
            await asyncio.to_thread(self._delete, key)
        if not keys:
            raise ModelNotFound(f"no unfinished pull of {source!r} (thaloom ls --partial lists them)")
        return source

    async def refused_calls(self) -> tuple[str | None, Sequence[RefusedCall]]:
        """Why no call goes out, if none does; and those that did not, the oldest first."""
        gap = AirGap(self._layout.refused_calls, self._clock, closed=self._closed)
        return self._closed, await asyncio.to_thread(gap.refused)

    async def close(self) -> None:
        for running in list(self._running.values()):
            await self._cancel(running)

    def _begin(
        self,
        key: _Key,
        model: HubModel,
        settings: HubSettings,
        name: ModelName | None,
        *,
        replace: bool,
        encrypt: bool,
    ) -> _Running:
        if len(self._running) >= MOST_PULLS:
            raise QueueFull(f"{MOST_PULLS} models are being pulled already", retry_after_s=60)
        self._require_memory(f"the pull of {model}")
        placed = dataclasses.replace(model, endpoint=_endpoint(model, settings))
        running = _Running(placed, asyncio.get_running_loop().create_future())
        running.ended.add_done_callback(lambda ended: ended.cancelled() or ended.exception())  # heard, if nobody waits
        spec = self._spec(model, settings, name, replace=replace, encrypt=encrypt)
        self._running[key] = running
        running.task = self._tasks.create_task(self._run(key, running, str(model), spec), name=f"pull {model}")
        return running

    async def _run(self, key: _Key, running: _Running, source: str, spec: Mapping[str, Any]) -> None:
        """Whatever happens becomes the outcome: nothing of it may end the node."""
        error: ThaloomError | None = None
        try:
            async with self._turns:
                self._emit(PullBegun(source=source))
                env, pass_fds = self._vault.for_child() if spec["encrypt"] else ({}, ())  # it reads what strangers send
                spoken = json.dumps(spec).encode()
                async with self._fences.errand("pull") as fence:
                    said = await run_errand(
                        "thaloom.puller", (), running.tell, said=spoken, env=env, pass_fds=pass_fds, fence=fence
                    )
            manifest = await asyncio.to_thread(self._models.get, said["model"])
            for bent in said["degraded"]:
                self._emit(Degraded(subject=str(manifest.name), reason=bent["reason"], message=bent["message"]))
            self._pulled(manifest)
            running.ended.set_result(manifest)
            self._emit(PullEnded(source=source, model=str(manifest.name), code=None, message=""))
        except asyncio.CancelledError:
            error = NodeNotRunning(f"the pull of {source} was ended; what came is kept, unless it was removed")
        except ThaloomError as found:
            error = found
        except Exception as found:  # noqa: BLE001 - a supervisor: told, and the caller's to see
            error = InternalError(f"{type(found).__name__}: {found}")
        finally:
            del self._running[key]
        if error is not None:
            self._emit(PullEnded(source=source, model=None, code=error.code, message=error.message))
            running.ended.set_exception(error)

    def _spec(
        self, model: HubModel, settings: HubSettings, name: ModelName | None, *, replace: bool, encrypt: bool
    ) -> dict[str, Any]:
        return {
            "store": str(self._layout.models),
            "pulls": str(self._layout.pulls),
            "calls": str(self._layout.refused_calls),
            "closed": self._closed or ("HF_HUB_OFFLINE is set" if settings.offline else None),
            "model": dataclasses.asdict(model),
            "settings": dataclasses.asdict(settings),
            "name": None if name is None else str(name),
            "replace": replace,
            "encrypt": encrypt,
        }

    async def _cancel(self, running: _Running) -> None:
        assert running.task is not None
        running.task.cancel()
        await asyncio.wait([running.task])

    def _delete(self, key: str) -> None:
        if not (self._layout.pulls / key).is_dir():
            return
        partial = PartialPull.take(self._layout.pulls, key)
        if partial is None:
            raise QueueFull("it is still being worked on; try again in a moment", retry_after_s=2)
        try:
            partial.delete()
        finally:
            partial.close()


def _key(model: HubModel, settings: HubSettings) -> str:
    return key_of(model, _endpoint(model, settings))


def _endpoint(model: HubModel, settings: HubSettings) -> str:
    named = settings.hf_endpoint if model.hub == "hf" else settings.ms_endpoint
    return (model.endpoint or named or DEFAULT_ENDPOINTS[model.hub]).rstrip("/")


def _means(asked: HubModel, model: HubModel) -> bool:
    """Whether it is what somebody named, who need not know at which endpoint it is."""
    return str(asked) == str(model) and asked.endpoint in (None, model.endpoint)


def _means_text(asked: HubModel, source: str) -> bool:
    try:
        return _means(asked, parse_source(source))
    except ThaloomError:  # not written by us
        return False


def _filled(settings: HubSettings, environment: Mapping[str, str]) -> HubSettings:
    """What the caller's environment leaves open, from the node's own. A token is taken only with its own endpoint."""
    hf = settings.hf_endpoint is None
    ms = settings.ms_endpoint is None
    return HubSettings(
        hf_endpoint=settings.hf_endpoint or environment.get("HF_ENDPOINT") or None,
        hf_token=settings.hf_token or (environment.get("HF_TOKEN") or None if hf else None),
        ms_endpoint=settings.ms_endpoint or environment.get("MODELSCOPE_ENDPOINT") or None,
        ms_token=settings.ms_token or (environment.get("MODELSCOPE_API_TOKEN") or None if ms else None),
        offline=settings.offline or environment.get("HF_HUB_OFFLINE", "").strip().lower() in _TRUE,
    )
