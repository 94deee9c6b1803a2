"""Long work in threads, and what may be a service's name."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import pytest

from thaloom.base.errors import BadParameter, CorruptObject
from thaloom.init.acting.guards import require_service_name
from thaloom.init.errands.progress import with_progress

Tell = Callable[[int, int], None]


def test_progress_comes_back_to_the_event_loop() -> None:
    async def run() -> tuple[str, list[tuple[str, int, int | None]]]:
        steps: list[tuple[str, int, int | None]] = []
        loop_thread = threading.get_ident()

        def work(tell: Tell) -> str:
            assert threading.get_ident() != loop_thread
            tell(1, 2)
            tell(2, 2)
            return "done"

        def note(stage: str, done: int, total: int | None) -> None:
            assert threading.get_ident() == loop_thread
            steps.append((stage, done, total))

        return await with_progress(work, "importing", note), steps

    result, steps = asyncio.run(run())
    assert result == "done"
    assert steps == [("importing", 1, 2), ("importing", 2, 2)]


def test_an_error_of_the_thread_is_the_callers() -> None:
    def work(tell: Tell) -> None:
        raise CorruptObject("altered")

    with pytest.raises(CorruptObject):
        asyncio.run(with_progress(work, "verifying", lambda *_: None))


def test_cancelling_stops_the_thread_at_its_next_step_and_waits_for_it() -> None:
    async def run() -> bool:
        began, cleaned_up = threading.Event(), False

        def work(tell: Tell) -> None:
            nonlocal cleaned_up
            try:
                while True:
                    tell(1, 2)
                    began.set()
            finally:
                cleaned_up = True

        task = asyncio.ensure_future(with_progress(work, "importing", lambda *_: None))
        await asyncio.to_thread(began.wait, 30)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return cleaned_up

    assert asyncio.run(run())


@pytest.mark.parametrize("name", ["tiny", "a", "qwen3:latest", "a.b_c-d:E"])
def test_names_of_services(name: str) -> None:
    require_service_name(name)


@pytest.mark.parametrize("name", ["", ".x", "a..b", "door", "daemon", "a/b", "a b", "ü", "a" * 128, "-x"])
def test_what_cannot_be_a_file_name_is_no_name_of_a_service(name: str) -> None:
    with pytest.raises(BadParameter):
        require_service_name(name)
