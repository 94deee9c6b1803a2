"""A key is in no core dump, in no swap, and reaches a child by a descriptor alone."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from thaloom.base.errors import EncryptionKeyMissing
from thaloom.kernel.trust import secret_memory
from thaloom.kernel.trust.inherited import VARIABLE, InheritedKey
from thaloom.kernel.trust.sealed import StoreKey
from thaloom.kernel.trust.secret_memory import SecretMemory

CHILD = """
import os, resource, sys, ctypes
from thaloom.kernel.trust.inherited import InheritedKey
key = InheritedKey(os.environ)()
with key.secret as secret:
    print(bytes(secret).hex())
print(key.id.hex(), ctypes.CDLL(None).prctl(3, 0, 0, 0, 0), resource.getrlimit(resource.RLIMIT_CORE), key.memory.locked)
print("THALOOM_KEY_FD" in os.environ)
"""


def flags_of(memory: SecretMemory) -> set[str]:
    """VmFlags of the page. Source: proc(5), /proc/pid/smaps: dd do not dump, lo locked."""
    mark = "secretmem" if memory.kind == "memfd_secret" else "thaloom-keys"
    found, ours = [], False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            ours = mark in line
        elif ours and line.startswith("VmFlags:"):
            found.append(set(line.split()[1:]))
    assert found, "the page is mapped"
    return set.intersection(*found)


@pytest.fixture(params=[pytest.param("memfd_secret", marks=pytest.mark.hardware), "memfd"])
def memory(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> SecretMemory:
    if request.param == "memfd":
        monkeypatch.setattr(secret_memory, "_MEMFD_SECRET", 100_000)  # as on a kernel that has none
    made = SecretMemory.make()
    if made.kind != request.param:
        pytest.skip("this kernel has no memfd_secret (secretmem.enable=1)")
    return made


def test_the_page_is_neither_dumped_nor_swapped(memory: SecretMemory) -> None:
    flags = flags_of(memory)
    assert "dd" in flags
    assert memory.locked
    assert "lo" in flags
    assert bytes(memory.view) == bytes(len(memory.view))


def test_closing_wipes_it(memory: SecretMemory) -> None:
    memory.view[:4] = b"abcd"
    again = SecretMemory.inherit(os.dup(memory.fileno()))
    assert bytes(again.view[:4]) == b"abcd"
    memory.close()
    assert bytes(again.view[:4]) == bytes(4)
    again.close()


def test_a_child_has_the_key_by_descriptor_and_is_shielded(memory: SecretMemory) -> None:
    key = StoreKey(memory)
    memory.view[:48] = b"i" * 16 + os.urandom(32)
    number = key.memory.fileno()
    done = subprocess.run(
        [sys.executable, "-c", CHILD],
        env=os.environ | {VARIABLE: str(number), "PYTHONPATH": str(Path(secret_memory.__file__).parents[3])},
        pass_fds=(number,),
        capture_output=True,
        text=True,
        check=True,
    )
    secret, facts, named = done.stdout.splitlines()
    assert secret == bytes(key.secret).hex()
    assert facts == f"{(b'i' * 16).hex()} 0 (0, 0) True"
    assert named == "False"


@pytest.mark.parametrize("number", [None, "", "x", "9999"])
def test_a_process_that_was_given_none_says_so(number: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("thaloom.kernel.trust.inherited.shield_process", lambda: None)
    with pytest.raises(EncryptionKeyMissing):
        InheritedKey({} if number is None else {VARIABLE: number})()
