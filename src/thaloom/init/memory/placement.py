"""What it would take to start a service: model, device, bytes. Looked up once for each change of the wish."""

from __future__ import annotations

import asyncio
import dataclasses
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec

from thaloom.base.clock import Clock
from thaloom.base.errors import DriverUnavailable, NotServable, ThaloomError
from thaloom.base.ids import DeviceId, ServiceName
from thaloom.base.units import format_bytes
from thaloom.hal.inventory import Inventory
from thaloom.init.memory.admission import Estimate, choose_device, estimate, foreign_estimate, onnx_estimate
from thaloom.init.rounds.actions import Hold
from thaloom.kernel.models.store import ModelStore
from thaloom.kernel.models.types import Manifest, ModelName
from thaloom.kernel.state.types import OUTSIDE, Service, ServiceSpec
from thaloom.work.runtime.engines.models import foreign_model, own_architectures, stored_model, takes


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """How a service would be started."""

    manifest: Manifest | None
    """None: a foreign engine serves what does not lie in the store."""
    device: DeviceId
    estimate: Estimate
    lends: bool = False
    """Whether its worker takes part in lending pages."""
    takes_turns: bool = False
    """Whether its worker takes turns at the device with others."""


REFUSED_S = 5.0
"""How long a refusal is believed; longer where there are hundreds, so that a pass looks at a few of them."""


ALIKE_S = 2.0


class Planner:
    """Reads the store in threads, once for all wishes that differ in no more than their names. A refusal is remembered
    until a model comes or a device changes, and for a while at most: what stood in the way may go by itself."""

    def __init__(
        self,
        models: ModelStore,
        inventory: Inventory,
        clock: Clock,
        *,
        lends: Callable[[ServiceSpec, DeviceId], bool] = lambda *_: False,
        takes_turns: Callable[[ServiceSpec, DeviceId], bool] = lambda *_: False,
    ) -> None:
        """`lends`, `takes_turns`: whether a service takes part in lending pages on a device, and in turns there."""
        self._lends = lends
        self._takes_turns = takes_turns
        self._models = models
        self._inventory = inventory
        self._clock = clock
        self._plans: dict[tuple[ServiceName, int], Placement] = {}
        self._refusals: dict[tuple[ServiceName, int], tuple[Hold, float]] = {}
        self._alike: dict[str, tuple[Placement, float]] = {}
        """Plans by what they were made of, and until when they stand for wishes that are alike."""

    async def plan(self, service: Service) -> Placement | Hold:
        """The plan, or why there is none."""
        key = (service.spec.name, service.revision)
        plan = self._plans.get(key)
        if plan is not None:
            return plan
        known = self._refusals.get(key)
        if known is not None and self._clock.monotonic() < known[1]:
            return known[0]
        hold: Hold | None = None
        try:
            plan = self._plans[key] = await self._make_soon(service.spec)
            self._refusals.pop(key, None)
            return plan
        except ThaloomError as error:
            hold = Hold(service=service.spec.name, reason=type(error).__name__, message=error.message)
        if known is not None and known[0] == hold:
            hold = known[0]
        self._refusals[key] = (hold, self._clock.monotonic() + REFUSED_S * (1 + len(self._refusals) / 100))
        return hold

    async def make(self, spec: ServiceSpec) -> Placement:
        """Raises ModelNotFound, CorruptObject, NotServable, DeviceNotFound, BadParameter."""
        device = self._device(spec)
        return await asyncio.to_thread(self._read, spec, device)

    async def make_alike(self, spec: ServiceSpec, known: dict[str, Placement]) -> Placement:
        """As `make`, once for all that are alike. `known` is the caller's to keep, for as long as it means one look."""
        said = _said(spec)
        if said not in known:
            known[said] = await self.make(spec)
        return known[said]

    async def _make_soon(self, spec: ServiceSpec) -> Placement:
        """The one that was made a moment ago for a wish that is alike, or a new one."""
        said, now = _said(spec), self._clock.monotonic()
        known = self._alike.get(said)
        if known is None or now >= known[1]:
            self._alike = {other: kept for other, kept in self._alike.items() if now < kept[1]}
            known = self._alike[said] = (await self.make(spec), now + ALIKE_S)
        return known[0]

    def known(self, service: Service) -> Placement | None:
        return self._plans.get((service.spec.name, service.revision))

    def forget(self, service: ServiceName) -> None:
        for key in [key for key in self._plans if key[0] == service]:
            del self._plans[key]
        for key in [key for key in self._refusals if key[0] == service]:
            del self._refusals[key]

    def forget_model(self, name: ModelName) -> None:
        """Another model has that name now, or none."""
        self._refusals.clear()
        self._alike.clear()
        for key in [key for key, plan in self._plans.items() if plan.manifest and plan.manifest.name == name]:
            del self._plans[key]

    def _device(self, spec: ServiceSpec) -> DeviceId:
        if spec.device is not None:
            return self._inventory.device(spec.device).id
        device = choose_device(self._inventory.devices())
        if device is None:
            raise NotServable("there is no device to run on (see: thaloom device ls)")
        return device

    def _read(self, spec: ServiceSpec, device: DeviceId) -> Placement:
        if spec.engine in OUTSIDE:
            foreign = foreign_estimate(spec, lambda: foreign_model(spec.engine, spec.model))
            return Placement(manifest=None, device=device, estimate=foreign)
        manifest = self._models.get(spec.model)
        check_engine(spec, manifest)
        if spec.engine == "transformers":
            model = stored_model(self._models, manifest)
            return Placement(manifest=manifest, device=device, estimate=foreign_estimate(spec, lambda: model))
        if spec.engine == "onnx":
            return Placement(manifest=manifest, device=device, estimate=onnx_estimate(spec, manifest.card))
        if spec.kv_disk_bytes:
            check_disk_tier(spec, manifest, shutil.disk_usage(self._models.root).total)
        config = self._models.open(manifest).config()
        lends = self._lends(spec, device)
        found = estimate(spec, manifest.card, config, lends=lends)
        turns = self._takes_turns(spec, device)
        return Placement(manifest=manifest, device=device, estimate=found, lends=lends, takes_turns=turns)


