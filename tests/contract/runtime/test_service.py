"""The worker's socket, as its clients meet it: every refusal, every way to go away, every end."""

from __future__ import annotations

import asyncio
import stat
import struct
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from tests.contract.runtime.harness import GatedExecutable, Site, error_of, loaded, site, tokens_of
from tests.unit.runtime.doubles import ask, greedy, lost
from thaloom.base.errors import DeviceLost, InternalError, OutOfMemory
from thaloom.work.runtime.events import ReaderLeftBehind, WorkerReady, WorkerStopped
from thaloom.work.runtime.messages import (
    MAX_FRAME_BYTES,
    Accepted,
    Finished,
    GetStatus,
    Shutdown,
    Tokens,
    WorkerStats,
)
from thaloom.work.runtime.worker.connection import Patience
from thaloom.work.runtime.worker.loading import LoadedModel, LoadingStopped

Story = Callable[[Site], Awaitable[None]]


def play(folder: Path, story: Story, **settings: object) -> None:
    async def run() -> None:
        async with site(folder, **settings) as made, asyncio.timeout(30):
            await story(made)

    asyncio.run(run())


def test_an_answer_is_accepted_then_tokens_then_finished(tmp_path: Path) -> None:
    async def story(made: Site) -> None:
        replies = await made.call(ask([1, 2, 3], 6))
        assert replies[0] == Accepted(waiting=0)
        assert tokens_of(replies) == greedy([1, 2, 3], 6)
        assert isinstance(replies[-1], Finished)
        assert all(isinstance(reply, Tokens) for reply in replies[1:-1])

    play(tmp_path, story)


def test_many_clients_at_once_each_get_their_own_answer(tmp_path: Path) -> None:
    async def story(made: Site) -> None:
        prompts = [[number, number + 1] for number in range(12)]
        answers = await asyncio.gather(*(made.call(ask(prompt, 20)) for prompt in prompts))
        assert [tokens_of(answer) for answer in answers] == [greedy(prompt, 20) for prompt in prompts]

    play(tmp_path, story)


def test_status_counts(tmp_path: Path) -> None:
    async def story(made: Site) -> None:
        await made.call(ask([1, 2, 3], 6))
        stats = await made.status()
        assert (stats.ready, stats.phase, stats.worker, stats.device) == (True, "ready", "w-1", "made-up")
        assert (stats.requests_total, stats.prompt_tokens_total, stats.completion_tokens_total) == (1, 3, 6)
        assert stats.free_blocks == stats.num_blocks
        assert made.events.of(WorkerReady)

    play(tmp_path, story)


class TestWhileLoading:
    def test_it_can_be_asked_how_it_is_and_takes_no_requests(self, tmp_path: Path) -> None:
        go_on = threading.Event()

        def load(stop: threading.Event) -> LoadedModel:
            go_on.wait(20)
            return loaded(GatedExecutable())

        async def story(made: Site) -> None:
            stats = await made.status()
            assert (stats.ready, stats.phase, stats.worker) == (False, "loading", "w-1")
            error = error_of(await made.call(ask([1])))
            assert (error["code"], error["retry_after_s"]) == ("service_loading", 1.0)
            go_on.set()
            await made.until(lambda stats: stats.ready)
            assert tokens_of(await made.call(ask([1], 2))) == greedy([1], 2)

        play(tmp_path, story, load=load, ready=False)

    def test_it_can_be_stopped(self, tmp_path: Path) -> None:
        def load(stop: threading.Event) -> LoadedModel:
            assert stop.wait(20)
            raise LoadingStopped

        async def story(made: Site) -> None:
            (stats,) = await made.call(Shutdown(grace_s=1.0))
            assert isinstance(stats, WorkerStats)
            assert stats.phase == "stopping"
            await made.task
            assert not Path(made.spec.socket).exists()

        play(tmp_path, story, load=load, ready=False)

    def test_a_model_that_comes_too_late_is_given_back(self, tmp_path: Path) -> None:
        executable = GatedExecutable()

        def load(stop: threading.Event) -> LoadedModel:
            assert stop.wait(20)
            return loaded(executable)

        async def story(made: Site) -> None:
            made.service.stop(1.0)
            await made.task
            assert executable.closed

        play(tmp_path, story, load=load, ready=False)

    def test_what_prevents_it_ends_the_worker(self, tmp_path: Path) -> None:
        def load(stop: threading.Event) -> LoadedModel:
            raise OutOfMemory("no room")

        async def story(made: Site) -> None:
            with pytest.raises(OutOfMemory):
                await made.task
            assert not Path(made.spec.socket).exists()

        play(tmp_path, story, load=load, ready=False)


