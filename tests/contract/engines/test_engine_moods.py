"""A foreign engine in every mood: what its callers get is an answer or one typed error, and nothing stays behind."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.contract.engines.site import FAKE, asked, guest, install, question, some_gguf
from tests.contract.runtime.harness import error_of
from tests.models import make_model
from tests.system.node import eventually
from thaloom.base.clock import SystemClock
from thaloom.base.errors import DriverUnavailable, ServiceFailed, UnsafeFormat, WorkerLost
from thaloom.base.ids import RequestId
from thaloom.work.runtime.engines.http import Waits
from thaloom.work.runtime.engines.served import ForeignServed
from thaloom.work.runtime.events import EngineReady
from thaloom.work.runtime.messages import AskEmbedding, Embedded, Ended, Generate, Piece, Reply
from thaloom.work.runtime.types import Constraint, EmbedRequest, Tool


def text_of(replies: list[Reply]) -> str:
    return "".join(reply.delta.text for reply in replies if isinstance(reply, Piece))


def children_of_fakes(mark: str) -> list[int]:
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                if mark.encode() in (folder / "environ").read_bytes() and int(folder.name) != os.getpid():
                    found.append(int(folder.name))
            except OSError:
                continue
    return found


async def gone(mark: str) -> None:
    async with asyncio.timeout(20):
        while children_of_fakes(mark):
            await asyncio.sleep(0.02)


def test_an_answer_comes_in_pieces_with_its_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch)

    async def run() -> None:
        async with guest(tmp_path) as site:
            replies = await site.ask(question(sampling_changes={"temperature": 0.5, "seed": 3}, max_tokens=7))
            assert text_of(replies) == "Hello"
            done = replies[-1].done if isinstance(replies[-1], Ended) else None
            assert done is not None
            assert (done.reason, done.prompt_tokens, done.completion_tokens, done.cached_tokens) == ("stop", 5, 2, 2)
            assert done.degraded is not None
            assert "llama.cpp" in done.degraded
            stats = await site.status()
            assert stats.ready
            assert (stats.engine, stats.requests_total, stats.completion_tokens_total) == ("llama.cpp", 1, 2)
            assert stats.weight_bytes > 0
            assert stats.degraded
            assert site.events.of(EngineReady)
            sent = asked(tmp_path)[0]
            assert sent["path"] == "/v1/chat/completions"
            assert sent["body"]["temperature"] == 0.5
            assert sent["body"]["seed"] == 3
            assert sent["body"]["max_tokens"] == 7
            assert sent["body"]["messages"] == [{"role": "user", "content": "hi"}]
        await gone(str(tmp_path))
        assert b"fake engine" in (tmp_path / "engine.log").read_bytes()

    asyncio.run(run())


def test_a_completion_echoes_and_tells_logprobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch)

    async def run() -> None:
        async with guest(tmp_path) as site:
            replies = await site.ask(question(messages=None, prompt="Say: ", echo=True))
            assert text_of(replies) == "Say: Hello"
            replies = await site.ask(question(logprobs=1))
            told = [one for reply in replies if isinstance(reply, Piece) for one in reply.delta.logprobs]
            assert [(one.chosen.text, one.chosen.token, one.chosen.logprob) for one in told] == [
                ("Hel", 7, -0.5),
                ("lo", 7, -0.5),
            ]

    asyncio.run(run())


def test_an_embedding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch)

    async def run() -> None:
        async with guest(tmp_path) as site:
            request = EmbedRequest(id=RequestId("r"), model="guest", text="four")
            (_, reply) = await site.ask(AskEmbedding(request=request))
            assert isinstance(reply, Embedded)
            assert (reply.embedding.values, reply.embedding.prompt_tokens) == ((3.0, 4.0), 4)

    asyncio.run(run())


def test_what_it_cannot_do_is_refused_by_name_and_nothing_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, monkeypatch)

    async def run() -> None:
        async with guest(tmp_path) as site:
            for change, param in (
                ({"min_tokens": 3}, "min_tokens"),
                ({"stop_tokens": (5,)}, "stop_token_ids"),
                ({"include_stop": True}, "include_stop_str_in_output"),
                ({"constraint": Constraint(kind="regex", text="a+", param="regex")}, "regex"),
                ({"separate_reasoning": False}, "separate_reasoning"),
            ):
                error = error_of(await site.ask(question(**change)))
                assert (error["code"], error["param"]) == ("bad_parameter", param)
            token_request = Generate(
                id="r", prompt=[1], max_tokens=1, temperature=0, top_k=0, top_p=1, min_p=0, seed=0, stop_tokens=[],
                logprobs=None,
            )  # fmt: skip
            assert error_of(await site.ask(token_request))["code"] == "bad_request"
            assert asked(tmp_path) == []

    asyncio.run(run())


@pytest.mark.parametrize(
    ("told", "code"),
    [
        ({"mood": "cut"}, "worker_lost"),
        ({"mood": "no end", "chunks": [{"choices": [{"delta": {"content": "a"}}]}]}, "worker_lost"),
        ({"mood": "not http"}, "worker_lost"),
        ({"chunks": ["{not json"]}, "worker_lost"),
        ({"chunks": ["[1, 2]"]}, "worker_lost"),
        ({"chunks": [{"choices": [{"delta": {"content": 5}}]}]}, "worker_lost"),
        ({"chunks": [{"choices": [{"delta": {}, "finish_reason": "abort"}]}]}, "worker_lost"),
        ({"chunks": [{"error": {"message": "cuda died", "code": 500}}]}, "worker_lost"),
        ({"mood": "status", "status": 500, "answer": {"error": {"message": "boom"}}}, "worker_lost"),
        ({"mood": "status", "status": 500, "answer": "<html>boom"}, "worker_lost"),
        ({"mood": "status", "status": 400, "answer": {"error": {"message": "no", "param": "x"}}}, "bad_parameter"),
        (
            {
                "mood": "status",
                "status": 400,
                "answer": {"error": {"type": "exceed_context_size_error", "n_prompt_tokens": 9, "n_ctx": 8}},
            },
            "prompt_too_long",
        ),
        ({"mood": "status", "status": 400, "answer": {"message": "maximum context length is 8"}}, "prompt_too_long"),
        ({"mood": "status", "status": 429, "answer": {}, "headers": {"retry-after": "7"}}, "queue_full"),
        ({"mood": "status", "status": 503, "answer": {}}, "service_loading"),
        ({"mood": "status", "status": 501, "answer": {"error": {"message": "not supported"}}}, "not_servable"),
        ({"mood": "status", "status": 401, "answer": {}}, "service_failed"),
    ],
)
def test_a_bad_answer_is_one_typed_error_and_the_worker_goes_on(
    told: dict[str, Any], code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, monkeypatch, **told)

    async def run() -> None:
        async with guest(tmp_path) as site:
            error = error_of(await site.ask(question()))
            assert error["code"] == code, error
            if code == "queue_full":
                assert error["retry_after_s"] == 7.0
            stats = await site.status()
            assert stats.ready
            assert stats.failed_total == 1
            assert (stats.running, stats.waiting) == (0, 0)

    asyncio.run(run())


@pytest.mark.parametrize("mood", ["silent", "hang"])
def test_silence_has_a_deadline(mood: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch, mood=mood)
    init = ForeignServed.__init__
    monkeypatch.setattr(
        ForeignServed, "__init__", lambda self, engine, site: init(self, engine, site, Waits(silence_s=0.3))
    )

    async def run() -> None:
        async with guest(tmp_path) as site:
            assert error_of(await site.ask(question()))["code"] == "deadline_exceeded"

    asyncio.run(run())


def test_a_client_that_leaves_ends_its_request_at_the_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch, mood="endless")

    async def run() -> None:
        async with guest(tmp_path) as site:
            client = await site.connect()
            await client.say(question())
            await client.hear()
            assert isinstance(await client.hear(), Piece)
            client.writer.close()
            async with asyncio.timeout(20):
                while b"client went away" not in (tmp_path / "engine.log").read_bytes():
                    await asyncio.sleep(0.02)
            stats = await site.status()
            assert (stats.running, stats.waiting, stats.cancelled_total) == (0, 0, 1)

    asyncio.run(run())


def test_a_full_queue_is_refused_and_those_in_it_get_their_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, monkeypatch, mood="endless")

    async def run() -> None:
        async with guest(tmp_path, max_sequences=1, max_queue=1) as site:
            first, second = await site.connect(), await site.connect()
            await first.say(question())
            await first.hear()
            await second.say(question())
            await second.hear()
            assert error_of(await site.ask(question()))["code"] == "queue_full"
            stats = await site.status()
            assert (stats.running, stats.waiting) == (1, 1)
            first.writer.close()
            assert isinstance(await second.hear(), Piece)
            second.writer.close()

    asyncio.run(run())


def test_an_engine_that_dies_while_it_loads_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch, mood="die while loading")

    async def run() -> None:
        async with guest(tmp_path) as site:
            with pytest.raises(DriverUnavailable, match=r"cannot read the weights\nit ended with 9"):
                await site.task

    asyncio.run(run())


def test_an_engine_that_is_never_well_is_given_up_and_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch, mood="never healthy")

    class Impatient(SystemClock):
        """An hour passes once the engine was asked how it is."""

        def monotonic(self) -> float:
            asked_once = b"asked how it is" in (tmp_path / "engine.log").read_bytes()
            return super().monotonic() + (3600.0 if asked_once else 0.0)

    async def run() -> None:
        async with guest(tmp_path, ready_s=1800.0, clock=Impatient()) as site:
            with pytest.raises(ServiceFailed, match=r"(?s)not ready within 1800 s: .*503.*fake engine: never healthy"):
                await asyncio.wait_for(site.task, 30)
        await gone(str(tmp_path))

    asyncio.run(run())


def test_a_worker_asked_to_end_while_its_engine_hangs_ends_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, monkeypatch, mood="hang while loading")

    async def run() -> None:
        async with guest(tmp_path, ready=False) as site:
            await asyncio.sleep(0.3)
            site.service.stop(0.0)
            await asyncio.wait_for(site.task, 20)
        await gone(str(tmp_path))

    asyncio.run(run())


def test_an_engine_that_dies_takes_its_worker_along_with_its_last_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, monkeypatch, mood="die at a request")

    async def run() -> None:
        async with guest(tmp_path) as site:
            assert error_of(await site.ask(question()))["code"] == "worker_lost"
            with pytest.raises(WorkerLost, match=r"out of luck\nit ended with 3"):
                await asyncio.wait_for(site.task, 20)

    asyncio.run(run())


@pytest.mark.parametrize("mood", ["ignore SIGTERM", "with a child"])
def test_the_end_of_a_worker_is_the_end_of_all_its_engines_processes(
    mood: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, monkeypatch, mood=mood)

    async def run() -> None:
        async with guest(tmp_path) as site:
            assert len(children_of_fakes(str(tmp_path))) >= 2  # the keeper, the engine
            site.service.stop(0.0)
            await asyncio.wait_for(site.task, 30)
        await gone(str(tmp_path))

    asyncio.run(run())


def test_a_killed_worker_leaves_no_engine_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker here is a bare process that holds the keeper's rope."""
    install(tmp_path, monkeypatch, mood="ignore SIGTERM")
    code = (
        "import sys, time; from thaloom.work.runtime.engines.process import EngineProcess; import os;"
        f"EngineProcess([{sys.executable!r}, {str(FAKE)!r}], os.environ, grace_s=0.2); print('up', flush=True);"
        "time.sleep(3600)"
    )

    worker = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert worker.stdout is not None
    assert worker.stdout.readline() == b"up\n"
    eventually(lambda: len(children_of_fakes(str(tmp_path))) >= 3)
    worker.kill()
    worker.wait()
    worker.stdout.close()
    asyncio.run(gone(str(tmp_path)))


