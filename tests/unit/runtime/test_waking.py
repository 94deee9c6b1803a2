"""Those who ask for what is idle wait together, and each hears what became of it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from thaloom.base.errors import NodeNotRunning, OutOfMemory, ServiceFailed, ServiceLoading
from thaloom.base.ids import ServiceName
from thaloom.kernel.state.types import Phase, Route, Routes
from thaloom.work.runtime.frontend import waking as module
from thaloom.work.runtime.frontend.waking import Waking

A = ServiceName("a")


class Node:
    """Publishes one route, and does what it is told when it is asked to wake it."""

    def __init__(self) -> None:
        self.asked = 0
        self.errors: list[Exception] = []
        self.then: Phase = "loading"
        self.tell("idle")

    def tell(self, phase: Phase, *, waking: bool = False, reason: str = "") -> None:
        self._routes = (
            Route(
                name=A, model="m", phase=phase, sockets=("/s",) if phase == "ready" else (), context_length=None,
                created_at=0.0, waking=waking, reason=reason,
            ),
        )  # fmt: skip

    def stop(self) -> None:
        self._routes = ()

    def current(self) -> Routes:
        return Routes(version=1, published_at=0.0, control_socket="", routes=self._routes)

    async def wake(self, service: ServiceName) -> None:
        assert service == A
        self.asked += 1
        await asyncio.sleep(0)
        if self.errors:
            raise self.errors.pop(0)
        self.tell(self.then, waking=True)


def play(story: Callable[[Node, Waking], Awaitable[None]], **options: Any) -> None:
    async def run() -> None:
        node = Node()
        waking = Waking(node, node.wake, **options)
        try:
            async with asyncio.timeout(30):
                await story(node, waking)
        finally:
            waking.close()

    asyncio.run(run())


async def asked(node: Node, times: int = 1) -> None:
    while node.asked < times:
        await asyncio.sleep(0.001)


def test_what_is_ready_is_not_waited_for() -> None:
    async def story(node: Node, waking: Waking) -> None:
        node.tell("ready")
        assert (await waking.ready(A)).sockets == ("/s",)
        assert node.asked == 0

    play(story)


def test_many_at_once_cause_one_start() -> None:
    async def story(node: Node, waking: Waking) -> None:
        waits = [asyncio.create_task(waking.ready(A)) for _ in range(20)]
        await asked(node)
        node.tell("ready")
        assert {route.phase for route in await asyncio.gather(*waits)} == {"ready"}
        assert node.asked == 1

    play(story)


def test_what_another_door_has_woken_is_waited_for() -> None:
    async def story(node: Node, waking: Waking) -> None:
        node.tell("loading", waking=True)
        wait = asyncio.create_task(waking.ready(A))
        await asyncio.sleep(0)
        node.tell("ready")
        assert (await wait).phase == "ready"
        assert node.asked == 0

    play(story)


def test_what_loads_for_another_reason_is_not() -> None:
    async def story(node: Node, waking: Waking) -> None:
        node.tell("loading", reason="the worker is getting ready")
        with pytest.raises(ServiceLoading, match="getting ready"):
            await waking.ready(A)

    play(story)


def test_who_leaves_does_not_end_the_start_of_the_others() -> None:
    async def story(node: Node, waking: Waking) -> None:
        first, second = (asyncio.create_task(waking.ready(A)) for _ in range(2))
        await asked(node)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        node.tell("ready")
        assert (await second).phase == "ready"

    play(story)


def test_a_start_whose_waiters_all_left_ends_by_itself() -> None:
    async def story(node: Node, waking: Waking) -> None:
        only = asyncio.create_task(waking.ready(A))
        await asked(node)
        only.cancel()
        await asyncio.gather(only, return_exceptions=True)
        node.tell("failed", reason="boom")
        while waking._starts:
            await asyncio.sleep(0.001)

    play(story)


def test_everybody_hears_why_it_was_not_woken_and_the_next_tries_anew() -> None:
    async def story(node: Node, waking: Waking) -> None:
        node.errors = [OutOfMemory("needs 3.1 GiB", needed_bytes=3, would_fit_without=[])]
        told = await asyncio.gather(*(waking.ready(A) for _ in range(3)), return_exceptions=True)
        assert [type(error) for error in told] == [OutOfMemory] * 3
        assert len({id(error) for error in told}) == 3
        assert all(isinstance(error, OutOfMemory) and error.details["needed_bytes"] == 3 for error in told)
        assert node.asked == 1
        node.then = "ready"
        assert (await waking.ready(A)).phase == "ready"

    play(story)


def test_where_others_are_about_to_make_room_it_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("thaloom.work.runtime.frontend.waking._AGAIN_S", 0.01)

    async def story(node: Node, waking: Waking) -> None:
        node.errors = [OutOfMemory("would fit if 'b' were unloaded, idle for 1 s", retry_after_s=4.0) for _ in range(3)]
        node.then = "ready"
        assert (await waking.ready(A)).phase == "ready"
        assert node.asked == 4
        node.tell("idle")
        node.errors = [OutOfMemory("in a moment", retry_after_s=4.0), OutOfMemory("it is kept loaded now")]
        with pytest.raises(OutOfMemory, match="kept loaded now"):
            await waking.ready(A)

    play(story)


def test_room_that_is_never_made_is_not_waited_for_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("thaloom.work.runtime.frontend.waking._AGAIN_S", 0.01)

    async def story(node: Node, waking: Waking) -> None:
        node.errors = [OutOfMemory("in a moment", retry_after_s=4.0)] * 1000
        with pytest.raises(ServiceLoading):
            await waking.ready(A)

    play(story, limit_s=0.2)


def test_a_start_that_fails_is_told() -> None:
    async def story(node: Node, waking: Waking) -> None:
        wait = asyncio.create_task(waking.ready(A))
        await asked(node)
        node.tell("failed", reason="the file is broken")
        with pytest.raises(ServiceFailed, match="the file is broken"):
            await wait

    play(story)


def test_what_is_idle_again_is_asked_for_again() -> None:
    """There was no room after all: the node says so when it is asked anew."""

    async def story(node: Node, waking: Waking) -> None:
        wait = asyncio.create_task(waking.ready(A))
        await asked(node)
        node.errors = [OutOfMemory("no room")]
        node.tell("idle")
        with pytest.raises(OutOfMemory):
            await wait
        assert node.asked == 2

    play(story)


def test_a_wait_has_an_end() -> None:
    async def story(node: Node, waking: Waking) -> None:
        with pytest.raises(ServiceLoading, match=r"not ready after 0\.05 s"):
            await waking.ready(A)

    play(story, limit_s=0.05)


def test_a_service_that_is_stopped_meanwhile_is_not_waited_for() -> None:
    async def story(node: Node, waking: Waking) -> None:
        wait = asyncio.create_task(waking.ready(A))
        await asked(node)
        node.stop()
        with pytest.raises(ServiceLoading, match="was stopped"):
            await wait

    play(story)


def test_a_daemon_that_is_away_for_a_moment_is_asked_again() -> None:
    async def story(node: Node, waking: Waking) -> None:
        node.errors = [NodeNotRunning("away"), NodeNotRunning("away")]
        node.then = "ready"
        assert (await waking.ready(A)).phase == "ready"
        assert node.asked == 3

    play(story)


def test_without_a_daemon_nothing_is_woken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "NO_DAEMON_S", 0.01)

    async def story(node: Node, waking: Waking) -> None:
        node.errors = [NodeNotRunning("away")] * 1000
        with pytest.raises(ServiceLoading, match="does not answer"):
            await waking.ready(A)

    play(story)


def test_what_is_unloaded_again_and_again_is_not_waited_for_without_end() -> None:
    async def story(node: Node, waking: Waking) -> None:
        node.then = "ready"
        real = waking._started

        async def and_gone(service: ServiceName) -> None:
            await real(service)
            node.tell("idle")

        waking._started = and_gone  # type: ignore[method-assign]
        with pytest.raises(ServiceLoading, match="is idle"):
            await waking.ready(A)
        assert node.asked == 3

    play(story)