class TestRefusals:
    def test_a_wrong_field_is_named(self, tmp_path: Path) -> None:
        async def story(made: Site) -> None:
            error = error_of(await made.call(ask([1, 999])))
            assert (error["code"], error["param"]) == ("bad_parameter", "prompt")

        play(tmp_path, story)

    def test_too_long_names_both_lengths(self, tmp_path: Path) -> None:
        async def story(made: Site) -> None:
            error = error_of(await made.call(ask([1] * 4000, 100)))
            assert error["code"] == "prompt_too_long"
            assert error["details"] == {"prompt_tokens": 4000, "max_tokens": 100, "context_length": 4096}

        play(tmp_path, story)

    def test_a_full_queue(self, tmp_path: Path) -> None:
        async def story(made: Site) -> None:
            made.executable.hold()
            clients = [await made.connect() for _ in range(3)]
            for client in clients:
                await client.say(ask([1], 5))
                assert isinstance(await client.hear(), Accepted)
            error = error_of(await made.call(ask([1], 5)))
            assert error["code"] == "queue_full"
            assert float(str(error["retry_after_s"])) > 0
            made.executable.go_on()
            for client in clients:
                assert tokens_of(await client.rest()) == greedy([1], 5)

        play(tmp_path, story, max_sequences=2, max_queue=1)

    @pytest.mark.parametrize(
        "body",
        [
            b"not msgpack at all",
            b"\x81\xa4type\xa5other",
            b"\x81\xa4type\xa8generate",
            b"\xc0",
            b"",
            b"\x93\x01\x02\x03",
        ],
    )
    def test_what_is_no_request_is_told_so(self, tmp_path: Path, body: bytes) -> None:
        async def story(made: Site) -> None:
            client = await made.connect()
            client.writer.write(struct.pack(">I", len(body)) + body)
            assert error_of(await client.rest())["code"] == "bad_request"
            assert (await made.status()).ready

        play(tmp_path, story)

    def test_a_frame_too_large_is_refused_before_it_is_read(self, tmp_path: Path) -> None:
        async def story(made: Site) -> None:
            client = await made.connect()
            client.writer.write(struct.pack(">I", MAX_FRAME_BYTES + 1))
            error = error_of(await client.rest())
            assert error["code"] == "bad_request"
            assert str(MAX_FRAME_BYTES) in str(error["message"])

        play(tmp_path, story)

    @pytest.mark.parametrize("part", [b"", b"\x00", b"\x00\x00\x00\x09half"])
    def test_half_a_request_is_nothing(self, tmp_path: Path, part: bytes) -> None:
        async def story(made: Site) -> None:
            client = await made.connect()
            client.writer.write(part)
            client.writer.write_eof()
            assert await client.rest() == []
            assert (await made.status()).requests_total == 0

        play(tmp_path, story)

    def test_who_says_nothing_is_not_waited_for(self, tmp_path: Path) -> None:
        async def story(made: Site) -> None:
            client = await made.connect()
            assert await client.rest() == []

        play(tmp_path, story, patience=Patience(first_frame_s=0.05))

    @pytest.mark.parametrize("grace_s", [-1.0, float("nan")])
    def test_a_grace_that_is_no_duration(self, tmp_path: Path, grace_s: float) -> None:
        async def story(made: Site) -> None:
            assert error_of(await made.call(Shutdown(grace_s=grace_s)))["param"] == "grace_s"
            assert (await made.status()).ready

        play(tmp_path, story)

    def test_more_connections_than_could_ever_be_served(self, tmp_path: Path) -> None:
        async def story(made: Site) -> None:
            clients = [await made.connect() for _ in range(1 + 1 + 64)]
            refused = await made.connect()
            await refused.say(GetStatus())
            assert error_of(await refused.rest())["code"] == "queue_full"
            for client in clients:
                client.hang_up()
            async with asyncio.timeout(30):
                while isinstance((await made.call(GetStatus()))[0], WorkerStats) is False:
                    await asyncio.sleep(0.002)

        play(tmp_path, story, max_sequences=1, max_queue=1)