def test_an_engine_that_is_not_installed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    async def run() -> None:
        async with guest(tmp_path, engine="vllm", model=str(tmp_path)) as site:
            with pytest.raises(DriverUnavailable, match="pip install vllm"):
                await site.task

    asyncio.run(run())


def test_a_folder_of_pickles_is_not_given_to_an_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch, "vllm")
    folder = tmp_path / "pickled"
    folder.mkdir()
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04")
    (folder / "config.json").write_text("{}")

    async def run() -> None:
        async with guest(tmp_path, engine="vllm", model=str(folder)) as site:
            with pytest.raises(UnsafeFormat):
                await site.task

    asyncio.run(run())


def test_a_folder_is_served_by_vllm_in_its_own_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch, "vllm")
    folder = make_model(tmp_path / "model")

    async def run() -> None:
        async with guest(tmp_path, engine="vllm", model=str(folder), num_threads=1, context_length=128) as site:
            asked_for = question(
                min_tokens=2,
                stop_tokens=(5,),
                sampling_changes={"top_k": 0, "repetition_penalty": 1.5},
                constraint=Constraint(kind="regex", text="a+"),
            )
            replies = await site.ask(asked_for)
            assert text_of(replies) == "Hello"
            assert isinstance(replies[-1], Ended)
            assert "vLLM" in (replies[-1].done.degraded or "")
            assert (await site.status()).context_length == 128
        (sent,) = (entry["body"] for entry in asked(tmp_path))
        assert (sent["min_tokens"], sent["stop_token_ids"], sent["top_k"]) == (2, [5], -1)
        assert sent["repetition_penalty"] == 1.5
        assert sent["structured_outputs"] == {"regex": "a+"}
        await gone(str(tmp_path))

    asyncio.run(run())


