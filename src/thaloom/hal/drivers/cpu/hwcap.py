"""What the kernel tells a process of the ARM processor it runs on, by the names that /proc/cpuinfo uses.

It is asked besides /proc/cpuinfo because that file is the host's under user-mode emulation and hidden in some
sandboxes; the auxiliary vector is what the C library itself goes by.
Source: getauxval(3), Linux arch/arm64/include/uapi/asm/hwcap.h.
"""

from __future__ import annotations

import struct

_ENTRY = struct.Struct("@NN")  # a kind and a value, each the size of a pointer
_END, _HWCAP, _HWCAP2 = 0, 16, 26
_NAMES = {
    _HWCAP: (
        "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm jscvt fcma lrcpc dcpop sha3 "
        "sm3 sm4 asimddp sha512 sve asimdfhm dit uscat ilrcpc flagm ssbs sb paca pacg"
    ),
    _HWCAP2: (
        "dcpodp sve2 sveaes svepmull svebitperm svesha3 svesm4 flagm2 frint svei8mm svef32mm svef64mm svebf16 i8mm "
        "bf16 dgh rng bti mte ecv afp rpres mte3 sme"
    ),
}
"""Names of the bits, lowest first."""


def features(auxv: bytes) -> frozenset[str]:
    """What /proc/self/auxv of an aarch64 process says; nothing for what is cut short or unknown."""
    found: set[str] = set()
    whole = len(auxv) // _ENTRY.size * _ENTRY.size
    for kind, value in _ENTRY.iter_unpack(auxv[:whole]):
        if kind == _END:
            break
        found.update(name for bit, name in enumerate(_NAMES.get(kind, "").split()) if value >> bit & 1)
    return frozenset(found)
