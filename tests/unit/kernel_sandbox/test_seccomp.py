"""The filter is run here, by an interpreter of the few instructions it is made of, and asked about every call."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import pytest

from thaloom.kernel.sandbox.inside import seccomp

ALLOW, KILL = 0x7FFF0000, 0x80000000
ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}


def errno(number: int) -> int:
    return 0x00050000 | number


def answer(code: bytes, number: int, arch: int, argument: int = 0) -> int:
    """What the kernel would do with one call. Source: kernel documentation, networking/filter (classic BPF)."""
    data = struct.pack("<IIQQ", number, arch, 0, argument)
    accumulator, at = 0, 0
    for _ in range(1000):
        operation, then, otherwise, value = struct.unpack_from("<HBBI", code, at * 8)
        at += 1
        match operation:
            case 0x20:
                (accumulator,) = struct.unpack_from("<I", data, value)
            case 0x15:
                at += then if accumulator == value else otherwise
            case 0x35:
                at += then if accumulator >= value else otherwise
            case 0x45:
                at += then if accumulator & value else otherwise
            case 0x06:
                return int(value)
            case _:
                raise AssertionError(f"an instruction nobody wrote: {operation:#x}")
    raise AssertionError("the filter does not end")


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_every_listed_call_ends_as_its_list_says_and_all_others_pass(machine: str) -> None:
    code, arch = seccomp.program(machine, "host"), ARCH[machine]
    column = list(ARCH).index(machine)
    expected = {}
    for table, outcome in ((seccomp._KILL, KILL), (seccomp._REFUSE, errno(1)), (seccomp._ABSENT, errno(38))):
        expected |= {numbers[column]: outcome for numbers in table.values() if numbers[column] >= 0}
    sockets = (seccomp._SOCKET[column], seccomp._SOCKETPAIR[column])
    for number in range(470):
        if number not in sockets:
            assert answer(code, number, arch) == expected.get(number, ALLOW), number


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_only_the_sockets_its_network_allows(machine: str) -> None:
    arch, number = ARCH[machine], seccomp._SOCKET[list(ARCH).index(machine)]
    unix, inet, inet6, netlink, packet, vsock = 1, 2, 10, 16, 17, 40
    alone = seccomp.program(machine, "none")
    assert answer(alone, number, arch, unix) == ALLOW
    for family in (inet, inet6, netlink, packet, vsock):
        assert answer(alone, number, arch, family) == errno(64)
    for network in ("loopback", "host"):
        code = seccomp.program(machine, network)
        assert [answer(code, number, arch, family) for family in (unix, inet, inet6, netlink)] == [ALLOW] * 4
        assert [answer(code, number, arch, family) for family in (packet, vsock)] == [errno(97)] * 2


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_threads_may_be_made_and_namespaces_not(machine: str) -> None:
    arch, clone = ARCH[machine], seccomp._CLONE[list(ARCH).index(machine)]
    code = seccomp.program(machine, "none")
    assert answer(code, clone, arch, 0x3D0F00) == ALLOW  # what a C library asks for a thread
    for flag in (0x20000, 0x10000000, 0x20000000, 0x40000000, 0x04000000, 0x08000000, 0x02000000):
        assert answer(code, clone, arch, 0x11 | flag) == errno(1)


def test_another_architecture_cannot_slip_calls_in() -> None:
    code = seccomp.program("x86_64", "host")
    assert answer(code, 39, 0x40000003) == KILL  # i386
    assert answer(code, 0x40000000 | 39, ARCH["x86_64"]) == KILL  # x32


@pytest.mark.parametrize(
    ("machine", "header"),
    [("x86_64", "/usr/include/x86_64-linux-gnu/asm/unistd_64.h"), ("aarch64", "/usr/include/asm-generic/unistd.h")],
)
def test_numbers_are_those_of_the_kernel_headers(machine: str, header: str) -> None:
    """Where the headers are (linux-libc-dev, which every compiler brings along)."""
    known = numbers_in(Path(header))
    column = list(ARCH).index(machine)
    tables = seccomp._KILL | seccomp._REFUSE | seccomp._ABSENT
    others = {"clone": seccomp._CLONE, "socket": seccomp._SOCKET, "socketpair": seccomp._SOCKETPAIR}
    for name, numbers in (tables | others).items():
        if name in known:
            assert numbers[column] == known[name], name
    assert not known or len(known.keys() & tables.keys()) >= 40


def numbers_in(header: Path) -> dict[str, int]:
    if not header.exists():
        return {}
    found = re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)\b", header.read_text())
    return {name: int(number) for name, number in found}