class TestGoingAway:
    @pytest.mark.parametrize("abruptly", [True, False])
    def test_in_the_middle_of_an_answer_frees_everything(self, tmp_path: Path, abruptly: bool) -> None:
        async def story(made: Site) -> None:
            client = await made.connect()
            await client.say(ask([1] * 40, 4000))
            assert isinstance(await client.hear(), Accepted)
            assert isinstance(await client.hear(), Tokens)
            client.hang_up() if abruptly else client.writer.close()
            stats = await made.until(lambda stats: stats.cancelled_total == 1)
            assert (stats.running, stats.free_blocks) == (0, stats.num_blocks)
            assert tokens_of(await made.call(ask([1] * 40, 3))) == greedy([1] * 40, 3)

        play(tmp_path, story)

    def test_while_waiting_leaves_the_queue(self, tmp_path: Path) -> None:
        async def story(made: Site) -> None:
            made.executable.hold()
            first, second = await made.connect(), await made.connect()
            for client in (first, second):
                await client.say(ask([3], 3))
                assert isinstance(await client.hear(), Accepted)
            second.hang_up()
            await made.until(lambda stats: stats.cancelled_total == 1)
            made.executable.go_on()
            assert tokens_of(await first.rest()) == greedy([3], 3)

        play(tmp_path, story, max_sequences=1)

    def test_who_says_more_than_one_thing_is_let_go(self, tmp_path: Path) -> None:
        async def story(made: Site) -> None:
            made.executable.hold()
            client = await made.connect()
            await client.say(ask([3], 3))
            assert isinstance(await client.hear(), Accepted)
            await client.say(GetStatus())
            await made.until(lambda stats: stats.cancelled_total == 1)
            assert await client.rest() == []

        play(tmp_path, story)


class TestSlowReaders:
    def test_one_that_stops_reading_is_cut_off_and_holds_nobody_back(self, tmp_path: Path) -> None:
        async def story(made: Site) -> None:
            slow = await made.connect()
            await slow.say(ask([1], 4000, id="slow", logprobs=20))
            slow.reader._transport.pause_reading()  # the kernel's buffers fill up
            quick = [await made.call(ask([number], 30)) for number in range(3)]
            assert [tokens_of(answer) for answer in quick] == [greedy([number], 30) for number in range(3)]
            stats = await made.until(lambda stats: stats.cancelled_total == 1)
            assert stats.free_blocks == stats.num_blocks
            (event,) = made.events.of(ReaderLeftBehind)
            assert event.fields()["request"] == "slow"
            slow.reader._transport.resume_reading()
            replies = await slow.rest()
            assert error_of(replies)["code"] == "deadline_exceeded"
            got = tokens_of(replies)
            assert got == greedy([1], len(got)), "what did come is right"

        play(tmp_path, story, max_tokens_behind=64)

    def test_one_that_never_reads_again_is_dropped(self, tmp_path: Path) -> None:
        async def story(made: Site) -> None:
            slow = await made.connect()
            await slow.say(ask([1], 4000, logprobs=20))
            slow.reader._transport.pause_reading()
            await made.until(lambda stats: stats.cancelled_total == 1)
            async with asyncio.timeout(30):
                while made.service._connections:
                    await asyncio.sleep(0.002)
            slow.hang_up()

        play(tmp_path, story, max_tokens_behind=64, patience=Patience(stalled_s=0.1))


class TestStopping:
    def test_running_answers_come_to_their_end_and_new_ones_are_refused(self, tmp_path: Path) -> None:
        async def story(made: Site) -> None:
            made.executable.hold()
            client = await made.connect()
            await client.say(ask([5], 30))
            assert isinstance(await client.hear(), Accepted)
            await made.call(Shutdown(grace_s=20.0))
            error = error_of(await made.call(ask([1])))
            assert error["code"] == "service_loading"
            assert (await made.status()).phase == "stopping"
            made.executable.go_on()
            assert tokens_of(await client.rest()) == greedy([5], 30)
            await made.task
            assert made.executable.closed
            assert not Path(made.spec.socket).exists()
            (event,) = made.events.of(WorkerStopped)
            assert event.fields()["cut_off"] == 0

        play(tmp_path, story)

    def test_it_ends_for_idleness_only_while_nobody_asks_it(self, tmp_path: Path) -> None:
        async def story(made: Site) -> None:
            made.executable.hold()
            client = await made.connect()
            await client.say(ask([5], 3))
            assert isinstance(await client.hear(), Accepted)
            assert (await made.status()).idle_s is None
            (refused,) = await made.call(Shutdown(grace_s=0.0, if_idle_s=0.0))
            assert isinstance(refused, WorkerStats)
            assert refused.phase == "ready"
            made.executable.go_on()
            assert tokens_of(await client.rest()) == greedy([5], 3)
            client.hang_up()
            await made.until(lambda stats: stats.idle_s is not None)
            (refused,) = await made.call(Shutdown(grace_s=0.0, if_idle_s=3600.0))
            assert isinstance(refused, WorkerStats)
            assert refused.phase == "ready"
            assert tokens_of(await made.call(ask([1], 2))) == greedy([1], 2)
            await made.until(lambda stats: stats.idle_s is not None)
            (agreed,) = await made.call(Shutdown(grace_s=0.0, if_idle_s=0.0))
            assert isinstance(agreed, WorkerStats)
            assert agreed.phase == "stopping"
            await made.task
            (event,) = made.events.of(WorkerStopped)
            assert event.fields()["cut_off"] == 0

        play(tmp_path, story)

    def test_what_grace_does_not_suffice_for_is_told(self, tmp_path: Path) -> None:
        async def story(made: Site) -> None:
            client = await made.connect()
            await client.say(ask([5], 4000))
            assert isinstance(await client.hear(), Accepted)
            made.service.stop(0.05)
            assert error_of(await client.rest())["code"] == "worker_lost"
            await made.task
            (event,) = made.events.of(WorkerStopped)
            assert event.fields()["cut_off"] == 1

        play(tmp_path, story)

    def test_a_second_word_shortens_the_grace(self, tmp_path: Path) -> None:
        async def story(made: Site) -> None:
            client = await made.connect()
            await client.say(ask([5], 4000))
            assert isinstance(await client.hear(), Accepted)
            made.service.stop(1000.0)
            await asyncio.sleep(0)
            made.service.stop(0.0)
            made.service.stop(1000.0)
            assert error_of(await client.rest())["code"] == "worker_lost"
            await made.task

        play(tmp_path, story)


