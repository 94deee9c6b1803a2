"""How checks are written down, chosen and run.

A check is a function of a `Subject` that returns if all is well and raises if not. What it `needs` is a claim the
driver may not make; then, and only then, it is skipped.
"""

from __future__ import annotations

import importlib
import pkgutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from thaloom.base.ids import DeviceId
from thaloom.base.plugins import Manifest
from thaloom.hal.driver import (
    Backend,
    Driver,
    InjectsFaults,
    MovesBlocks,
    ReportsLinks,
    ReservesMemory,
    SamplesNatively,
)
from thaloom.hal.ops import VERSION
from thaloom.hal.testing.report import Report, Result
from thaloom.hal.types import Device, Support


class Nonconforming(Exception):
    """A check found what must not be."""


def expect(condition: bool, message: str) -> None:
    """Raises Nonconforming with `message` unless the condition holds."""
    if not condition:
        raise Nonconforming(message)


def fastest(work: Callable[[], object], enough_s: float, *, attempts: int = 20) -> float:
    """Seconds of the quickest of some attempts; no more are made once one is below `enough_s`."""
    best_s = float("inf")
    for _ in range(attempts):
        start = time.perf_counter()
        work()
        best_s = min(best_s, time.perf_counter() - start)
        if best_s < enough_s:
            break
    return best_s


class Subject:
    """The driver and device under test, and ways to reach them."""

    def __init__(self, driver: Driver, device_id: DeviceId, manifest: Manifest | None) -> None:
        self.driver = driver
        self.device_id = device_id
        self.manifest = manifest
        self._support: Support | None = None

    def device(self) -> Device:
        for device in self.driver.probe():
            if device.id == self.device_id:
                return device
        raise Nonconforming(f"probe() does not list {self.device_id!r}")

    def open(self, num_threads: int = 1) -> Backend:
        return self.driver.open(self.device_id, num_threads=num_threads)

    def support(self) -> Support:
        if self._support is None:
            self._support = self.open().support
        return self._support

    def draws(self) -> bool:
        """Whether executables choose tokens themselves."""
        from thaloom.hal.testing.bench import bench
        from thaloom.hal.testing.programs import tiny_model

        with bench(self.open(), tiny_model(1)) as made:
            return isinstance(made.executable, SamplesNatively)

    def moves(self) -> bool:
        """Whether what blocks hold can leave the device and come back."""
        from thaloom.hal.testing.bench import bench
        from thaloom.hal.testing.programs import tiny_model

        with bench(self.open(), tiny_model(1)) as made:
            return isinstance(made.executable, MovesBlocks)

    def reserves(self) -> ReservesMemory:
        backend = self.open()
        if not isinstance(backend, ReservesMemory):
            raise Nonconforming("the backend reserves no memory")
        return backend

    def faults(self) -> InjectsFaults:
        if not isinstance(self.driver, InjectsFaults):
            raise Nonconforming("the driver injects no faults")
        return self.driver


Claim = Callable[[Subject], bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """`needs` names the claims of the driver that the check is about."""

    id: str
    run: Callable[[Subject], None]
    needs: tuple[str, ...] = ()


_CHECKS: dict[str, Check] = {}

_CLAIMS: dict[str, Claim] = {
    "manifest": lambda subject: subject.manifest is not None,
    "exact": lambda subject: subject.support().exact,
    "links": lambda subject: isinstance(subject.driver, ReportsLinks),
    "faults": lambda subject: isinstance(subject.driver, InjectsFaults),
    "elastic": lambda subject: isinstance(subject.open(), ReservesMemory),
    "moves": lambda subject: subject.moves(),
    "draws": lambda subject: subject.draws(),
}


def check(id: str, *needs: str) -> Callable[[Callable[[Subject], None]], Callable[[Subject], None]]:
    """Decorator that enters a function among the checks. Ids are stable: reports of years are compared by them."""

    def enter(run: Callable[[Subject], None]) -> Callable[[Subject], None]:
        if id in _CHECKS:
            raise ValueError(f"two checks are called {id!r}")
        _CHECKS[id] = Check(id=id, run=run, needs=needs)
        return run

    return enter


def all_checks() -> list[Check]:
    """Every check, in the order in which the groups and the checks in them are written."""
    package = importlib.import_module("thaloom.hal.testing.checks")
    for module in sorted(info.name for info in pkgutil.iter_modules(package.__path__)):
        importlib.import_module(f"{package.__name__}.{module}")
    return list(_CHECKS.values())


def run_conformance(
    driver: Driver,
    device_id: DeviceId,
    *,
    manifest: Manifest | None = None,
    only: Sequence[str] = (),
) -> Report:
    """Run the checks whose id starts with one of `only` (none given: all) on one device.

    Takes under 20 s on a CPU. Uses real time, threads and the device; raises nothing that the driver raised.
    """
    subject = Subject(driver, device_id, manifest)
    chosen = [item for item in all_checks() if not only or item.id.startswith(tuple(only))]
    return Report(
        driver=driver.name,
        device=device_id,
        operators_version=VERSION,
        results=tuple(_result(item, subject) for item in chosen),
    )


def _result(item: Check, subject: Subject) -> Result:
    start = time.perf_counter()
    try:
        missing = [need for need in item.needs if not _claimed(need, subject)]
        if missing:
            return Result(id=item.id, status="not_advertised", detail=f"the driver does not claim {', '.join(missing)}")
        item.run(subject)
    except Exception as error:  # noqa: BLE001 - the driver is foreign code; whatever it raises is the finding
        detail = str(error) if isinstance(error, Nonconforming) else f"{type(error).__name__}: {error}"
        return Result(id=item.id, status="fail", detail=detail, seconds=time.perf_counter() - start)
    return Result(id=item.id, status="pass", seconds=time.perf_counter() - start)


def _claimed(need: str, subject: Subject) -> bool:
    """`operator:NAME`, `weights:DTYPE`, `format:NAME`, `kv:DTYPE`, or one of the claims above."""
    kind, _, name = need.partition(":")
    if kind == "operator":
        return name in subject.support().levels
    if kind == "weights":
        return name in subject.support().weight_dtypes
    if kind == "format":
        return name in subject.support().weight_formats
    if kind == "kv":
        return name in subject.support().kv_dtypes
    return _CLAIMS[need](subject)
