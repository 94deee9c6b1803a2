"""Whether the memory of this machine is encrypted by its processor, as far as the kernel tells: yes, no, cannot tell.

Only files are read, below `root`, so that tests can bring trees of their own. "Cannot tell" is an answer: a processor
that could do it is none that does, and some of it is known to the firmware alone.
Source: Linux Documentation/arch/x86/{amd-memory-encryption,tdx}.rst, Documentation/ABI/testing/sysfs-driver-ccp and
sysfs-devices-system-cpu (sev/vmpl), arch/x86/include/asm/cpufeatures.h.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Answer = Literal["yes", "no", "cannot tell"]
Name = Literal["TDX", "SEV-SNP", "SEV-ES", "SEV", "SME", "TSME", "TME"]
_SEV: tuple[Name, ...] = ("SEV-SNP", "SEV-ES", "SEV")
_LOG = "the kernel says it only in its log: journalctl -k -g 'Memory Encryption Features active'"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """About one technique."""

    name: Name
    answer: Answer
    """Whether it encrypts the memory we run in."""
    because: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryEncryption:
    """`encrypted`: yes if any technique is at work; no only if every one is known not to be."""

    encrypted: Answer
    virtual: Answer
    """Whether this is a virtual machine."""
    findings: tuple[Finding, ...]
    can_host: tuple[str, ...]
    """Techniques by which this machine can run encrypted virtual machines."""


def memory_encryption(root: Path = Path("/")) -> MemoryEncryption:
    """What the files below `root` say. Never raises for what is missing."""
    flags = _flags(root)
    virtual: Answer = "cannot tell" if flags is None else "yes" if "hypervisor" in flags else "no"
    known = flags or set()
    told = (
        _tdx(known),
        *(_sev(root, known, name) for name in _SEV),
        _sme(root, known),
        _tsme(root, known),
        _tme(known),
    )
    findings = told if flags is not None else tuple(_unknown(finding.name) for finding in told)
    answers = {finding.answer for finding in findings}
    encrypted: Answer = "yes" if "yes" in answers else "cannot tell" if "cannot tell" in answers else "no"
    return MemoryEncryption(encrypted=encrypted, virtual=virtual, findings=findings, can_host=_can_host(root))


def _unknown(name: Name) -> Finding:
    return Finding(name=name, answer="cannot tell", because="/proc/cpuinfo names no x86 flags")


def _tdx(flags: set[str]) -> Finding:
    if "tdx_guest" in flags:
        return Finding(name="TDX", answer="yes", because="the kernel runs as a TDX guest (cpuinfo: tdx_guest)")
    return Finding(name="TDX", answer="no", because="the kernel does not run as a TDX guest")


def _sev(root: Path, flags: set[str], name: Name) -> Finding:
    """SNP has files of its own in a guest; the others only a flag, which a host has too."""
    snp = next((place for place in ("sys/devices/system/cpu/sev", "dev/sev-guest") if (root / place).exists()), None)
    if snp is not None:
        return Finding(name=name, answer="yes", because=f"/{snp} is there: a guest of SEV-SNP, which includes it")
    flag = name.lower().replace("-", "_")
    if "hypervisor" not in flags:
        return Finding(name=name, answer="no", because="this is no virtual machine")
    if flag in flags:
        return Finding(name=name, answer="cannot tell", because=f"the processor has it (cpuinfo: {flag}); {_LOG}")
    return Finding(name=name, answer="no", because=f"the processor does not have it (no {flag} in cpuinfo)")


def _sme(root: Path, flags: set[str]) -> Finding:
    if "hypervisor" in flags or "sme" not in flags:
        why = "a virtual machine has none" if "hypervisor" in flags else "no sme in cpuinfo"
        return Finding(name="SME", answer="no", because=why)
    words = (_read(root / "proc/cmdline") or "").split()
    asked = next((word.partition("=")[2] for word in reversed(words) if word.startswith("mem_encrypt=")), None)
    if asked == "on":
        return Finding(name="SME", answer="yes", because="the kernel was started with mem_encrypt=on")
    if asked == "off":
        return Finding(name="SME", answer="no", because="the kernel was started with mem_encrypt=off")
    return Finding(name="SME", answer="cannot tell", because=f"the kernel's own default decides; {_LOG}")


def _tsme(root: Path, flags: set[str]) -> Finding:
    """Transparent SME: the firmware's doing, told by the security processor's driver."""
    for place in sorted((root / "sys/bus/pci/drivers/ccp").glob("*/tsme_status")):
        told = (_read(place) or "").strip()
        if told in ("0", "1"):
            answer: Answer = "yes" if told == "1" else "no"
            return Finding(name="TSME", answer=answer, because=f"the security processor says {told} (tsme_status)")
    if "hypervisor" in flags:
        return Finding(name="TSME", answer="cannot tell", because="only the host of this virtual machine knows")
    if "sme" not in flags:
        return Finding(name="TSME", answer="no", because="no sme in cpuinfo")
    return Finding(name="TSME", answer="cannot tell", because="the firmware decides, and no driver tells (ccp)")


def _tme(flags: set[str]) -> Finding:
    if "hypervisor" in flags:
        return Finding(name="TME", answer="cannot tell", because="only the host of this virtual machine knows")
    if "tme" not in flags:
        return Finding(name="TME", answer="no", because="no tme in cpuinfo")
    return Finding(name="TME", answer="cannot tell", because="the firmware decides, and the kernel tells only its log")


def _can_host(root: Path) -> tuple[str, ...]:
    places = (
        ("SEV", "kvm_amd/parameters/sev"),
        ("SEV-ES", "kvm_amd/parameters/sev_es"),
        ("SEV-SNP", "kvm_amd/parameters/sev_snp"),
        ("TDX", "kvm_intel/parameters/tdx"),
    )
    return tuple(name for name, place in places if (_read(root / "sys/module" / place) or "").strip() in ("Y", "1"))


def _flags(root: Path) -> set[str] | None:
    """Of the first processor; None where there are none (not x86, or /proc is hidden)."""
    for line in (_read(root / "proc/cpuinfo") or "").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "flags":
            return set(value.split())
    return None


def _read(path: Path) -> str | None:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return None