def _said(spec: ServiceSpec) -> str:
    """Of a wish, all that a plan is made of."""
    fields = {field.name: getattr(spec, field.name) for field in dataclasses.fields(spec)}
    return repr([(name, value) for name, value in fields.items() if name not in ("name", "labels", "replicas")])


def check_disk_tier(spec: ServiceSpec, manifest: Manifest, disk_bytes: int) -> None:
    """Raises NotServable for more than the node's disk could ever hold, and where what people tell an encrypted model
    would lie on it as it is."""
    if spec.kv_disk_bytes > disk_bytes:
        raise NotServable(
            f"kv_disk_bytes is {format_bytes(spec.kv_disk_bytes)}; the node's disk has {format_bytes(disk_bytes)}",
            param="kv_disk_bytes",
        )
    if manifest.encrypted:
        raise NotServable(
            f"model {spec.model!r} is encrypted; its keys and values would lie on the disk in plain",
            param="kv_disk_bytes",
        )


def check_engine(spec: ServiceSpec, manifest: Manifest) -> None:
    """Raises NotServable if the engine is not the one for such a model, DriverUnavailable if it is not installed."""
    architecture = manifest.card.architecture
    if spec.engine == "thaloom" and takes(architecture) and architecture not in own_architectures():
        raise NotServable(
            f"no own model for architecture {architecture} of {spec.model!r}; engine 'transformers' may serve it, "
            f"slower: thaloom serve {spec.model} --engine transformers (pip install 'thaloom[transformers]')",
            param="engine",
        )
    if (manifest.card.family == "onnx") != (spec.engine == "onnx"):
        right = "onnx" if manifest.card.family == "onnx" else "thaloom"
        raise NotServable(f"model {spec.model!r} is served by engine {right!r}, not {spec.engine!r}", param="engine")
    if spec.engine == "onnx" and find_spec("onnxruntime") is None:
        raise DriverUnavailable("engine 'onnx' is not installed: pip install 'thaloom[onnx]'")
