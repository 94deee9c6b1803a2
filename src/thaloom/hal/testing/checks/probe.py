"""Finding devices: cheap, quiet, and the same every time."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

from thaloom.hal.testing.suite import Subject, check, expect, fastest
from thaloom.hal.testing.watch import watching

LONGEST_S = 0.05
VENDOR_MODULES = frozenset(
    {
        "torch", "tensorflow", "jax", "cupy", "numba", "pynvml", "amdsmi", "rocm_smi", "pyrsmi", "torch_npu", "acl",
        "dcmi", "pyzes", "pyopencl", "vulkan", "openvino", "onnxruntime", "ray", "pycuda", "wgpu", "mlx",
    }
)  # fmt: skip


@check("probe.lists_the_device")
def lists_the_device(subject: Subject) -> None:
    subject.device()


@check("probe.is_quick")
def is_quick(subject: Subject) -> None:
    """The best of up to twenty, so that a busy machine is not the driver's fault."""
    best_s = fastest(lambda: subject.driver.probe(), LONGEST_S)
    expect(best_s < LONGEST_S, f"takes {best_s * 1000:.0f} ms; {LONGEST_S * 1000:.0f} ms are allowed")


@check("probe.same_devices_every_time")
def same_devices_every_time(subject: Subject) -> None:
    first = list(subject.driver.probe())
    for attempt in range(100):
        expect(list(subject.driver.probe()) == first, f"probe {attempt + 2} differs from the first")


@check("probe.ids_are_unique")
def ids_are_unique(subject: Subject) -> None:
    ids = [device.id for device in subject.driver.probe()]
    expect(len(set(ids)) == len(ids), f"ids repeat: {ids}")


@check("probe.imports_no_vendor_library")
def imports_no_vendor_library(subject: Subject) -> None:
    before = set(sys.modules)
    subject.driver.probe()
    foreign = {name.partition(".")[0] for name in set(sys.modules) - before} & VENDOR_MODULES
    expect(not foreign, f"imports {', '.join(sorted(foreign))}")


@check("probe.starts_no_process")
def starts_no_process(subject: Subject) -> None:
    with watching() as watched:
        subject.driver.probe()
        subject.driver.read(subject.device_id)
    expect(not watched.processes(), f"starts {watched.processes()[:1]}")


@check("probe.leaves_nothing_open")
def leaves_nothing_open(subject: Subject) -> None:
    subject.driver.probe()
    files, threads = _num_open_files(), threading.active_count()
    for _ in range(20):
        subject.driver.probe()
        subject.driver.read(subject.device_id)
    expect(_num_open_files() <= files, f"{_num_open_files() - files} files stay open after 20 probes")
    expect(threading.active_count() <= threads, "threads stay behind")


def _num_open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))