class TestBreaking:
    @pytest.mark.parametrize("num_clients", [1, 2])
    def test_a_lost_device_fails_every_request_and_ends_the_worker(self, tmp_path: Path, num_clients: int) -> None:
        async def story(made: Site) -> None:
            made.executable.hold()
            clients = [await made.connect() for _ in range(num_clients)]
            for client in clients:
                await client.say(ask([5], 30))
                assert isinstance(await client.hear(), Accepted)
            made.executable.next_errors.append(lost())
            made.executable.go_on()
            for client in clients:
                assert error_of(await client.rest())["code"] == "device_lost"
            with pytest.raises(DeviceLost):
                await made.task

        play(tmp_path, story, max_sequences=1)

    def test_a_step_that_raises_is_survived(self, tmp_path: Path) -> None:
        async def story(made: Site) -> None:
            made.executable.next_errors.append(ValueError("torn"))
            assert error_of(await made.call(ask([5], 30)))["code"] == "internal_error"
            assert tokens_of(await made.call(ask([5], 3))) == greedy([5], 3)
            stats = await made.status()
            assert (stats.failed_total, stats.failed_steps_total) == (1, 1)

        play(tmp_path, story)

    def test_a_step_that_does_not_end_keeps_nobody_waiting(self, tmp_path: Path) -> None:
        async def story(made: Site) -> None:
            made.executable.hold()
            client = await made.connect()
            await client.say(ask([5], 30))
            assert isinstance(await client.hear(), Accepted)
            made.service.stop(0.05)
            assert error_of(await client.rest())["code"] == "worker_lost"
            with pytest.raises(DeviceLost, match="does not end"):
                await made.task
            assert not made.executable.closed, "the step still uses it"

        play(tmp_path, story, last_step_s=0.05)

    def test_an_engine_that_breaks_its_own_rules_ends_the_worker(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def broken(*_: object) -> None:
            raise AssertionError("a block is free twice")

        async def story(made: Site) -> None:
            monkeypatch.setattr("thaloom.work.runtime.core.engine.Engine.check", broken)
            await made.call(ask([5], 3))
            with pytest.raises(InternalError, match="free twice"):
                await made.task

        play(tmp_path, story)


class TestSocket:
    def test_it_is_private(self, tmp_path: Path) -> None:
        async def story(made: Site) -> None:
            assert stat.S_IMODE(Path(made.spec.socket).stat().st_mode) == 0o600

        play(tmp_path, story)

    def test_one_left_by_a_dead_worker_is_replaced(self, tmp_path: Path) -> None:
        (tmp_path / "w.sock").write_text("left behind")
        (tmp_path / "w.sock.new").write_text("left behind")
        (tmp_path / "w.sock.failure.json").write_text("{}")

        async def story(made: Site) -> None:
            assert not made.spec.failure_path.exists()

        play(tmp_path, story)
        assert list(tmp_path.iterdir()) == []

    def test_another_workers_is_left_alone(self, tmp_path: Path) -> None:
        async def story(made: Site) -> None:
            path = Path(made.spec.socket)
            path.unlink()
            path.write_text("another's")
            made.service.stop(0.0)
            await made.task
            assert path.read_text() == "another's"

        play(tmp_path, story)
