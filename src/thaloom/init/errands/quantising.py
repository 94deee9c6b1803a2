"""Quantising a model: a process of its own does it, its memory is booked, and its end is ours.

The process ends with us: it gives up when nobody reads its progress any more. Whoever stops waiting ends it, and what
it had begun is swept away.
"""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import json
from typing import Any

from thaloom.base.errors import InternalError, OutOfMemory
from thaloom.base.events import Emit
from thaloom.base.ids import ServiceName, WorkerId
from thaloom.base.units import GIB, format_bytes
from thaloom.init.errands.errand import run_errand
from thaloom.init.errands.progress import OnProgress
from thaloom.init.layout import Layout
from thaloom.init.memory.node_memory import NodeMemory
from thaloom.init.memory.placement import Placement, Planner
from thaloom.init.rounds.supervisor import Supervisor
from thaloom.init.walls.fencing import Fences
from thaloom.kernel.models.events import ModelQuantised
from thaloom.kernel.models.store import ModelStore
from thaloom.kernel.models.types import Manifest, QuantiseWish
from thaloom.kernel.state.types import ServiceSpec

_SLACK_BYTES = GIB
"""Beyond the model's estimate and a quarter of it: generous, for the limit is there for what grows without end."""


class Quantising:
    """One at a time: two would only take each other's processors."""

    def __init__(
        self,
        layout: Layout,
        *,
        models: ModelStore,
        planner: Planner,
        memory: NodeMemory,
        supervisor: Supervisor,
        emit: Emit,
        fences: Fences,
    ) -> None:
        self._layout = layout
        self._models = models
        self._planner = planner
        self._memory = memory
        self._supervisor = supervisor
        self._emit = emit
        self._fences = fences
        self._turn = asyncio.Lock()
        self._serial = itertools.count()

    async def quantise(self, wish: QuantiseWish, progress: OnProgress) -> Manifest:
        """Raises what the process says, and OutOfMemory. Cancelling ends it; nothing half-done stays behind."""
        async with self._turn:
            plan = await self._planner.make(ServiceSpec(name=ServiceName("quantise"), model=str(wish.model)))
            owner = WorkerId(f"quantise-{next(self._serial)}")
            needed_bytes = self._book(owner, plan)
            try:
                await self._memory.take_back(owner, needed_bytes)
                estimate = plan.estimate.total_bytes
                await self._run(self._spec(wish), estimate + estimate // 4 + _SLACK_BYTES, progress)
            finally:
                self._memory.release(owner)
        manifest = await asyncio.to_thread(self._models.get, wish.name)
        self._tell(manifest)
        return manifest

    def _spec(self, wish: QuantiseWish) -> dict[str, Any]:
        names = {"model": str(wish.model), "name": str(wish.name)}
        return dataclasses.asdict(wish) | names | {"store": str(self._layout.models)}

    def _book(self, owner: WorkerId, plan: Placement) -> int:
        """Bytes of its weights, for as long as it runs; what it computes with is small."""
        needed = dataclasses.replace(plan.estimate, kv_bytes=0)
        free = self._memory.free_bytes(self._supervisor)[plan.device]
        if needed.total_bytes > free:
            raise OutOfMemory(
                f"it needs {format_bytes(needed.total_bytes)}, {format_bytes(free)} of {plan.device!r} are free",
                device=plan.device,
                needed_bytes=needed.total_bytes,
                free_bytes=free,
            )
        self._memory.reserve(owner, plan.device, needed)
        return needed.total_bytes

    async def _run(self, spec: dict[str, Any], memory_bytes: int, progress: OnProgress) -> None:
        try:
            async with self._fences.errand("quantise", memory_bytes) as fence:
                await run_errand("thaloom.quantiser", ("--spec", json.dumps(spec)), progress, fence=fence)
        except (asyncio.CancelledError, InternalError, OutOfMemory):
            await asyncio.to_thread(self._models.sweep)
            raise

    def _tell(self, manifest: Manifest) -> None:
        made = manifest.card.quantisation
        quality = None if made is None else made.quality
        self._emit(
            ModelQuantised(
                model=str(manifest.name),
                digest=manifest.digest,
                original="" if made is None else made.original,
                perplexity=None if quality is None else quality.perplexity,
                original_perplexity=None if quality is None else quality.original_perplexity,
            )
        )
