"""Booting the guest, and what it told before it ended or was ended."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.hardware.guest.kernel import Parts

DISK = "/dev/nvme0n1"
"""As the guest sees it. Empty; its driver is built into the kernel."""
DISK_BYTES = 256 << 20
_MEMORY_MIB = 768
_CONSOLE_TAIL = 4000


@dataclass(frozen=True, slots=True)
class Told:
    """What came out of a guest."""

    cases: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Test -> how it went, in the order they ended."""
    status: int | None = None
    """Of the suite; None: the guest never came to its end."""
    console: str = ""
    """The end of what the kernel and the suite wrote."""

    def failures(self) -> list[str]:
        """Every case that did not pass, in words; a skipped one too, for the guest has all they need."""
        return [f"{name}: {case['outcome']}\n{case['words']}" for name, case in self.cases.items()
                if case["outcome"] != "passed"]  # fmt: skip


def boot(parts: Parts, image: Path, *, first: str, arguments: str, folder: Path, timeout_s: float) -> Told:
    """Runs the guest to its end, at most `timeout_s`: then it is killed, and what it told until then is given.

    `first`: the program that becomes its first process, with `arguments`. `folder`: for its disk and what it writes.
    """
    console, telling, disk = folder / "console", folder / "telling", folder / "disk"
    with disk.open("wb") as file:
        file.truncate(DISK_BYTES)  # holes: nothing is taken of the host's disk until the guest writes
    words = f"console=ttyS0 quiet panic=-1 psi=1 cgroup_no_v1=all rdinit={first} -- {arguments}"
    command = [
        parts.emulator, "-accel", "tcg", "-cpu", "max", "-smp", "2,maxcpus=4", "-m", str(_MEMORY_MIB), "-nodefaults",
        "-no-user-config", "-no-reboot", "-display", "none", "-serial", f"file:{console}", "-serial", f"file:{telling}",
        "-drive", f"file={disk},format=raw,if=none,id=disk", "-device", "nvme,drive=disk,serial=guest",
        "-kernel", str(parts.kernel), "-initrd", str(image), "-append", words,
    ]  # fmt: skip
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        said, _ = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        process.kill()
        said, _ = process.communicate()
        said += f"\nended after {timeout_s:g} s\n".encode()
    finally:
        if process.poll() is None:  # Ctrl-C, or a test out of time: nobody else would end it
            process.kill()
            process.communicate()
    told = console.read_text(errors="replace")[-_CONSOLE_TAIL:] if console.exists() else ""
    return read_told(telling.read_text(errors="replace") if telling.exists() else "", told + said.decode())


def read_told(lines: str, console: str) -> Told:
    """A line that is cut off, by the guest's end in the middle of it, is not there."""
    cases: dict[str, dict[str, Any]] = {}
    status = None
    for line in lines.splitlines():
        try:
            fact = json.loads(line)
        except ValueError:
            continue
        if "ended" in fact:
            status = fact["ended"]
        else:
            _worst(cases, fact)
    return Told(cases=cases, status=status, console=console)


def _worst(cases: dict[str, dict[str, Any]], fact: dict[str, Any]) -> None:
    """Of the parts of one case (before, itself, after), the one that did not pass."""
    known = cases.get(fact["case"])
    if known is None or known["outcome"] == "passed":
        cases[fact["case"]] = fact