def test_a_server_that_runs_already_is_asked_and_not_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = {"index": 0, "id": "call_9", "function": {"name": "look", "arguments": '{"a"'}}
    more = {"index": 0, "function": {"arguments": ":1}"}}
    monkeypatch.setenv(
        "FAKE_ENGINE",
        '{"chunks": ['
        f'{{"choices": [{{"delta": {{"tool_calls": [{_json(tool)}]}}}}]}},'
        f'{{"choices": [{{"delta": {{"tool_calls": [{_json(more)}]}}, "finish_reason": "stop"}}]}}]}}',
    )
    some_gguf(tmp_path)
    server = subprocess.Popen(
        [sys.executable, str(FAKE), "--tell-port"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert server.stdout is not None
    server.stdout.readline()
    port = int(server.stdout.readline().split()[1])

    async def run() -> None:
        url = f"http://127.0.0.1:{port}/v1"
        async with guest(tmp_path, engine="openai", model="there", url=url) as site:
            replies = await site.ask(question(tools=(Tool(name="look"),), tool_use="required"))
            calls = [call for reply in replies if isinstance(reply, Piece) for call in reply.delta.tool_calls]
            assert [(call.id, call.name, call.arguments) for call in calls] == [
                ("call_9", "look", '{"a"'),
                (None, None, ":1}"),
            ]
            assert isinstance(replies[-1], Ended)
            done = replies[-1].done
            assert done.reason == "tool_calls"
            assert done.degraded is not None
            assert "did not count" in done.degraded
            stats = await site.status()
            assert (stats.context_length, stats.weight_bytes) == (512, 0)
        async with guest(tmp_path, engine="openai", model="elsewhere", url=url) as site:
            with pytest.raises(ServiceFailed, match=r"no model 'elsewhere' \(it has: there\)"):
                await site.task

    try:
        asyncio.run(run())
        assert server.poll() is None
    finally:
        server.kill()
        server.wait()
        server.stdout.close()


def _json(value: Any) -> str:
    import json

    return json.dumps(value)
