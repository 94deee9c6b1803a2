"""Which system calls end in a refusal, as a BPF program made by hand.

Three answers. `kill`: nothing but an attack asks for it, and the program is ended by SIGSYS, which names itself.
`refuse`: programs ask, and get along without (EPERM; ENOSYS where they then try an older way). `network`: a socket that
its walls do not allow is refused with ENONET, "Machine is not on the network", which no kernel gives of itself: the
program's own last words then name the wall.

Source: kernel documentation, userspace-api/seccomp_filter; arch/x86/entry/syscalls/syscall_64.tbl,
include/uapi/asm-generic/unistd.h (aarch64).
"""

from __future__ import annotations

import ctypes
import struct

from thaloom.kernel.sandbox.inside.kernel_calls import PR_SET_SECCOMP, prctl

_EPERM, _ENOSYS, _ENONET, _EAFNOSUPPORT = 1, 38, 64, 97

# name: (x86_64, aarch64); -1: not there
_KILL = {
    "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51), "move_mount": (429, 429),
    "open_tree": (428, 428), "fsopen": (430, 430), "fsconfig": (431, 431), "fsmount": (432, 432), "fspick": (433, 433),
    "mount_setattr": (442, 442), "init_module": (175, 105), "finit_module": (313, 273), "delete_module": (176, 106),
    "kexec_load": (246, 104), "kexec_file_load": (320, 294), "reboot": (169, 142), "swapon": (167, 224),
    "swapoff": (168, 225), "settimeofday": (164, 170), "clock_settime": (227, 112), "sethostname": (170, 161),
    "setdomainname": (171, 162), "acct": (163, 89), "iopl": (172, -1), "ioperm": (173, -1),
}  # fmt: skip
_REFUSE = {
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "bpf": (321, 280),
    "keyctl": (250, 219), "add_key": (248, 217), "request_key": (249, 218), "perf_event_open": (298, 241),
    "userfaultfd": (323, 282), "unshare": (272, 97), "setns": (308, 268), "open_by_handle_at": (304, 265),
    "quotactl": (179, 60), "syslog": (103, 116), "kcmp": (312, 272), "vhangup": (153, 58), "adjtimex": (159, 171),
    "clock_adjtime": (305, 266), "lookup_dcookie": (212, 18), "fanotify_init": (300, 262), "nfsservctl": (180, 42),
}  # fmt: skip
_ABSENT = {"clone3": (435, 435), "io_uring_setup": (425, 425), "io_uring_enter": (426, 426),
           "io_uring_register": (427, 427)}  # fmt: skip
"""clone3 hides its flags behind a pointer, which a filter cannot follow; C libraries then use clone. io_uring would do
other calls behind the filter's back."""
_CLONE, _SOCKET, _SOCKETPAIR = (56, 220), (41, 198), (53, 199)
_NEW_NAMESPACES = 0x7E020000
"""cgroup, uts, ipc, user, pid, net, mount."""
_FAMILIES = {"none": (1,), "loopback": (1, 2, 10, 16), "host": (1, 2, 10, 16)}
"""unix; IPv4, IPv6 and netlink. No others: not even a host's own bus, and nobody's virtual machine monitor."""

ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
_X32 = 0x40000000

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER, _ARCH, _ARGUMENT = 0, 4, 16
_ALLOW, _KILL_PROCESS, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000


def program(machine: str, network: str) -> bytes:
    """The filter. Raises KeyError for an architecture whose calls are not known here."""
    column, arch = ARCHITECTURES[machine]
    code = [_step(_LOAD, _ARCH), _step(_EQUAL, arch, 1, 0), _step(_RETURN, _KILL_PROCESS), _step(_LOAD, _NUMBER)]
    if machine == "x86_64":
        code += [_step(_AT_LEAST, _X32, 0, 1), _step(_RETURN, _KILL_PROCESS)]
    for table, answer in ((_KILL, _KILL_PROCESS), (_REFUSE, _ERRNO | _EPERM), (_ABSENT, _ERRNO | _ENOSYS)):
        for numbers in table.values():
            if numbers[column] >= 0:
                code += [_step(_EQUAL, numbers[column], 0, 1), _step(_RETURN, answer)]
    code += _when(_CLONE[column], [_step(_ANY_BIT, _NEW_NAMESPACES, 0, 1), _step(_RETURN, _ERRNO | _EPERM)])
    for call in (_SOCKET, _SOCKETPAIR):
        code += _when(call[column], _only(_FAMILIES[network], _ENONET if network == "none" else _EAFNOSUPPORT))
    return b"".join([*code, _step(_RETURN, _ALLOW)])


def install(machine: str, network: str) -> None:
    code = program(machine, network)
    buffer = ctypes.create_string_buffer(code, len(code))

    class Filter(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ushort), ("code", ctypes.c_void_p)]

    filled = Filter(len(code) // 8, ctypes.addressof(buffer))
    prctl(PR_SET_SECCOMP, 2, ctypes.addressof(filled))


def _when(number: int, body: list[bytes]) -> list[bytes]:
    """`body` looks at the first argument (its low half: these are all 32-bit) and may fall through to an allowance."""
    inside = [_step(_LOAD, _ARGUMENT), *body, _step(_RETURN, _ALLOW)]
    return [_step(_EQUAL, number, 0, len(inside)), *inside]


def _only(allowed: tuple[int, ...], otherwise: int) -> list[bytes]:
    checks = []
    for family in allowed:
        checks += [_step(_EQUAL, family, 0, 1), _step(_RETURN, _ALLOW)]
    return [*checks, _step(_RETURN, _ERRNO | otherwise)]


def _step(code: int, value: int, then: int = 0, otherwise: int = 0) -> bytes:
    return struct.pack("<HBBI", code, then, otherwise, value)
