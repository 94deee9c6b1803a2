"""The probe on made-up machines: every file may be there or not."""

from __future__ import annotations

import platform
import struct
from pathlib import Path

import pytest

from thaloom.hal.drivers.cpu import hwcap
from thaloom.hal.drivers.cpu.probe import DEVICE_ID, Machine
from thaloom.hal.types import Cache

MIB = 1 << 20


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return root


def two_cores_four_threads(root: Path) -> Path:
    files = {
        "proc/cpuinfo": "processor\t: 0\nvendor_id\t: AuthenticAMD\nmodel name\t: Fast 9000\n"
        "flags\t\t: fma avx2 sse4_2\n\n"
        "processor\t: 1\nvendor_id\t: AuthenticAMD\nmodel name\t: other\nflags\t\t: none",
        "proc/meminfo": "MemTotal:  2097152 kB\nMemFree: 1 kB\nMemAvailable:  1048576 kB",
        "proc/self/cgroup": "0::/",
        "proc/stat": "cpu  100 0 50 800 50 0 0 0 0 0\ncpu0 1 1 1 1",
        "sys/devices/system/cpu/cpu0/cache/index0/type": "Data",
        "sys/devices/system/cpu/cpu0/cache/index0/level": "1",
        "sys/devices/system/cpu/cpu0/cache/index0/size": "48K",
        "sys/devices/system/cpu/cpu0/cache/index0/shared_cpu_list": "0,2",
        "sys/devices/system/cpu/cpu0/cache/index3/type": "Unified",
        "sys/devices/system/cpu/cpu0/cache/index3/level": "3",
        "sys/devices/system/cpu/cpu0/cache/index3/size": "32M",
        "sys/devices/system/cpu/cpu0/cache/index3/shared_cpu_list": "0-3",
        "sys/devices/system/node/node0/cpulist": "0-3",
        "sys/devices/system/node/node0/distance": "10",
    }
    for number in range(4):
        files[f"sys/devices/system/cpu/cpu{number}/topology/thread_siblings_list"] = f"{number % 2},{number % 2 + 2}"
    return write(root, files)


def machine(root: Path, *, affinity: frozenset[int] = frozenset(range(4))) -> Machine:
    return Machine(root, affinity=affinity)


def test_a_plain_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    device = machine(two_cores_four_threads(tmp_path)).device()
    assert (device.id, device.kind, device.driver) == (DEVICE_ID, "cpu", "cpu")
    assert (device.name, device.vendor) == ("Fast 9000", "AMD")
    assert device.num_cores == 2
    assert device.memory_bytes == 2048 * MIB
    assert device.features == ("avx2", "fma", "sse4_2")
    assert device.numa_node == 0
    assert device.caches == (
        Cache(level=1, kind="data", size_bytes=48 << 10, shared_by=2),
        Cache(level=3, kind="unified", size_bytes=32 * MIB, shared_by=4),
    )


def test_a_machine_that_tells_nothing(tmp_path: Path) -> None:
    found = machine(tmp_path, affinity=frozenset({0, 1}))
    device = found.device()
    assert device.memory_bytes == 0
    assert device.num_cores == 2
    assert (device.features, device.caches, device.numa_node) == ((), (), None)
    assert found.memory_free_bytes() is None
    assert found.busy_and_total_ticks() is None
    assert found.energy_uj() is None
    assert found.temperature_c() is None
    assert found.memory_errors() is None
    assert found.links() == []


def test_cores_by_affinity(tmp_path: Path) -> None:
    root = two_cores_four_threads(tmp_path)
    assert machine(root, affinity=frozenset({0, 2})).num_cores() == 1
    assert machine(root, affinity=frozenset({0, 1})).num_cores() == 2


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({"sys/fs/cgroup/cpu.max": "150000 100000"}, 1.5),
        ({"sys/fs/cgroup/cpu.max": "max 100000"}, None),
        ({"sys/fs/cgroup/cpu.max": "nonsense"}, None),
    ],
)
def test_quota_of_cgroup_2(tmp_path: Path, files: dict[str, str], quota: float | None) -> None:
    assert machine(write(two_cores_four_threads(tmp_path), files)).quota_cores() == quota


def test_the_quota_bounds_the_cores(tmp_path: Path) -> None:
    root = write(two_cores_four_threads(tmp_path), {"sys/fs/cgroup/cpu.max": "50000 100000"})
    assert machine(root).num_cores() == 1


def test_the_tightest_cgroup_2_above_counts(tmp_path: Path) -> None:
    root = write(
        two_cores_four_threads(tmp_path),
        {
            "proc/self/cgroup": "0::/house/room",
            "sys/fs/cgroup/house/memory.max": str(512 * MIB),
            "sys/fs/cgroup/house/memory.current": str(500 * MIB),
            "sys/fs/cgroup/house/room/memory.max": "max",
            "sys/fs/cgroup/house/cpu.max": "100000 100000",
        },
    )
    found = machine(root)
    assert found.memory_bytes() == 512 * MIB
    assert found.memory_free_bytes() == 12 * MIB
    assert found.num_cores() == 1


def test_cgroup_1(tmp_path: Path) -> None:
    root = write(
        two_cores_four_threads(tmp_path),
        {
            "proc/self/cgroup": "5:memory:/job\n3:cpu,cpuacct:/job\n1:name=systemd:/job",
            "sys/fs/cgroup/memory/job/memory.limit_in_bytes": str(256 * MIB),
            "sys/fs/cgroup/memory/job/memory.usage_in_bytes": str(100 * MIB),
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712",
            "sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_quota_us": "100000",
            "sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_period_us": "100000",
        },
    )
    found = machine(root)
    assert found.memory_bytes() == 256 * MIB
    assert found.memory_free_bytes() == 156 * MIB
    assert found.quota_cores() == 1.0


