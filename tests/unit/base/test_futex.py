"""Sleeping on a word that processes share, and waking who sleeps."""

from __future__ import annotations

import ctypes
import mmap
import os

import pytest

from thaloom.base import futex


def test_another_process_wakes_who_sleeps() -> None:
    shared = mmap.mmap(-1, 4096)
    word = ctypes.c_uint32.from_buffer(shared)
    pid = os.fork()
    if pid == 0:
        while word.value == 0:
            futex.wait(ctypes.addressof(word), 0, 60)
        os._exit(word.value)
    word.value = 7
    futex.wake(ctypes.addressof(word))
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7


def test_nobody_sleeps_on_a_word_that_has_changed() -> None:
    word = ctypes.c_uint32(5)
    futex.wait(ctypes.addressof(word), 4, 3600)


def test_a_sleep_has_an_end() -> None:
    word = ctypes.c_uint32(5)
    futex.wait(ctypes.addressof(word), 5, 0.001)


def test_where_there_is_none_a_sleeper_looks_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(futex, "_NUMBER", None)
    word = ctypes.c_uint32(5)
    futex.wait(ctypes.addressof(word), 5, 3600)
    futex.wake(ctypes.addressof(word))
