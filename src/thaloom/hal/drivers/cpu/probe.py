"""What the kernel tells of this machine's processors and memory, read from /proc and /sys. No child process, no import.

Every file may be missing (containers, other architectures, fake trees in tests): what is absent is None or empty.
Source: Linux Documentation/ABI/testing/sysfs-devices-system-cpu, proc(5), cgroups(7).
"""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Iterator
from pathlib import Path

from thaloom.base import host_memory
from thaloom.base.ids import DeviceId
from thaloom.hal.drivers.cpu import hwcap
from thaloom.hal.types import Cache, Device, Link

DEVICE_ID = DeviceId("cpu")
_KINDS = {"Data": "data", "Instruction": "instruction", "Unified": "unified"}


class Machine:
    """The files of one machine below `root`. `affinity`: processors this process may use; None asks the kernel."""

    def __init__(self, root: Path = Path("/"), *, affinity: frozenset[int] | None = None) -> None:
        self._root = root
        self._affinity = affinity

    def device(self) -> Device:
        info = self._cpuinfo()
        return Device(
            id=DEVICE_ID,
            driver="cpu",
            kind="cpu",
            name=info.get("model name") or info.get("cpu model") or platform.machine() or "processor",
            vendor=_vendor(info.get("vendor_id") or info.get("CPU implementer") or ""),
            memory_bytes=self.memory_bytes() or 0,
            num_cores=self.num_cores(),
            dtypes=frozenset({"f32", "bf16", "f16"}),
            isolation="process",
            features=tuple(sorted(self._features(info))),
            caches=tuple(self._caches()),
            numa_node=nodes[0] if len(nodes := self.numa_nodes()) == 1 else None,
        )

    def num_cores(self) -> int:
        """Physical cores this process may use: by affinity, and no more than its cgroups' quota pays for."""
        usable = self._usable()
        cores = len({self._core(number) for number in usable})
        quota = self.quota_cores()
        return max(1, cores if quota is None else min(cores, math.ceil(quota)))

    def memory_bytes(self) -> int | None:
        """Memory of the machine, or of the tightest cgroup around this process if that is less."""
        return host_memory.total_bytes(self._root)

    def memory_free_bytes(self) -> int | None:
        """What can still be had: the kernel's own estimate, and what each cgroup's limit leaves."""
        return host_memory.available_bytes(self._root)

    def quota_cores(self) -> float | None:
        """Processors' worth of time that cgroups allow, or None for no limit."""
        quotas = []
        for folder in host_memory.group_folders("cpu", self._root):
            words = (self._text(folder / "cpu.max") or "").split()
            if len(words) == 2 and words[0].isdigit() and int(words[1] or 0) > 0:
                quotas.append(int(words[0]) / int(words[1]))
            quota, period = self._number(folder / "cpu.cfs_quota_us"), self._number(folder / "cpu.cfs_period_us")
            if quota is not None and period and quota > 0:
                quotas.append(quota / period)
        return min(quotas, default=None)

    def numa_nodes(self) -> list[int]:
        """Nodes that have processors, in order."""
        nodes = []
        for folder in self._glob("sys/devices/system/node/node[0-9]*"):
            if self._text(folder / "cpulist") != "":
                nodes.append(int(folder.name.removeprefix("node")))
        return sorted(nodes)

    def links(self) -> list[Link]:
        """Distances between NUMA nodes as the firmware tells them; none on a machine with one."""
        folders = self._glob("sys/devices/system/node/node[0-9]*")
        names = sorted(int(folder.name.removeprefix("node")) for folder in folders)
        links = []
        for row, node in enumerate(names):
            text = self._text(Path(f"sys/devices/system/node/node{node}/distance"))
            distances = [int(word) for word in (text or "").split() if word.isdigit()]
            for column in range(row + 1, min(len(names), len(distances))):
                link = Link(
                    a=f"{DEVICE_ID}/node{node}",
                    b=f"{DEVICE_ID}/node{names[column]}",
                    kind="memory",
                    distance=distances[column],
                )
                links.append(link)
        return links

    def busy_and_total_ticks(self) -> tuple[int, int] | None:
        """Clock ticks of all processors since boot. Source: proc(5), /proc/stat; guest time is in user time already."""
        for line in (self._text(Path("proc/stat")) or "").splitlines():
            words = line.split()
            if words[:1] == ["cpu"] and len(words) >= 5:
                ticks = [int(word) for word in words[1:9]]
                idle = ticks[3] + (ticks[4] if len(ticks) > 4 else 0)
                return sum(ticks) - idle, sum(ticks)
        return None

    def energy_uj(self) -> dict[str, tuple[int, int | None]] | None:
        """Energy counters of the packages and where they wrap, in microjoules; None where they cannot be read."""
        counters = {}
        for folder in self._glob("sys/class/powercap/intel-rapl:[0-9]*"):
            if folder.name.count(":") != 1:
                continue  # a part of a package: in its count already
            energy = self._number(folder / "energy_uj")
            if energy is not None:
                counters[folder.name] = (energy, self._number(folder / "max_energy_range_uj"))
        return counters or None

    def temperature_c(self) -> float | None:
        """Of the hottest processor package."""
        hottest: float | None = None
        for zone in self._glob("sys/class/thermal/thermal_zone*"):
            if self._text(zone / "type") in ("x86_pkg_temp", "cpu-thermal", "cpu_thermal"):
                millidegrees = self._number(zone / "temp")
                if millidegrees is not None:
                    hottest = max(millidegrees / 1000, hottest if hottest is not None else -math.inf)
        return hottest

    def memory_errors(self) -> int | None:
        """Uncorrected memory errors since boot, where the kernel counts them (EDAC)."""
        counts = [self._number(file) for file in self._glob("sys/devices/system/edac/mc/mc*/ue_count")]
        known = [count for count in counts if count is not None]
        return sum(known) if known else None

    def _features(self, info: dict[str, str]) -> frozenset[str]:
        if platform.machine() != "aarch64":
            return frozenset((info.get("flags") or info.get("Features") or "").split())
        try:
            told = hwcap.features((self._root / "proc/self/auxv").read_bytes())
        except OSError:
            told = frozenset()
        return told | frozenset(info.get("Features", "").split())

    def _usable(self) -> frozenset[int]:
        if self._affinity is not None:
            return self._affinity
        return frozenset(os.sched_getaffinity(0))

    def _core(self, number: int) -> tuple[int | str, ...]:
        """What tells the physical core of a logical processor: hyperthreads of one give the same."""
        folder = Path(f"sys/devices/system/cpu/cpu{number}/topology")
        siblings = self._text(folder / "thread_siblings_list") or self._text(folder / "core_cpus_list")
        return (siblings,) if siblings else (number,)

    def _cpuinfo(self) -> dict[str, str]:
        """Fields of the first processor."""
        fields: dict[str, str] = {}
        for line in (self._text(Path("proc/cpuinfo")) or "").splitlines():
            name, colon, value = line.partition(":")
            if not colon and fields:
                break
            if colon:
                fields.setdefault(name.strip(), value.strip())
        return fields

    def _caches(self) -> Iterator[Cache]:
        for folder in self._glob("sys/devices/system/cpu/cpu0/cache/index[0-9]*"):
            kind = _KINDS.get(self._text(folder / "type") or "")
            size, level = _size(self._text(folder / "size")), self._number(folder / "level")
            if kind is None or size is None or level is None:
                continue
            shared_by = len(_processors(self._text(folder / "shared_cpu_list") or "")) or 1
            yield Cache(level=level, kind=kind, size_bytes=size, shared_by=shared_by)  # type: ignore[arg-type]  # _KINDS

    def _glob(self, pattern: str) -> list[Path]:
        try:
            return sorted(path.relative_to(self._root) for path in self._root.glob(pattern))
        except OSError:
            return []

    def _text(self, path: Path) -> str | None:
        try:
            return (self._root / path).read_text(encoding="utf-8", errors="replace").strip()
        except OSError:
            return None

    def _number(self, path: Path) -> int | None:
        try:
            return int(self._text(path) or "")
        except ValueError:
            return None


def _vendor(text: str) -> str:
    names = {
        "GenuineIntel": "Intel",
        "AuthenticAMD": "AMD",
        "HygonGenuine": "Hygon",
        "0x41": "ARM",
        "0x48": "HiSilicon",
    }
    return names.get(text, text or "unknown")


def _size(text: str | None) -> int | None:
    """`48K`, `2048K`, `260M` in bytes."""
    if not text or not text.rstrip("KMG").isdigit():
        return None
    return int(text.rstrip("KMG")) * {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}.get(text[-1], 1)


def _processors(text: str) -> set[int]:
    """`0-3,8` as numbers; nothing for what is not such a list."""
    found: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        if first.isdigit() and (last or first).isdigit():
            found.update(range(int(first), int(last or first) + 1))
    return found