@pytest.mark.parametrize(
    ("group", "files", "droppable"),
    [
        ("0::/job", ("job/memory.max", "job/memory.current", "job/memory.stat"), "inactive_file"),
        (
            "5:memory:/job",
            ("memory/job/memory.limit_in_bytes", "memory/job/memory.usage_in_bytes", "memory/job/memory.stat"),
            "total_inactive_file",
        ),
    ],
)
def test_files_that_can_be_dropped_take_nobody_anything(
    tmp_path: Path, group: str, files: tuple[str, str, str], droppable: str
) -> None:
    values = (str(256 * MIB), str(100 * MIB), f"anon 5\n{droppable} {30 * MIB}\n")
    tree = {f"sys/fs/cgroup/{file}": value for file, value in zip(files, values, strict=True)}
    found = machine(write(two_cores_four_threads(tmp_path), {"proc/self/cgroup": group} | tree))
    assert found.memory_free_bytes() == 186 * MIB


def test_no_quota_in_cgroup_1_is_no_limit(tmp_path: Path) -> None:
    root = write(
        two_cores_four_threads(tmp_path),
        {
            "proc/self/cgroup": "3:cpu:/",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
        },
    )
    assert machine(root).quota_cores() is None


def test_numa_nodes_and_links(tmp_path: Path) -> None:
    root = write(
        two_cores_four_threads(tmp_path),
        {
            "sys/devices/system/node/node0/distance": "10 21 28",
            "sys/devices/system/node/node1/cpulist": "4-7",
            "sys/devices/system/node/node1/distance": "21 10 28",
            "sys/devices/system/node/node2/cpulist": "",
            "sys/devices/system/node/node2/distance": "28 28 10",
        },
    )
    found = machine(root)
    assert found.numa_nodes() == [0, 1]
    assert found.device().numa_node is None
    links = [(link.a, link.b, link.kind, link.distance) for link in found.links()]
    assert links == [
        ("cpu/node0", "cpu/node1", "memory", 21),
        ("cpu/node0", "cpu/node2", "memory", 28),
        ("cpu/node1", "cpu/node2", "memory", 28),
    ]


def test_sensors(tmp_path: Path) -> None:
    root = write(
        tmp_path,
        {
            "sys/class/powercap/intel-rapl:0/energy_uj": "500",
            "sys/class/powercap/intel-rapl:0/max_energy_range_uj": "1000",
            "sys/class/powercap/intel-rapl:0:0/energy_uj": "7",
            "sys/class/thermal/thermal_zone0/type": "x86_pkg_temp",
            "sys/class/thermal/thermal_zone0/temp": "61500",
            "sys/class/thermal/thermal_zone1/type": "iwlwifi_1",
            "sys/class/thermal/thermal_zone1/temp": "99000",
            "sys/devices/system/edac/mc/mc0/ue_count": "1",
            "sys/devices/system/edac/mc/mc1/ue_count": "2",
        },
    )
    found = machine(root)
    assert found.energy_uj() == {"intel-rapl:0": (500, 1000)}
    assert found.temperature_c() == 61.5
    assert found.memory_errors() == 3


@pytest.mark.parametrize(
    ("name", "text"),
    [("size", "big"), ("size", ""), ("level", "one"), ("type", "Trace")],
)
def test_a_cache_that_makes_no_sense_is_left_out(tmp_path: Path, name: str, text: str) -> None:
    root = write(two_cores_four_threads(tmp_path), {f"sys/devices/system/cpu/cpu0/cache/index0/{name}": text})
    assert [cache.level for cache in machine(root).device().caches] == [3]


def test_a_processor_list_that_makes_no_sense_counts_one(tmp_path: Path) -> None:
    root = write(two_cores_four_threads(tmp_path), {"sys/devices/system/cpu/cpu0/cache/index0/shared_cpu_list": "x-y"})
    assert machine(root).device().caches[0].shared_by == 1


def test_an_arm_machine(tmp_path: Path) -> None:
    text = "processor\t: 0\nFeatures\t: fp asimd\nCPU implementer\t: 0x41"
    device = machine(write(tmp_path, {"proc/cpuinfo": text}), affinity=frozenset({0})).device()
    assert (device.vendor, device.features) == ("ARM", ("asimd", "fp"))


def auxv(*entries: tuple[int, int]) -> bytes:
    return b"".join(struct.pack("@NN", *entry) for entry in entries)


@pytest.mark.parametrize(
    ("vector", "found"),
    [
        (auxv((16, 1 << 1 | 1 << 20), (26, 1 << 13 | 1 << 14), (0, 0)), {"asimd", "asimddp", "i8mm", "bf16"}),
        (auxv((6, 4096), (16, 1 << 10), (0, 0), (26, 1 << 13)), {"asimdhp"}),
        (auxv((16, 1 << 40 | 1), (26, 1 << 63))[:-3], {"fp"}),
        (b"", set()),
    ],
    ids=["both words", "nothing counts after the end", "unknown bits, cut short", "empty"],
)
def test_the_auxiliary_vector_of_an_arm_process(vector: bytes, found: set[str]) -> None:
    assert hwcap.features(vector) == found


def test_under_emulation_the_hosts_flags_are_not_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    root = two_cores_four_threads(tmp_path)
    assert machine(root).device().features == ()
    (root / "proc/self/auxv").write_bytes(auxv((16, 2)))
    assert machine(root).device().features == ("asimd",)
