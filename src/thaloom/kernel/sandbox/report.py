"""What this host enforces, and what else about it decides how well inference is kept from being disturbed.

Everything is found out by looking or by doing; nothing is changed. `thaloom doctor host` shows it.
"""

from __future__ import annotations

import errno
import os
import platform
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from thaloom.kernel.sandbox.finding import find_groups
from thaloom.kernel.sandbox.group import Group
from thaloom.kernel.sandbox.host import find_walls
from thaloom.kernel.sandbox.inside import kernel_calls
from thaloom.kernel.sandbox.types import Ability
from thaloom.kernel.trust.memory_encryption import memory_encryption

_TURN_NS = 1_000_000

Kind = Literal["wall", "limit", "latency", "host"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One line of the report. Of kind `host`, `by` is the finding itself."""

    kind: Kind
    name: str
    enforced: bool
    by: str | None
    why_not: str | None


def report(pid: int | None, root: Path = Path("/")) -> dict[str, Any]:
    """For JSON. `pid`: the node's process, in whose control group its workers will be; None: this process's."""
    if pid is not None and not (root / "proc" / str(pid)).exists():
        pid = None  # it has ended since
    groups = find_groups("thaloom-doctor", pid=pid, root=root)
    walls = find_walls()
    entries = [_entry("wall", ability) for ability in walls.abilities.values()]
    entries += [_entry("limit", ability) for ability in groups.abilities().values()]
    entries += [_entry("latency", ability) for ability in latency(root)]
    entries += [_entry("host", ability) for ability in host_facts(root)]
    return {
        "kernel": platform.release(),
        "machine": platform.machine(),
        "uid": os.getuid(),
        "cgroups": groups.version,
        "node_pid": pid,
        "entries": [asdict(entry) for entry in entries],
    }


def latency(root: Path) -> Iterator[Ability]:
    """What keeps inference from waiting for others."""
    yield _tried("turns", "EEVDF: a shorter turn for interactive work, SCHED_BATCH for batch", _try_turn)
    yield _tried("real_time", "SCHED_FIFO is allowed (not used: a busy loop in it would stop the host)", _try_real_time)
    isolated = _text(root / "sys/devices/system/cpu/isolated")
    if isolated:
        yield Ability(name="isolated_cpus", by=f"processors {isolated} are kept from the scheduler (isolcpus)")
    else:
        yield Ability(name="isolated_cpus", why_not="none (kernel parameter isolcpus, or a cpuset partition)")
    yield _interrupts(root)


def host_facts(root: Path) -> Iterator[Ability]:
    pressure = Group("self", {}).pressure(root / "proc/pressure")
    if pressure.memory is None:
        yield Ability(name="pressure", why_not="no /proc/pressure (CONFIG_PSI, kernel parameter psi=1)")
    else:
        yield Ability(name="pressure", by=f"memory {pressure.memory:g} %, cpu {pressure.cpu or 0:g} % over 10 s")
    yield _huge_pages(root)
    yield _user_namespaces(root)
    yield _memory_encryption(root)
    if (root / "sys/fs/resctrl/schemata").exists():
        yield Ability(name="resctrl", by="mounted; cache and bandwidth can be divided by hand, not by the node")
    else:
        yield Ability(
            name="resctrl", why_not="not mounted, or the processor cannot (no memory bandwidth can be promised)"
        )


def _memory_encryption(root: Path) -> Ability:
    found = memory_encryption(root)
    said = "; ".join(f"{finding.name}: {finding.answer} ({finding.because})" for finding in found.findings)
    if found.encrypted == "yes":
        return Ability(name="memory_encryption", by=said)
    return Ability(name="memory_encryption", why_not=f"{found.encrypted}: {said}")


def _entry(kind: Kind, ability: Ability) -> Entry:
    return Entry(kind=kind, name=ability.name, enforced=ability.enforced, by=ability.by, why_not=ability.why_not)


def _tried(name: str, by: str, attempt: object) -> Ability:
    assert callable(attempt)
    why_not = _in_a_child(attempt)
    return Ability(name=name, by=by) if why_not is None else Ability(name=name, why_not=why_not)


def _in_a_child(attempt: object) -> str | None:
    """Why it fails, or None. In a child, for what is tried must not stay with us."""
    assert callable(attempt)
    child = os.fork()
    if child == 0:
        number = 0
        try:
            attempt()
        except OSError as error:
            number = error.errno or 255
        finally:
            os._exit(number)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    return None if code == 0 else f"the kernel refuses it: {os.strerror(abs(code))}"


def _try_turn() -> None:
    """A kernel before 6.12 takes the wish and forgets it."""
    kernel_calls.set_scheduling(0, 0, _TURN_NS)
    if kernel_calls.turn_ns() != _TURN_NS:
        raise OSError(errno.EOPNOTSUPP, "no turns of one's own")


def _try_real_time() -> None:
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))


def _interrupts(root: Path) -> Ability:
    """Only told: an interrupt that is moved wrongly is a device that is lost."""
    masks = {path.parent.name: _text(path) for path in (root / "proc/irq").glob("[0-9]*/smp_affinity_list")}
    if not masks:
        return Ability(name="interrupts", why_not="no /proc/irq/*/smp_affinity_list can be read")
    places = sorted({mask for mask in masks.values() if mask})
    return Ability(name="interrupts", why_not=f"left as they are: {len(masks)} on processors {'; '.join(places)}")


def _huge_pages(root: Path) -> Ability:
    found = []
    for folder in sorted((root / "sys/kernel/mm/hugepages").glob("hugepages-*kB")):
        total, free = _text(folder / "nr_hugepages"), _text(folder / "free_hugepages")
        found.append(f"{folder.name.removeprefix('hugepages-')}: {free} of {total} free")
    transparent = _text(root / "sys/kernel/mm/transparent_hugepage/enabled")
    if not found and not transparent:
        return Ability(name="huge_page_pools", why_not="this kernel has none")
    return Ability(name="huge_page_pools", by="; ".join([*found, f"transparent: {transparent or 'not built in'}"]))


def _user_namespaces(root: Path) -> Ability:
    most = _text(root / "proc/sys/user/max_user_namespaces")
    if most == "0" or _text(root / "proc/sys/kernel/unprivileged_userns_clone") == "0":
        return Ability(
            name="user_namespaces", why_not="switched off (user.max_user_namespaces or the distribution's own)"
        )
    if _text(root / "proc/sys/kernel/apparmor_restrict_unprivileged_userns") == "1":
        return Ability(name="user_namespaces", why_not="AppArmor gives users namespaces without rights in them")
    return Ability(name="user_namespaces", by=f"up to {most}")


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""
