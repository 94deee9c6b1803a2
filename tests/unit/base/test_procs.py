import asyncio
import mmap
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from thaloom.base import memory_files
from thaloom.base.procs import ProcessIdentity, identify, resident_bytes, spawn, unshared_bytes
from thaloom.base.units import MIB


def sleeper(log: Path, *, ignore_term: bool = False) -> ProcessIdentity:
    """A child that says `up` and sleeps."""
    setup = "signal.signal(signal.SIGTERM, signal.SIG_IGN);" if ignore_term else ""
    identity = spawn(
        [sys.executable, "-c", f"import signal,time;{setup}print('up',flush=True);time.sleep(60)"], log=log
    )
    while b"up" not in log.read_bytes():
        assert identity.alive()
    return identity


def test_a_spawned_process_is_itself_and_nobody_else(tmp_path: Path) -> None:
    child = sleeper(tmp_path / "log")
    stranger = ProcessIdentity(pid=child.pid, start_ticks=child.start_ticks + 1)
    assert child.alive()
    assert not stranger.alive()
    assert not stranger.send(signal.SIGKILL)
    assert child.alive()
    assert os.getsid(child.pid) == child.pid
    asyncio.run(child.stop(grace_s=5))
    assert not child.alive()
    assert identify(child.pid) is None, "the child was reaped"


def test_one_that_ignores_the_request_is_killed(tmp_path: Path) -> None:
    child = sleeper(tmp_path / "log", ignore_term=True)
    asyncio.run(child.stop(grace_s=0.1))
    assert not child.alive()


def test_waiting_for_one_that_is_gone_returns_at_once() -> None:
    asyncio.run(ProcessIdentity(pid=2**22 - 1, start_ticks=1).wait())


def test_a_zombie_is_not_alive(tmp_path: Path) -> None:
    child = sleeper(tmp_path / "log")
    os.kill(child.pid, signal.SIGKILL)
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert not child.alive()
    child.reap()


_FIRST_THREAD_ENDS = """
import ctypes, os, platform, sys, threading
def rest():
    sys.stdin.read()
    os._exit(5)
threading.Thread(target=rest).start()
print("up", flush=True)
ctypes.CDLL(None).syscall({"x86_64": 60, "aarch64": 93}[platform.machine()], 0)
"""


def test_one_that_ends_is_waited_for_to_its_last_thread(tmp_path: Path) -> None:
    """Its first thread is a zombie while another still holds its memory and its sockets, as after SIGKILL on a busy
    machine. Found by tests.chaos: who took the zombie for the end found the sockets open, and never reaped it."""
    reading, writing = os.pipe()
    process = subprocess.Popen([sys.executable, "-c", _FIRST_THREAD_ENDS], stdin=reading, stdout=subprocess.PIPE)
    os.close(reading)
    assert process.stdout is not None
    assert process.stdout.readline() == b"up\n"
    identity = identify(process.pid)
    assert identity is not None
    while identity.alive():
        time.sleep(0.001)

    async def wait() -> int | None:
        waiting = asyncio.create_task(identity.wait())
        done, _ = await asyncio.wait([waiting], timeout=0.1)
        assert not done, "a thread of it still runs"
        os.close(writing)
        return await asyncio.wait_for(waiting, 30)

    assert asyncio.run(wait()) == 5
    assert identify(process.pid) is None, "it was reaped"
    process.returncode = 5
    process.stdout.close()


def test_memory_files_are_nobodys_own() -> None:
    before, whole = unshared_bytes(os.getpid()), resident_bytes(os.getpid())
    assert before is not None
    assert whole is not None
    descriptor = memory_files.create("thaloom-test")
    os.ftruncate(descriptor, 64 * MIB)
    with mmap.mmap(descriptor, 64 * MIB) as view:
        for at in range(0, 64 * MIB, mmap.PAGESIZE):
            view[at] = 1
        assert (resident_bytes(os.getpid()) or 0) - whole > 60 * MIB
        assert abs((unshared_bytes(os.getpid()) or 0) - before) < 30 * MIB
    os.close(descriptor)
    assert unshared_bytes(2**22 - 1) is None


def test_resident_memory() -> None:
    own = resident_bytes(os.getpid())
    assert own is not None
    assert own > 1 << 20
    assert resident_bytes(2**22 - 1) is None


def test_a_process_whose_name_is_no_text_has_an_identity_too(tmp_path: Path) -> None:
    setup = (
        "import ctypes,time;ctypes.CDLL(None).prctl(15,b'\\xff\\xfe) Z 1',0,0,0);print('up',flush=True);time.sleep(60)"
    )
    log = tmp_path / "log"
    child = spawn([sys.executable, "-c", setup], log=log)
    while b"up" not in log.read_bytes():
        time.sleep(0)
    try:
        assert identify(child.pid) == child
        assert child.alive()
    finally:
        asyncio.run(child.stop(grace_s=5))
