"""What the machine and the control groups around us tell of memory."""

from __future__ import annotations

from pathlib import Path

from thaloom.base import host_memory


def test_host_memory_is_bounded_by_every_control_group(tmp_path: Path) -> None:
    def put(path: str, text: str) -> None:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)

    assert host_memory.available_bytes(tmp_path) is host_memory.total_bytes(tmp_path) is None
    put("proc/meminfo", "MemTotal:       1000 kB\nMemAvailable:    800 kB\n")
    put("proc/self/cgroup", "0::/outer/inner\n4:memory:/old\n9:name=systemd:/\n")
    assert host_memory.available_bytes(tmp_path) == 800 * 1024
    put("sys/fs/cgroup/outer/inner/memory.max", "max\n")
    put("sys/fs/cgroup/outer/inner/memory.current", "5\n")
    assert host_memory.available_bytes(tmp_path) == 800 * 1024
    put("sys/fs/cgroup/outer/memory.max", "600000\n")
    put("sys/fs/cgroup/outer/memory.current", "200000\n")
    put("sys/fs/cgroup/outer/memory.stat", "anon 5\ninactive_file 50000\n")
    assert host_memory.available_bytes(tmp_path) == 450000
    assert host_memory.total_bytes(tmp_path) == 600000
    put("sys/fs/cgroup/memory/old/memory.limit_in_bytes", "300000\n")
    put("sys/fs/cgroup/memory/old/memory.usage_in_bytes", "310000\n")
    assert host_memory.available_bytes(tmp_path) == 0
    put("sys/fs/cgroup/memory/old/memory.limit_in_bytes", "9223372036854771712\n")
    assert host_memory.available_bytes(tmp_path) == 450000


def test_this_host_has_memory() -> None:
    available, total = host_memory.available_bytes(), host_memory.total_bytes()
    assert available is not None
    assert total is not None
    assert 0 < available <= total
