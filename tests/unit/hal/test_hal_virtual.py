"""Made-up devices: where they come from, and how they fail on command."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from thaloom.base.errors import BadParameter, DeviceLost, DeviceNotFound, NotServable, OutOfMemory
from thaloom.base.ids import DeviceId
from thaloom.hal.checks import MemoryWeights
from thaloom.hal.driver import Driver, InjectsFaults, ReportsLinks
from thaloom.hal.drivers.virtual import DRIVER
from thaloom.hal.drivers.virtual.driver import (
    ENVIRONMENT,
    VirtualDevice,
    VirtualDriver,
    VirtualLevel,
    devices_from_environment,
)
from thaloom.hal.drivers.virtual.faults import SLOW_STEP_S
from thaloom.hal.testing.bench import LIMITS, bench, expect_close, right, sequences_for
from thaloom.hal.testing.programs import arrived_whole, tiny_model
from thaloom.hal.testing.schedules import together

ID = DeviceId("virtual:0")


def driver(**facts: Any) -> VirtualDriver:
    return VirtualDriver([VirtualDevice(id=ID, **facts)])


def play_on(backend: Any) -> None:
    case = tiny_model(1)
    sequences = sequences_for(case)
    with bench(backend, case) as made:
        expect_close(case, made.play(sequences, together(sequences)), right(case, sequences))


class TestWhereTheyComeFrom:
    def test_none_by_default(self) -> None:
        assert devices_from_environment({}) == []
        assert devices_from_environment({ENVIRONMENT: "  "}) == []

    def test_from_the_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(ENVIRONMENT, '[{"id": "virtual:0", "memory_bytes": 5000, "kind": "gpu", "dtypes": ["f32"]}]')
        made: Driver = DRIVER.factory()
        (device,) = made.probe()
        assert (device.id, device.memory_bytes, device.kind, device.dtypes) == (ID, 5000, "gpu", frozenset({"f32"}))
        assert isinstance(made, ReportsLinks)
        assert isinstance(made, InjectsFaults)

    @pytest.mark.parametrize(
        ("text", "complaint"),
        [
            ("nonsense", ENVIRONMENT),
            ('{"id": "x"}', "JSON list"),
            ("[3]", "JSON list"),
            ("[{}]", "with an id"),
            ('[{"id": "x", "memory": 3}]', "memory"),
            ('[{"id": "x", "memory_bytes": "3"}]', "memory_bytes"),
            ('[{"id": "x", "kind": "toaster"}]', "kind"),
        ],
    )
    def test_malformed_is_refused_by_name(self, text: str, complaint: str) -> None:
        with pytest.raises(BadParameter, match=complaint):
            devices_from_environment({ENVIRONMENT: text})

    def test_two_of_the_same_id(self) -> None:
        with pytest.raises(BadParameter, match="same id"):
            VirtualDriver([VirtualDevice(id=ID), VirtualDevice(id=ID)])


@pytest.mark.parametrize(
    "ask",
    [
        lambda made: made.read(DeviceId("x")),
        lambda made: made.open(DeviceId("x"), num_threads=1),
        lambda made: made.inject(DeviceId("x"), "lost"),
        lambda made: made.clear(DeviceId("x")),
    ],
)
def test_unknown_device(ask: Callable[[VirtualDriver], object]) -> None:
    with pytest.raises(DeviceNotFound):
        ask(driver())


def test_no_threads_is_refused() -> None:
    with pytest.raises(BadParameter, match="thread"):
        driver().open(ID, num_threads=0)


def test_use_of_memory_shows_in_readings() -> None:
    made = driver(memory_bytes=1000)
    buffer = made.open(ID, num_threads=1).allocate(300)
    reading = made.read(ID)
    assert (reading.memory_used_bytes, reading.memory_free_bytes) == (300, 700)
    buffer.free()
    assert made.read(ID).memory_used_bytes == 0


def test_dtypes_it_does_not_have_are_refused() -> None:
    backend = driver(dtypes=("f32",)).open(ID, num_threads=1)
    case = tiny_model(1, dtype="bf16")
    with pytest.raises(NotServable, match="bf16"):
        backend.compile(case.program, MemoryWeights(case.weights), LIMITS)
    case = tiny_model(1, kv_dtype="bf16")
    with pytest.raises(NotServable, match="bf16"), bench(backend, case):
        pass


@pytest.mark.parametrize("level", ["L1", "L3"])
def test_weight_formats_it_does_not_have_are_refused(level: VirtualLevel) -> None:
    backend = driver(level=level, weight_formats=("stored", "int8")).open(ID, num_threads=1)
    for case in (tiny_model(1, weight_format="int4"), arrived_whole(tiny_model(1, weight_format="int4"))):
        with pytest.raises(NotServable, match="int4"), bench(backend, case):
            pass
    with bench(backend, tiny_model(1, weight_format="int8")):
        pass


class TestFaults:
    def test_lost_in_the_middle_and_back(self) -> None:
        made = driver()
        backend = made.open(ID, num_threads=1)
        play_on(backend)
        made.inject(ID, "lost")
        assert made.read(ID).health == "lost"
        for ask in (lambda: play_on(backend), lambda: backend.allocate(1), lambda: made.open(ID, num_threads=1)):
            with pytest.raises(DeviceLost):
                ask()
        made.clear(ID)
        play_on(backend)

    def test_unplugged(self) -> None:
        made = driver()
        made.inject(ID, "unplugged")
        assert list(made.probe()) == []
        assert made.read(ID).health == "lost"

    def test_exhausted(self) -> None:
        made = driver()
        backend = made.open(ID, num_threads=1)
        made.inject(ID, "exhausted")
        with pytest.raises(OutOfMemory, match="no byte free"):
            backend.allocate(1)

    def test_degraded(self) -> None:
        made = driver()
        made.inject(ID, "degraded")
        assert made.read(ID).health == "degraded"
        play_on(made.open(ID, num_threads=1))

    def test_slow_by_the_sleep_it_was_given(self) -> None:
        slept: list[float] = []
        made = VirtualDriver([VirtualDevice(id=ID)], sleep=slept.append)
        backend = made.open(ID, num_threads=1)
        made.inject(ID, "slow")
        play_on(backend)
        assert set(slept) == {SLOW_STEP_S}

    def test_faults_add_up_until_cleared(self) -> None:
        made = driver()
        made.inject(ID, "degraded")
        made.inject(ID, "garbage")
        assert made.read(ID).errors == -1
        made.clear(ID)
        assert made.read(ID).health == "healthy"

    def test_unknown_fault(self) -> None:
        with pytest.raises(BadParameter, match="melted"):
            driver().inject(ID, "melted")  # type: ignore[arg-type]


class TestFaultsFromAFile:
    """How a device that another process has open is commanded."""

    def test_file_that_comes_and_goes(self, tmp_path: Path) -> None:
        file = tmp_path / "faults.json"
        made = driver(faults_file=str(file))
        backend = made.open(ID, num_threads=1)
        play_on(backend)
        file.write_text(json.dumps(["lost"]), encoding="utf-8")
        with pytest.raises(DeviceLost):
            play_on(backend)
        file.write_text(json.dumps([]), encoding="utf-8")
        play_on(backend)

    @pytest.mark.parametrize("text", ["{", '"lost"', '["melted"]', '[["lost"]]'])
    def test_malformed_file_is_refused_by_name(self, tmp_path: Path, text: str) -> None:
        file = tmp_path / "faults.json"
        file.write_text(text, encoding="utf-8")
        with pytest.raises(BadParameter, match=r"faults\.json"):
            driver(faults_file=str(file)).read(ID)
