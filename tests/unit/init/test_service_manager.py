"""What systemd is told, word for word, on a socket of the test's own."""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path

import pytest

from thaloom.base.clock import ManualClock
from thaloom.init.service_manager import ServiceManager


@pytest.fixture
def listening(short_path: Path) -> socket.socket:
    made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    made.bind(str(short_path / "notify"))
    made.settimeout(5)
    return made


def heard(listening: socket.socket) -> list[str]:
    return listening.recv(4096).decode().splitlines()


def test_each_state_is_told(listening: socket.socket) -> None:
    environment = {"NOTIFY_SOCKET": listening.getsockname(), "OTHER": "x"}
    manager = ServiceManager(environment)
    assert environment == {"OTHER": "x"}, "our children are not to speak for us"
    manager.ready("serving")
    assert heard(listening) == ["READY=1", "STATUS=serving", f"MAINPID={os.getpid()}"]
    manager.reloading()
    first, second = heard(listening)
    assert first == "RELOADING=1"
    assert int(second.removeprefix("MONOTONIC_USEC=")) > 0
    manager.stopping("bye")
    assert heard(listening) == ["STOPPING=1", "STATUS=bye"]
    listening.close()


def test_an_abstract_socket_is_spoken_to(listening: socket.socket) -> None:
    listening.close()
    name = f"thaloom-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as abstract:
        abstract.bind(f"\0{name}")
        abstract.settimeout(5)
        ServiceManager({"NOTIFY_SOCKET": f"@{name}"}).stopping("bye")
        assert heard(abstract)[0] == "STOPPING=1"


@pytest.mark.parametrize("address", ["", "/nowhere/at/all"])
def test_nobody_to_tell_is_no_error(address: str) -> None:
    ServiceManager({"NOTIFY_SOCKET": address}).ready("serving")


def test_it_says_that_it_lives_twice_as_often_as_it_must(listening: socket.socket) -> None:
    async def live() -> list[float]:
        clock = ManualClock()
        manager = ServiceManager(
            {"NOTIFY_SOCKET": listening.getsockname(), "WATCHDOG_USEC": "10000000", "WATCHDOG_PID": str(os.getpid())}
        )
        task = asyncio.create_task(manager.keep_alive(clock))
        at = []
        for _ in range(3):
            await asyncio.sleep(0)
            assert heard(listening) == ["WATCHDOG=1"]
            at.append(clock.monotonic())
            await asyncio.sleep(0)
            await clock.advance(5.0)
            await asyncio.sleep(0)
        task.cancel()
        return at

    assert asyncio.run(live()) == [0.0, 5.0, 10.0]
    listening.close()


@pytest.mark.parametrize("variables", [{}, {"WATCHDOG_USEC": "x"}, {"WATCHDOG_USEC": "1000", "WATCHDOG_PID": "1"}])
def test_who_is_not_watched_says_nothing(variables: dict[str, str], listening: socket.socket) -> None:
    manager = ServiceManager({"NOTIFY_SOCKET": listening.getsockname()} | variables)
    asyncio.run(manager.keep_alive(ManualClock()))
    listening.setblocking(False)
    with pytest.raises(BlockingIOError):
        listening.recv(1)
    listening.close()
