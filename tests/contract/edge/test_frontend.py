"""The frontend against a worker on a real unix socket: every way a request can end."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.contract.edge.fake_worker import FakeWorker
from tests.contract.edge.live_door import FixedRoutes, route, text_files
from thaloom.base.clock import ManualClock
from thaloom.base.errors import (
    BadParameter,
    DeadlineExceeded,
    ModelNotFound,
    PromptTooLong,
    QueueFull,
    ServiceFailed,
    ServiceLoading,
    ThaloomError,
    WorkerLost,
)
from thaloom.base.events import Recorder
from thaloom.base.ids import RequestId, ServiceName
from thaloom.kernel.state.types import Alias, Share
from thaloom.work.runtime.frontend.call import Deadlines
from thaloom.work.runtime.frontend.frontend import Frontend
from thaloom.work.runtime.frontend.prompting import Speech
from thaloom.work.runtime.types import (
    ChatMessage,
    Delta,
    Done,
    Embedding,
    EmbedRequest,
    GenerateRequest,
    Mark,
    Pin,
    Sampling,
    ScoreRequest,
    TokenizeRequest,
)

QUICK = Deadlines(connect_s=0.5, accept_s=0.05, silence_s=0.05, status_s=0.5)


class Scene:
    """A frontend, its routes, and one worker at w.sock."""

    def __init__(self, folder: Path, deadlines: Deadlines | None = None, **options: Any) -> None:
        self.folder = folder
        self.files = text_files(folder / "model")
        self.routes = FixedRoutes(route(folder, self.files))
        self.frontend = Frontend(self.routes, ManualClock(), Recorder(), deadlines=deadlines, **options)

    def reroute(self, **changes: Any) -> None:
        self.routes.routes = [route(self.folder, self.files, **changes)]


@contextlib.asynccontextmanager
async def scene(folder: Path, worker: FakeWorker, deadlines: Deadlines | None = None) -> AsyncIterator[Scene]:
    there = Scene(folder, deadlines)
    async with worker.listening(folder / "w.sock"):
        yield there
    there.frontend.close()


def ask(**changes: Any) -> GenerateRequest:
    prompt = {} if "prompt_tokens" in changes else {"prompt": "Hi"}
    return GenerateRequest(**{"id": RequestId("r"), "model": "tiny"} | prompt | changes)


async def answer(frontend: Frontend, request: GenerateRequest) -> tuple[str, Done]:
    items = [item async for item in await frontend.start(request)]
    assert isinstance(items[-1], Done)
    deltas = items[:-1]
    assert all(isinstance(item, Delta) for item in deltas)
    return "".join(item.text for item in deltas if isinstance(item, Delta)), items[-1]


def test_an_answer_comes_with_its_account(tmp_path: Path) -> None:
    async def run() -> None:
        worker = FakeWorker(tokens=[39, 72])
        async with scene(tmp_path, worker) as here:
            text, done = await answer(here.frontend, ask())
            assert (text, done.reason) == ("Hi", "stop")
            assert (done.prompt_tokens, done.completion_tokens, done.cached_tokens) == (2, 2, 16)
            assert (done.queue_s, done.prefill_s, done.decode_s) == (0.001, 0.002, 0.003)
            assert worker.requests[0].max_tokens == 254  # what the context still holds
            assert worker.requests[0].stop_tokens == [264, 266]
            assert worker.requests[0].temperature == 0.0  # the model's generation config

    asyncio.run(run())


def test_what_the_caller_says_of_sampling_goes_over_the_models_own(tmp_path: Path) -> None:
    async def run() -> None:
        worker = FakeWorker()
        async with scene(tmp_path, worker) as here:
            await answer(here.frontend, ask(sampling_changes={"temperature": 0.5, "seed": 7, "top_k": 3}))
            await answer(here.frontend, ask(sampling=Sampling(min_p=0.1), ignore_eos=True, logprobs=2))
            first, second = worker.requests
            assert (first.temperature, first.seed, first.top_k, first.top_p) == (0.5, 7, 3, 1.0)
            assert (second.min_p, second.temperature, second.stop_tokens, second.logprobs) == (0.1, 1.0, [], 2)
            with pytest.raises(BadParameter, match="top_p") as caught:
                await here.frontend.start(ask(sampling_changes={"top_p": 2.0}))
            assert caught.value.param == "top_p"

    asyncio.run(run())


def test_the_worker_is_told_how_many_tokens_are_to_stay(tmp_path: Path) -> None:
    async def run() -> None:
        worker = FakeWorker()
        async with scene(tmp_path, worker) as here:
            await answer(here.frontend, ask(pins=(Pin(seconds=60.0),)))
            messages = (ChatMessage(role="user", content="Hi"), ChatMessage(role="user", content="there"))
            marked = Pin(seconds=300.0, mark=Mark(num_characters=2))
            chat = GenerateRequest(id=RequestId("r"), model="tiny", messages=messages, pins=(marked, Pin(seconds=60.0)))
            await answer(here.frontend, chat)
            plain, spoken = worker.requests
            assert plain.pins == [(2, 60.0)]
            (few, hour), (most, minute) = spoken.pins
            assert (hour, minute, most) == (300.0, 60.0, len(spoken.prompt))
            assert 2 <= few < most

    asyncio.run(run())


def test_marks_of_a_prompt_that_is_too_long_are_not_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Speech, "pins_of", lambda *_: pytest.fail("looked for"))

    async def run() -> None:
        async with scene(tmp_path, FakeWorker()) as here:
            messages = (ChatMessage(role="user", content="Hi" * 1000),)
            marked = Pin(seconds=300.0, mark=Mark(num_characters=2))
            chat = GenerateRequest(id=RequestId("r"), model="tiny", messages=messages, pins=(marked,))
            with pytest.raises(PromptTooLong):
                await here.frontend.start(chat)

    asyncio.run(run())


def test_where_nothing_is_kept_a_wish_for_it_is_not_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Speech, "pins_of", lambda *_: pytest.fail("looked at"))

    async def run() -> None:
        worker = FakeWorker()
        async with scene(tmp_path, worker) as here:
            here.reroute(keeps_prompts=False)
            messages = (ChatMessage(role="user", content="Hi"), ChatMessage(role="user", content="there"))
            marked = Pin(seconds=300.0, mark=Mark(num_characters=2))
            chat = GenerateRequest(id=RequestId("r"), model="tiny", messages=messages, pins=(marked,))
            for request in (ask(pins=(Pin(seconds=60.0),)), chat):
                await answer(here.frontend, request)
            assert [asked.pins for asked in worker.requests] == [[], []]

    asyncio.run(run())


def test_a_stop_string_ends_the_request_at_the_worker_too(tmp_path: Path) -> None:
    async def run() -> None:
        worker = FakeWorker(tokens=[32, 33, 34], endless=True)
        async with scene(tmp_path, worker) as here:
            text, done = await answer(here.frontend, ask(stop=("CA",)))
            await worker.until_idle()
            assert (text, done.reason, done.completion_tokens) == ("AB", "stop", 4)
            assert (done.cached_tokens, done.pinned_tokens) == (16, 32)
            assert (done.queue_s, done.prefill_s) == (0.001, 0.002)
            assert worker.num_cancelled == 1

    asyncio.run(run())


def test_a_full_length_is_told_as_such(tmp_path: Path) -> None:
    async def run() -> None:
        async with scene(tmp_path, FakeWorker(tokens=[32], endless=True)) as here:
            text, done = await answer(here.frontend, ask(max_tokens=5))
            assert (text, done.reason, done.completion_tokens) == ("AAAAA", "length", 5)

    asyncio.run(run())


@pytest.mark.parametrize("read_first", [False, True])
def test_closing_an_answer_cancels_the_request(tmp_path: Path, read_first: bool) -> None:
    async def run() -> None:
        worker = FakeWorker(tokens=[32], endless=True)
        async with scene(tmp_path, worker) as here:
            stream = await here.frontend.start(ask())
            if read_first:
                await anext(stream)
            await stream.aclose()  # type: ignore[attr-defined]
            await worker.until_idle()
            assert worker.num_cancelled == 1
            with pytest.raises(StopAsyncIteration):
                await anext(stream)

    asyncio.run(run())


def test_a_prompt_that_does_not_fit_is_refused_before_the_worker_is_asked(tmp_path: Path) -> None:
    async def run() -> None:
        worker = FakeWorker()
        async with scene(tmp_path, worker) as here:
            with pytest.raises(PromptTooLong, match=r"256 tokens.*256") as caught:
                await here.frontend.start(ask(prompt="A" * 256))
            assert caught.value.param == "prompt"
            with pytest.raises(PromptTooLong, match=r"2 tokens and 255 more.*256") as caught:
                await here.frontend.start(ask(max_tokens=255))
            assert caught.value.details == {"prompt_tokens": 2, "max_tokens": 255, "context_length": 256}
            assert worker.requests == []
            await answer(here.frontend, ask(max_tokens=254))

    asyncio.run(run())


def test_a_model_nobody_serves_is_refused_with_those_that_are(tmp_path: Path) -> None:
    async def run() -> None:
        async with scene(tmp_path, FakeWorker()) as here:
            with pytest.raises(ModelNotFound, match=r"'other'.*served: tiny"):
                await here.frontend.start(ask(model="other"))
            await answer(here.frontend, ask(model="tiny:latest"))
            here.routes.routes = []
            with pytest.raises(ModelNotFound, match="served: none"):
                await here.frontend.start(ask())

    asyncio.run(run())


@pytest.mark.parametrize("phase", ["pending", "loading", "stopping"])
def test_a_service_that_is_not_ready_says_when_to_come_back(tmp_path: Path, phase: str) -> None:
    async def run() -> None:
        async with scene(tmp_path, FakeWorker()) as here:
            here.reroute(phase=phase, sockets=(), reason="reading weights", retry_after_s=3.0)
            with pytest.raises(ServiceLoading, match=f"{phase}: reading weights") as caught:
                await here.frontend.start(ask())
            assert caught.value.retry_after_s == 3.0

    asyncio.run(run())


def test_a_service_that_failed_says_why(tmp_path: Path) -> None:
    async def run() -> None:
        async with scene(tmp_path, FakeWorker()) as here:
            here.reroute(phase="failed", sockets=(), reason="no memory")
            with pytest.raises(ServiceFailed, match="no memory"):
                await here.frontend.start(ask())

    asyncio.run(run())


def test_the_workers_own_refusal_comes_through_as_it_is(tmp_path: Path) -> None:
    async def run() -> None:
        worker = FakeWorker(refuse_with=QueueFull("128 are waiting", retry_after_s=4.0))
        async with scene(tmp_path, worker) as here:
            with pytest.raises(QueueFull, match="128 are waiting") as caught:
                await here.frontend.start(ask())
            assert caught.value.retry_after_s == 4.0
            await worker.until_idle()

    asyncio.run(run())


def test_a_worker_that_dies_in_the_middle_is_lost_and_not_an_end(tmp_path: Path) -> None:
    async def run() -> None:
        async with scene(tmp_path, FakeWorker(tokens=[32, 33], die_after=1)) as here:
            stream = await here.frontend.start(ask())
            assert isinstance(await anext(stream), Delta)
            with pytest.raises(WorkerLost):
                await anext(stream)
            with pytest.raises(StopAsyncIteration):
                await anext(stream)

    asyncio.run(run())


def test_nobody_at_the_socket_means_come_back_soon(tmp_path: Path) -> None:
    async def run() -> None:
        here = Scene(tmp_path)
        with pytest.raises(ServiceLoading) as caught:
            await here.frontend.start(ask())
        assert caught.value.retry_after_s == 1.0
        here.frontend.close()

    asyncio.run(run())


class MovingRoutes(FixedRoutes):
    """Leads to the first route at first, and to the last from the second question on."""

    def current(self) -> Any:
        snapshot = super().current()
        self.routes = self.routes[-1:]
        return type(snapshot)(version=1, published_at=0.0, control_socket="", routes=snapshot.routes[:1])


def test_a_request_nobody_saw_goes_to_the_new_worker_in_silence(tmp_path: Path) -> None:
    async def run() -> None:
        files = text_files(tmp_path / "model")
        gone = route(tmp_path, files, sockets=(str(tmp_path / "gone.sock"),))
        frontend = Frontend(MovingRoutes(gone, route(tmp_path, files)), ManualClock(), Recorder())
        async with FakeWorker(tokens=[39]).listening(tmp_path / "w.sock"):
            assert (await answer(frontend, ask()))[0] == "H"
        frontend.close()

    asyncio.run(run())


def test_a_worker_that_dies_before_its_first_token_is_replaced_in_silence_only_if_there_is_another(
    tmp_path: Path,
) -> None:
    async def run() -> None:
        dying = FakeWorker(tokens=[32], die_after=0)
        async with scene(tmp_path, dying) as here:
            with pytest.raises(WorkerLost):
                await answer(here.frontend, ask())
            async with FakeWorker(tokens=[39]).listening(tmp_path / "new.sock"):
                stream = await here.frontend.start(ask())
                here.reroute(sockets=(str(tmp_path / "new.sock"),))
                items = [item async for item in stream]
            assert isinstance(items[0], Delta)
            assert items[0].text == "H"
            assert dying.requests[1].seed  # the same request, seed and all, went to the other

    asyncio.run(run())


@pytest.mark.parametrize("worker", [FakeWorker(silent=True), FakeWorker(tokens=[32], pause=asyncio.Event())])
def test_a_worker_that_falls_silent_is_not_waited_for_for_ever(tmp_path: Path, worker: FakeWorker) -> None:
    async def run() -> None:
        worker.idle = asyncio.Event()
        worker.idle.set()
        if worker.pause is not None:
            worker.pause = asyncio.Event()
        async with scene(tmp_path, worker, QUICK) as here:
            with pytest.raises(DeadlineExceeded):
                await answer(here.frontend, ask())
            await worker.until_idle()
            assert worker.num_cancelled == 1

    asyncio.run(run())


def test_whether_the_worker_is_degraded_is_part_of_every_answer(tmp_path: Path) -> None:
    async def run() -> None:
        async with scene(tmp_path, FakeWorker(tokens=[39], degraded="no compiler")) as here:
            for stop in ((), ("H",)):
                assert (await answer(here.frontend, ask(stop=stop)))[1].degraded == "no compiler"

    asyncio.run(run())


def test_a_request_given_up_while_it_begins_is_cancelled_too(tmp_path: Path) -> None:
    async def run() -> None:
        worker = FakeWorker(pause=asyncio.Event(), silent_status=True)
        async with scene(tmp_path, worker) as here:
            starting = asyncio.create_task(here.frontend.start(ask()))
            async with asyncio.timeout(30):
                while not worker.num_open:
                    await asyncio.sleep(0.005)
            starting.cancel()
            await asyncio.wait([starting])
            await worker.until_idle()
            assert worker.num_cancelled == 1

    asyncio.run(run())


def test_a_worker_that_does_not_tell_its_status_answers_all_the_same(tmp_path: Path) -> None:
    async def run() -> None:
        deadlines = Deadlines(status_s=0.02)
        async with scene(tmp_path, FakeWorker(tokens=[39], silent_status=True), deadlines) as here:
            text, done = await answer(here.frontend, ask())
            assert (text, done.degraded) == ("H", None)

    asyncio.run(run())


def test_workers_are_measured_and_a_missing_one_is_down_not_zero(tmp_path: Path) -> None:
    async def run() -> None:
        async with scene(tmp_path, FakeWorker()) as here:
            here.routes.routes += [
                route(tmp_path, here.files, name="gone", sockets=(str(tmp_path / "no.sock"),)),
                route(tmp_path, here.files, name="early", sockets=(), phase="pending"),
            ]
            records = await here.frontend.worker_metrics()
            assert [(record["service"], record["up"]) for record in records] == [("tiny", True), ("gone", False)]
            assert records[0]["num_blocks"] == 64
            assert set(records[1]) == {"service", "model", "up"}

    asyncio.run(run())


def test_models_are_listed_with_what_a_caller_needs(tmp_path: Path) -> None:
    here = Scene(tmp_path)
    (model,) = here.frontend.models()
    assert (model.name, model.ready, model.context_length) == ("tiny", True, 256)
    here.frontend.close()


def test_texts_become_tokens_and_tokens_texts_without_a_worker(tmp_path: Path) -> None:
    async def run() -> None:
        there = Scene(tmp_path)
        there.reroute(phase="loading", sockets=())
        told = await there.frontend.tokenize(TokenizeRequest(model="tiny", prompt="Hi"))
        assert (told.tokens, told.texts, told.context_length) == ((39, 72), ("H", "i"), 256)
        assert await there.frontend.detokenize("tiny", told.tokens) == "Hi"
        chat = TokenizeRequest(model="tiny", messages=(ChatMessage(role="user", content="Hi"),))
        rendered = await there.frontend.detokenize("tiny", (await there.frontend.tokenize(chat)).tokens)
        assert "Hi" in rendered
        assert rendered != "Hi"
        info = await there.frontend.tokenizer_info("tiny")
        assert (info.stop_tokens, info.context_length) == ((264, 266), 256)
        assert info.chat_template is not None
        with pytest.raises(BadParameter, match=r"tokens\[1\] is 9999"):
            await there.frontend.detokenize("tiny", (1, 9999))
        for asked in (there.frontend.tokenizer_info("no"), there.frontend.detokenize("no", ())):
            with pytest.raises(ModelNotFound):
                await asked
        there.frontend.close()

    asyncio.run(run())


def test_an_embedding_is_cut_and_normalised_as_asked(tmp_path: Path) -> None:
    async def run() -> None:
        worker = FakeWorker()
        async with scene(tmp_path, worker) as here:

            async def embed(**changes: Any) -> Embedding:
                return await here.frontend.embed(
                    EmbedRequest(**{"id": RequestId("e"), "model": "tiny", "text": "Hiiii"} | changes)
                )

            plain = await embed(normalize=False)
            assert (plain.values, plain.prompt_tokens) == ((3.0, 4.0, 5.0), 5)
            assert (await embed(dimensions=2)).values == (0.6, 0.8)
            assert (await embed(text=None, tokens=(39, 72), normalize=False)).values == (3.0, 4.0, 2.0)
            await embed(pooling="last")
            assert [asked.pooling for asked in worker.embeds] == ["mean", "mean", "mean", "last"]
            with pytest.raises(BadParameter, match="3 numbers, not 4") as caught:
                await embed(dimensions=4)
            assert caught.value.param == "dimensions"
            with pytest.raises(PromptTooLong, match="300 tokens; the context of 'tiny' holds 256"):
                await embed(text="x" * 300)
            with pytest.raises(BadParameter, match="not one token") as caught:
                await embed(text=None, tokens=())
            assert caught.value.param == "input"

    asyncio.run(run())


def test_documents_are_judged_by_yes_and_no(tmp_path: Path) -> None:
    async def run() -> None:
        worker = FakeWorker(tokens=[39])
        async with scene(tmp_path, worker) as here:
            asked = ScoreRequest(id=RequestId("s"), model="tiny", query="q", documents=("a", "b"))
            told = await here.frontend.score(asked)
            assert [round(value, 3) for value in told.values] == [0.731, 0.731], "one more for yes than for no"
            assert told.prompt_tokens == sum(len(request.prompt) for request in worker.requests)
            for request in worker.requests:
                assert (request.max_tokens, request.logprobs, request.temperature) == (1, 0, 0.0)
                assert len(set(request.report)) == 2
            worker.refuse_with = QueueFull("full", retry_after_s=1.0)
            with pytest.raises(QueueFull):
                await here.frontend.score(asked)

    asyncio.run(run())


@contextlib.asynccontextmanager
async def two_workers(folder: Path, first: FakeWorker, second: FakeWorker) -> AsyncIterator[Scene]:
    there = Scene(folder)
    there.reroute(sockets=(str(folder / "w.sock"), str(folder / "v.sock")))
    async with first.listening(folder / "w.sock"), second.listening(folder / "v.sock"):
        yield there
    there.frontend.close()


def test_requests_are_spread_and_a_conversation_stays_where_it_is(tmp_path: Path) -> None:
    async def run() -> None:
        first, second = FakeWorker(tokens=[39]), FakeWorker(tokens=[39])
        async with two_workers(tmp_path, first, second) as here:
            held = [await here.frontend.start(ask(prompt=f"{number} " * 3)) for number in range(6)]
            assert (len(first.requests), len(second.requests)) == (3, 3)
            for answering in held:
                await answering.aclose()  # type: ignore[attr-defined]
            talk = "A long beginning of a conversation that both workers could serve. "
            for turn in range(1, 4):
                await answer(here.frontend, ask(prompt=talk * turn))
            mine = [len([r for r in each.requests if len(r.prompt) > 30]) for each in (first, second)]
            assert sorted(mine) == [0, 3]

    asyncio.run(run())


@pytest.mark.parametrize("refusal", [QueueFull("full", retry_after_s=1.0), ServiceLoading("not yet")])
def test_a_worker_that_has_no_place_is_passed_over(tmp_path: Path, refusal: ThaloomError) -> None:
    async def run() -> None:
        full, free = FakeWorker(refuse_with=refusal), FakeWorker(tokens=[39, 72])
        async with two_workers(tmp_path, full, free) as here:
            assert (await answer(here.frontend, ask()))[0] == "Hi"
            assert len(free.requests) == 1
            free.refuse_with = refusal
            with pytest.raises(type(refusal)):
                await here.frontend.start(ask())

    asyncio.run(run())


def test_a_worker_that_dies_before_its_first_word_is_replaced_by_the_other(tmp_path: Path) -> None:
    async def run() -> None:
        dying, sound = FakeWorker(tokens=[39], die_after=0), FakeWorker(tokens=[39, 72])
        async with two_workers(tmp_path, dying, sound) as here:
            for _ in range(4):
                assert (await answer(here.frontend, ask()))[0] == "Hi"
            assert len(sound.requests) == 4

    asyncio.run(run())


def test_an_alias_stands_for_its_services_by_their_weights(tmp_path: Path) -> None:
    async def run() -> None:
        old, new = FakeWorker(tokens=[39]), FakeWorker(tokens=[72])
        draws = iter([0.0, 0.74, 0.76, 0.99, 0.99])
        async with aliased(tmp_path, old, new, weights=(3, 1), draw=lambda: next(draws)) as (here, _):
            texts = [(await answer(here.frontend, ask(model="chat")))[0] for _ in range(4)]
            assert texts == ["H", "H", "i", "i"]
            names = [(model.name, model.ready) for model in here.frontend.models()]
            assert names == [("old", True), ("new", True), ("chat", True)]
            here.routes.routes = [route for route in here.routes.routes if route.name == "old"]
            assert (await answer(here.frontend, ask(model="chat:latest")))[0] == "H", "one that is gone has no share"
            here.routes.routes = []
            with pytest.raises(ModelNotFound, match="not there any more"):
                await here.frontend.start(ask(model="chat"))

    asyncio.run(run())


def test_a_canary_that_fails_gets_no_more_requests(tmp_path: Path) -> None:
    async def run() -> None:
        old, new = FakeWorker(tokens=[39]), FakeWorker(tokens=[72], die_after=1)
        draws = itertools.cycle([0.0, 0.9])
        async with aliased(tmp_path, old, new, weights=(1, 1), draw=lambda: next(draws), canary=True) as (here, told):
            for _ in range(20):
                with contextlib.suppress(WorkerLost):
                    await answer(here.frontend, ask(model="chat"))
            assert len(old.requests) + len(new.requests) == 20
            assert len(new.requests) < 6, "it was sent home"
            assert [(alias.name, "failed" in reason) for alias, reason in told] == [("chat", True)]
            before = len(new.requests)
            here.routes.aliases = (dataclasses.replace(here.routes.aliases[0], revision=2),)
            for _ in range(2):
                with contextlib.suppress(WorkerLost):
                    await answer(here.frontend, ask(model="chat"))
            assert len(new.requests) == before + 1, "a changed alias is tried anew"

    asyncio.run(run())


@contextlib.asynccontextmanager
async def aliased(
    folder: Path,
    old: FakeWorker,
    new: FakeWorker,
    *,
    weights: tuple[int, int],
    draw: Callable[[], float],
    canary: bool = False,
) -> AsyncIterator[tuple[Scene, list[tuple[Alias, str]]]]:
    told: list[tuple[Alias, str]] = []
    there = Scene(folder, draw=draw, on_return=lambda alias, reason: told.append((alias, reason)))
    names = [ServiceName("old"), ServiceName("new")]
    there.routes.routes = [
        route(folder, there.files, name=name, sockets=(str(folder / f"{name}.sock"),)) for name in names
    ]
    shares = tuple(Share(service=name, weight=weight) for name, weight in zip(names, weights, strict=True))
    there.routes.aliases = (Alias(name=ServiceName("chat"), shares=shares, canary=names[1] if canary else None),)
    async with old.listening(folder / "old.sock"), new.listening(folder / "new.sock"):
        yield there, told
    there.frontend.close()
