"""The driver around the probe: readings, opening, and what it says when it cannot do its best."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.unit.hal_cpu.test_cpu_probe import MIB, machine, two_cores_four_threads, write
from thaloom.base.clock import ManualClock
from thaloom.base.errors import DeviceNotFound, DriverUnavailable
from thaloom.base.ids import DeviceId
from thaloom.hal.driver import Driver, ReportsLinks
from thaloom.hal.drivers.cpu import DRIVER, backend, native
from thaloom.hal.drivers.cpu.driver import CpuDriver
from thaloom.hal.drivers.cpu.probe import DEVICE_ID
from thaloom.hal.reference import ReferenceBackend

STAT = "proc/stat"
ENERGY = "sys/class/powercap/intel-rapl:0/energy_uj"
WRAP = "sys/class/powercap/intel-rapl:0/max_energy_range_uj"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return two_cores_four_threads(tmp_path)


@pytest.fixture
def driver(root: Path) -> CpuDriver:
    return CpuDriver(machine(root), ManualClock())


def test_the_plugin_makes_the_driver() -> None:
    made: Driver = DRIVER.factory()
    assert (DRIVER.manifest.name, made.name) == ("cpu", "cpu")
    assert isinstance(made, ReportsLinks)
    assert [device.id for device in made.probe()] == [DEVICE_ID]


def test_memory_is_read(driver: CpuDriver) -> None:
    reading = driver.read(DEVICE_ID)
    assert (reading.memory_used_bytes, reading.memory_free_bytes) == (1024 * MIB, 1024 * MIB)
    assert reading.health == "healthy"


def test_what_cannot_be_read_is_none(tmp_path: Path) -> None:
    reading = CpuDriver(machine(tmp_path, affinity=frozenset({0})), ManualClock()).read(DEVICE_ID)
    assert reading.memory_used_bytes is None
    assert reading.memory_free_bytes is None
    assert (reading.utilisation, reading.power_mw, reading.temperature_c, reading.errors) == (None, None, None, None)


def test_use_since_the_last_reading(driver: CpuDriver, root: Path) -> None:
    assert driver.read(DEVICE_ID).utilisation is None
    assert driver.read(DEVICE_ID).utilisation is None  # no time has passed
    write(root, {STAT: "cpu  125 0 75 850 50 0 0 0 0 0"})
    assert driver.read(DEVICE_ID).utilisation == pytest.approx(0.5)


def test_power_since_the_last_reading(root: Path) -> None:
    clock = ManualClock()
    driver = CpuDriver(machine(root), clock)
    write(root, {ENERGY: "1000000", WRAP: "5000000"})
    assert driver.read(DEVICE_ID).power_mw is None
    asyncio.run(clock.advance(2.0))
    write(root, {ENERGY: "3000000"})
    assert driver.read(DEVICE_ID).power_mw == 1000
    asyncio.run(clock.advance(1.0))
    write(root, {ENERGY: "1000000"})  # went over its end: 2 J to it, and 1 J after
    assert driver.read(DEVICE_ID).power_mw == 3000
    (root / ENERGY).unlink()
    assert driver.read(DEVICE_ID).power_mw is None


def test_another_device_is_refused(driver: CpuDriver) -> None:
    with pytest.raises(DeviceNotFound):
        driver.read(DeviceId("cpu1"))
    with pytest.raises(DeviceNotFound):
        driver.open(DeviceId("cpu1"), num_threads=1)


def test_opening_runs_the_named_build(build: str) -> None:
    opened = CpuDriver().open(DEVICE_ID, num_threads=1)
    assert (opened.degraded is None) == (build != "none")
    assert opened.support.exact


def test_threads_default_to_cores(build: str) -> None:
    opened = CpuDriver().open(DEVICE_ID)
    if build != "none":
        assert isinstance(opened, backend.CpuBackend)
        assert opened.num_threads == opened.device.num_cores


def test_negative_threads_are_refused() -> None:
    with pytest.raises(ValueError, match="thread"):
        CpuDriver().open(DEVICE_ID, num_threads=-1)


def test_the_reference_runs_when_asked_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THALOOM_CPU_VARIANT", "none")
    opened = CpuDriver().open(DEVICE_ID, num_threads=1)
    assert isinstance(opened, ReferenceBackend)
    assert opened.degraded == "THALOOM_CPU_VARIANT=none asks for the NumPy reference"


def test_a_file_that_is_no_library_leaves_the_reference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "broken.so"
    file.write_bytes(b"not a library")
    monkeypatch.setattr(native, "choose_here", lambda _: native.Choice(path=file, degraded=None))
    opened = CpuDriver().open(DEVICE_ID, num_threads=1)
    assert isinstance(opened, ReferenceBackend)
    assert opened.degraded is not None
    assert "cannot be loaded" in opened.degraded


def test_a_library_named_by_hand_is_never_replaced_by_the_reference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THALOOM_CPU_VARIANT", str(tmp_path / "absent.so"))
    with pytest.raises(DriverUnavailable, match="absent"):
        CpuDriver().open(DEVICE_ID, num_threads=1)


def test_an_unknown_build_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THALOOM_CPU_VARIANT", "x86_64_v9")
    with pytest.raises(DriverUnavailable, match="x86_64_v9"):
        CpuDriver().open(DEVICE_ID, num_threads=1)


def test_the_device_says_which_build_runs_and_what_is_not_used(build: str) -> None:
    (device,) = CpuDriver().probe()
    assert device.build == (None if build == "none" else Path(build).stem.removeprefix("thaloom_cpu_"))
    assert set(device.unused) <= set(device.features)


def test_a_build_that_cannot_be_had_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THALOOM_CPU_VARIANT", "x86_64_v9")
    assert CpuDriver().probe()[0].build is None


def test_tiles_that_no_build_uses_are_found_and_not_used() -> None:
    assert native.unused(["avx2", "amx_tile", "amx_int8", "avx512f"]) == ("amx_int8", "amx_tile")


V3 = sorted(dict(native.VARIANTS)["x86_64_v3"])
V4 = sorted(dict(native.VARIANTS)["x86_64_v4_vnni"])
DOTPROD = sorted(dict(native.VARIANTS)["aarch64_dotprod"])
I8MM = sorted(dict(native.VARIANTS)["aarch64_i8mm_bf16"])


def library_folder(root: Path, *names: str, info: str | None = None) -> Path:
    for name in names:
        write(root, {f"thaloom_cpu_{name}.so": ""})
    return root if info is None else write(root, {native.BUILD_INFO: info})


@pytest.mark.parametrize(
    ("features", "machine_name", "chosen"),
    [
        ([*V4, "avx512_bf16"], "x86_64", "x86_64_v4_bf16"),
        (V4, "x86_64", "x86_64_v4_vnni"),
        (sorted({*V4} - {"avx512_vnni"}), "x86_64", "x86_64_v3"),
        ([*V3, "avx_vnni"], "x86_64", "x86_64_v3_vnni"),
        (V3, "x86_64", "x86_64_v3"),
        (["sse4_2", "popcnt", "ssse3", "cx16"], "x86_64", "x86_64_v2"),
        (I8MM, "aarch64", "aarch64_i8mm_bf16"),
        ([*DOTPROD, "i8mm"], "aarch64", "aarch64_dotprod"),
        (["fp", "asimd", "asimddp"], "aarch64", "aarch64_neon"),
        (V4, "riscv64", "generic"),
    ],
)
def test_the_best_build_is_chosen(tmp_path: Path, features: list[str], machine_name: str, chosen: str) -> None:
    folder = library_folder(tmp_path, *(name for name, _ in native.VARIANTS))
    choice = native.choose(features, machine_name, folder=folder)
    assert choice.path == folder / f"thaloom_cpu_{chosen}.so"
    assert choice.degraded is None


def test_a_missing_better_build_is_told(tmp_path: Path) -> None:
    info = '{"failed": {"x86_64_v4_vnni": "compiling x86_64_v4_vnni failed: no such flag"}}'
    choice = native.choose(V4, "x86_64", folder=library_folder(tmp_path, "x86_64_v3", info=info))
    assert choice.path == tmp_path / "thaloom_cpu_x86_64_v3.so"
    assert choice.degraded == "x86_64_v4_vnni could run but is missing (compiling x86_64_v4_vnni failed: no such flag)"


@pytest.mark.parametrize(
    ("info", "reason"),
    [
        (None, "the native library was never built"),
        ("not json", "the native library was never built"),
        ('{"reason": "no C++ compiler was found"}', "no C++ compiler was found"),
        ('{"reason": null}', "the native library is not there"),
    ],
)
def test_no_build_says_why(tmp_path: Path, info: str | None, reason: str) -> None:
    choice = native.choose(V4, "x86_64", folder=library_folder(tmp_path, info=info))
    assert choice.path is None
    assert choice.degraded == f"{reason}; the NumPy reference runs instead"


def test_an_old_processor_runs_the_reference(tmp_path: Path) -> None:
    choice = native.choose(["sse2"], "x86_64", folder=library_folder(tmp_path, "x86_64_v2"))
    assert choice.path is None
