"""The current `ollama` client, unmodified, over a real loopback socket, with a control API behind the door."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import httpx2
import ollama
import pytest
import uvicorn
from ollama import AsyncClient, ResponseError

from tests.contract.edge.doorkeepers import FixedKeys, bearer, guarded_door
from tests.contract.edge.live_door import LiveDoor
from tests.contract.edge.played_runtime import Scripted, calls, done, says, scripted_door, thinks
from tests.contract.edge.test_openai_client import in_door
from tests.gates import gate, own_uid
from tests.unit.edge_control.plane import MANIFEST, Plane, standing
from thaloom import __version__
from thaloom.base.errors import DiskFull, OutOfMemory, PromptTooLong, QueueFull, ServiceFailed, WorkerLost
from thaloom.base.ids import ServiceName
from thaloom.edge.api.control.plane import OnProgress
from thaloom.edge.api.control.routes import control_app
from thaloom.kernel.models.types import Manifest, ModelName
from thaloom.kernel.state.types import ServiceSpec, ServiceStatus
from thaloom.work.runtime.types import Delta, PositionLogprobs, ServedModel, TokenLogprob

USER: Any = [{"role": "user", "content": "hi"}]
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Tells the weather.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


class Store(Plane):
    """A node with some models, which loads what it is asked to as soon as it is asked how far it is."""

    def __init__(self, runtime: Scripted) -> None:
        super().__init__()
        self.runtime = runtime
        self.stored = {name: dataclasses.replace(MANIFEST, name=ModelName.parse(name)) for name in ("tiny", "big:q4")}
        self.removed: list[str] = []
        self.pulled: list[tuple[str, str, bool]] = []
        self.too_big = False
        self.broken = False

    async def models(self) -> Sequence[Manifest]:
        return list(self.stored.values())

    async def model(self, name: ModelName) -> Manifest:
        return self.stored[str(name)] if str(name) in self.stored else await super().model(name)

    def source(self, source: str) -> Path:
        if source != "tiny":
            return super().source(source)
        return Path("/bundled") / source

    async def pull(
        self, path: Path, name: ModelName | None, *, replace: bool, encrypt: bool | None, progress: OnProgress
    ) -> Manifest:
        self.pulled.append((str(path), str(name), replace))
        return await super().pull(path, name, replace=replace, encrypt=encrypt, progress=progress)

    async def remove_model(self, name: ModelName) -> None:
        await self.model(name)
        self.removed.append(str(name))

    async def serve(self, spec: ServiceSpec) -> ServiceStatus:
        if self.too_big:
            raise OutOfMemory("too big", needed_bytes=9, free_bytes=6)
        return await super().serve(spec)

    async def service(self, name: ServiceName) -> ServiceStatus:
        status = await super().service(name)
        if status.phase == "loading" and not self.broken:
            self.services_now[name] = standing(status.spec, "ready")
            self.runtime.served.append(
                ServedModel(name=name, ready=True, context_length=64, created_at=1_700_000_000.0)
            )
        elif self.broken:
            self.services_now[name] = standing(status.spec, "failed")
        return self.services_now[name]


Test = Callable[[AsyncClient, Scripted, Store], Awaitable[None]]


@contextlib.asynccontextmanager
async def controlled(plane: Plane, folder: Path) -> AsyncIterator[None]:
    config = uvicorn.Config(
        control_app(plane, gate(), peer=own_uid), uds=str(folder / "control.sock"), loop="asyncio", ws="none",
        log_config=None, timeout_graceful_shutdown=1,
    )  # fmt: skip
    server = uvicorn.Server(config)
    server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign,assignment]
    running = asyncio.create_task(server.serve())
    try:
        async with asyncio.timeout(30):
            while not server.started:
                await asyncio.sleep(0.005)
        yield
    finally:
        server.should_exit = True
        await running


def spoken(folder: Path, test: Test, runtime: Scripted | None = None, *, daemon: bool = True) -> None:
    async def run() -> None:
        script = runtime or Scripted()
        store = Store(script)
        store.services_now["tiny"] = standing(ServiceSpec(name=ServiceName("tiny"), model="tiny"), "ready")
        async with contextlib.AsyncExitStack() as stack:
            if daemon:
                await stack.enter_async_context(controlled(store, folder))
            url = await stack.enter_async_context(scripted_door(script, folder))
            client = await stack.enter_async_context(AsyncClient(host=url, timeout=10.0, trust_env=False))
            await test(client, script, store)

    asyncio.run(run())


def test_a_chat_is_answered_whole(tmp_path: Path) -> None:
    async def test(client: AsyncClient, script: Scripted, store: Store) -> None:
        script.play(*thinks("hm"), *says("Hel", "lo, 世界"), done())
        answer = await client.chat("tiny:latest", USER)
        assert (answer.model, answer.done, answer.done_reason) == ("tiny:latest", True, "stop")
        assert (answer.message.role, answer.message.content) == ("assistant", "Hello, 世界")
        assert answer.message.thinking == "hm"
        assert answer.created_at is not None
        assert (answer.prompt_eval_count, answer.eval_count) == (20, 7)
        assert (answer.prompt_eval_duration, answer.eval_duration) == (500_000_000, 1_000_000_000)
        assert (answer.load_duration, answer.total_duration) == (0, 1_750_000_000)
        assert script.request.model == "tiny"
        assert script.request.max_tokens is None
        assert script.request.templating.variables == {}

    spoken(tmp_path, test)


def test_a_chat_is_streamed(tmp_path: Path) -> None:
    async def test(client: AsyncClient, script: Scripted, store: Store) -> None:
        script.play(*thinks("h", "m"), *says("Hel", "", "lo"), done("length"))
        lines = [line async for line in await client.chat("tiny", USER, stream=True)]
        assert [line.message.content for line in lines] == ["", "", "Hel", "lo", ""]
        assert [line.message.thinking for line in lines] == ["h", "m", None, None, None]
        assert [line.done for line in lines] == [False] * 4 + [True]
        assert lines[-1].done_reason == "length"
        assert lines[-1].eval_count == 7
        assert lines[0].done_reason is None
        assert lines[0].eval_count is None

    spoken(tmp_path, test)


def test_streaming_is_what_happens_if_nobody_says(tmp_path: Path) -> None:
    async def test(client: AsyncClient, script: Scripted, store: Store) -> None:
        script.play(*says("x"), done())
        async with httpx2.AsyncClient(base_url=str(client._client.base_url), trust_env=False) as http:
            for path, body in (("/api/chat", {"messages": USER}), ("/api/generate", {"prompt": "hi"})):
                response = await http.post(path, json={"model": "tiny"} | body)
                assert response.headers["content-type"] == "application/x-ndjson"
                assert [json.loads(line)["done"] for line in response.text.splitlines()] == [False, True]

    spoken(tmp_path, test)


def test_a_prompt_is_completed(tmp_path: Path) -> None:
    async def test(client: AsyncClient, script: Scripted, store: Store) -> None:
        script.play(*says("Blue", "."), done())
        answer = await client.generate("tiny", "Why?", system="Be brief.")
        assert (answer.response, answer.done_reason) == ("Blue.", "stop")
        assert [(turn.role, turn.content) for turn in script.request.messages or ()] == [
            ("system", "Be brief."), ("user", "Why?"),
        ]  # fmt: skip
        lines = [line async for line in await client.generate("tiny", "Why?", stream=True, raw=True)]
        assert [line.response for line in lines] == ["Blue", ".", ""]
        assert (script.request.prompt, script.request.messages) == ("Why?", None)
        script.template = None  # a model that only goes on with texts
        await client.generate("tiny", "Why?")
        assert (script.request.prompt, script.request.messages) == ("Why?", None)

    spoken(tmp_path, test)


def test_calls_are_told_whole(tmp_path: Path) -> None:
    async def test(client: AsyncClient, script: Scripted, store: Store) -> None:
        script.play(*says("Look"), *calls(0, "weather", '{"city":', '"A"}'), *calls(1, "weather", '{"city":"B"}'),
                    done("tool_calls"))  # fmt: skip
        whole = await client.chat("tiny", USER, tools=[WEATHER])
        lines = [line async for line in await client.chat("tiny", USER, tools=[WEATHER], stream=True)]
        streamed = [call for line in lines for call in line.message.tool_calls or ()]
        for told in (whole.message.tool_calls or (), streamed):
            assert [(call.function.name, call.function.arguments) for call in told] == [
                ("weather", {"city": "A"}), ("weather", {"city": "B"}),
            ]  # fmt: skip
        assert lines[-1].done
        assert lines[-1].message.tool_calls is None
        assert (whole.done_reason, lines[-1].done_reason) == ("stop", "stop")
        (tool,) = script.request.tools
        assert (tool.name, tool.parameters["required"]) == ("weather", ["city"])
        script.play(*says("Rain."), done())
        await client.chat("tiny", [*USER, whole.message, {"role": "tool", "content": "wet", "tool_name": "weather"}])
        _, assistant, result = script.request.messages or ()
        (first, _) = assistant.extra["tool_calls"]
        assert first["function"] == {"name": "weather", "arguments": {"city": "A"}}
        assert (result.role, result.content, result.extra) == ("tool", "wet", {"name": "weather"})

    def add(a: int, b: int) -> int:
        """Add.

        Args:
            a: one
            b: another
        """
        return a + b

    async def with_a_function(client: AsyncClient, script: Scripted, store: Store) -> None:
        script.play(*says("3"), done())
        await client.chat("tiny", USER, tools=[add])
        assert script.request.tools[0].parameters["properties"]["a"]["type"] == "integer"

    spoken(tmp_path, test)
    spoken(tmp_path, with_a_function)


def test_how_an_answer_is_made(tmp_path: Path) -> None:
    async def test(client: AsyncClient, script: Scripted, store: Store) -> None:
        script.play(*says("{}"), done())
        options = ollama.Options(
            num_predict=9, temperature=0.5, top_k=4, top_p=0.5, seed=7, stop=["END"], repeat_penalty=1.2,
            presence_penalty=0.5, frequency_penalty=0.25, num_ctx=4096, num_gpu=1, num_thread=4, use_mmap=True,
        )  # fmt: skip
        schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
        await client.chat("tiny", USER, options=options, format=schema, think="high", keep_alive="5m")
        asked = script.request
        assert (asked.max_tokens, asked.up_to_context, asked.stop) == (9, True, ("END",))
        assert asked.sampling_changes == {
            "temperature": 0.5, "top_k": 4, "top_p": 0.5, "seed": 7, "repetition_penalty": 1.2,
            "presence_penalty": 0.5, "frequency_penalty": 0.25,
        }  # fmt: skip
        assert asked.constraint is not None
        assert json.loads(asked.constraint.text) == schema
        assert asked.templating.variables == {
            "enable_thinking": True, "thinking": True, "reasoning_effort": "high",
        }  # fmt: skip
        await client.generate("tiny", "x", format="json", think=False, options={"num_predict": -1})
        assert script.request.constraint is not None
        assert script.request.constraint.kind == "json_object"
        assert script.request.max_tokens is None
        assert script.request.templating.variables["enable_thinking"] is False

    spoken(tmp_path, test)


def test_logprobs(tmp_path: Path) -> None:
    token = TokenLogprob(token=1, text="Hi", data=b"Hi", logprob=-0.5)
    rare = TokenLogprob(token=2, text="Ho", data=b"Ho", logprob=float("-inf"))

    async def test(client: AsyncClient, script: Scripted, store: Store) -> None:
        script.play(
            Delta(text="Hi", num_tokens=1, logprobs=(PositionLogprobs(chosen=token, top=(token, rare)),)), done()
        )
        whole = await client.generate("tiny", "x", logprobs=True, top_logprobs=2)
        lines = [line async for line in await client.chat("tiny", USER, logprobs=True, top_logprobs=2, stream=True)]
        for told in (whole.logprobs, lines[0].logprobs):
            assert told is not None
            assert (told[0].token, told[0].logprob) == ("Hi", -0.5)
            assert [top.logprob for top in told[0].top_logprobs or ()] == [-0.5, -9999.0]
        assert script.request.logprobs == 2

    spoken(tmp_path, test)


def test_texts_are_embedded(tmp_path: Path) -> None:
    async def test(client: AsyncClient, script: Scripted, store: Store) -> None:
        answer = await client.embed("tiny", ["a", "bcd"], dimensions=3)
        assert answer.embeddings == [[1.0, 0.5, 0.25], [3.0, 0.5, 0.25]]
        assert (answer.model, answer.prompt_eval_count) == ("tiny", 6)
        assert [(asked.normalize, asked.dimensions) for asked in script.embedded] == [(True, 3)] * 2
        assert len({asked.id for asked in script.embedded}) == 2
        assert (await client.embed("tiny", "ab")).embeddings == [[2.0, 0.5, 0.25]]
        assert (await client.embed("tiny", "")).embeddings == []
        assert (await client.embeddings("tiny", "ab")).embedding == [2.0, 0.5, 0.25]
        assert script.embedded[-1].normalize is False
        assert (await client.embeddings("tiny")).embedding == []
        script.refuse_with = PromptTooLong("too long")
        with pytest.raises(ResponseError, match="too long") as caught:
            await client.embed("tiny", ["a"] * 40)
        assert caught.value.status_code == 400

    spoken(tmp_path, test)


def test_what_is_stored_and_served_is_listed(tmp_path: Path) -> None:
    async def test(client: AsyncClient, script: Scripted, store: Store) -> None:
        store.services_now["mine"] = standing(ServiceSpec(name=ServiceName("mine"), model="tiny"), "loading")
        listed = (await client.list()).models
        assert [model.model for model in listed] == ["tiny:latest", "big:q4", "mine:latest"]
        assert listed[0].digest == MANIFEST.digest
        assert listed[0].size == 7
        assert listed[0].details is not None
        assert (listed[0].details.family, listed[0].details.quantization_level) == ("llama", "BF16")
        (loaded,) = (await client.ps()).models
        assert (loaded.model, loaded.name) == ("tiny:latest", "tiny:latest")
        assert loaded.expires_at is not None
        assert loaded.expires_at.year == 9999
        shown = await client.show("tiny")
        assert shown.template == script.template
        assert shown.capabilities == ["completion", "tools", "thinking"]
        assert shown.modelinfo is not None
        assert shown.modelinfo["llama.context_length"] == 64
        assert shown.details is not None
        assert shown.details.format == "safetensors"
        stored = await client.show("big:q4")
        assert (stored.template, stored.capabilities) == (None, ["completion"])
        assert (await client.show("mine")).details == shown.details
        with pytest.raises(ResponseError) as caught:
            await client.show("none")
        assert caught.value.status_code == 404

    spoken(tmp_path, test)


def test_models_are_copied_and_deleted(tmp_path: Path) -> None:
    async def test(client: AsyncClient, script: Scripted, store: Store) -> None:
        assert (await client.copy("tiny", "library/Mine:v2")).status == "success"
        assert store.copied == (ModelName("tiny"), ModelName("mine", "v2"), True)
        assert (await client.delete("big:q4")).status == "success"
        assert store.removed == ["big:q4"]
        for refused in (client.delete("none"), client.copy("none", "x")):
            with pytest.raises(ResponseError) as caught:
                await refused
            assert caught.value.status_code == 404

    spoken(tmp_path, test)


def test_a_model_is_pulled(tmp_path: Path) -> None:
    async def test(client: AsyncClient, script: Scripted, store: Store) -> None:
        lines = []
        async for line in await client.pull("tiny:latest", stream=True):
            lines.append(line)
            store.gate.set()
        assert (lines[0].status, lines[0].completed, lines[0].total) == ("pulling tiny:latest: importing", 3, 7)
        assert lines[-1].status == "success"
        assert (await client.pull("tiny")).status == "success"
        assert store.pulled[0] == ("/bundled/tiny", "tiny", True)
        with pytest.raises(ResponseError, match="no absolute path") as caught:
            await client.pull("llama3.2")
        assert caught.value.status_code == 404
        for name in ("/etc/passwd", "../x", "a b", "x/../y"):
            with pytest.raises(ResponseError, match="model: String should match"):
                await client.pull(name)

    spoken(tmp_path, test)


def test_a_pull_that_fails_midway_says_so_in_its_last_line(tmp_path: Path) -> None:
    async def test(client: AsyncClient, script: Scripted, store: Store) -> None:
        store.fault = DiskFull("no space")
        with pytest.raises(ResponseError, match="no space"):
            async for line in await client.pull("tiny", stream=True):
                assert line.total == 7
                store.gate.set()
        store.gate.clear()
        pulling = asyncio.create_task(client.pull("tiny"))
        async with asyncio.timeout(30):
            while len(store.pulled) < 2:
                await asyncio.sleep(0.005)
        store.gate.set()
        with pytest.raises(ResponseError, match="no space") as caught:
            await pulling
        assert caught.value.status_code == 507

    spoken(tmp_path, test)


def test_who_leaves_ends_the_pull(tmp_path: Path) -> None:
    async def test(client: AsyncClient, script: Scripted, store: Store) -> None:
        async with contextlib.aclosing(await client.pull("tiny", stream=True)) as lines:
            await anext(lines)
        async with asyncio.timeout(30):
            await store.cancelled.wait()

    spoken(tmp_path, test)


def test_a_stored_model_is_loaded_when_it_is_asked_for(tmp_path: Path) -> None:
    async def test(client: AsyncClient, script: Scripted, store: Store) -> None:
        script.play(*says("Hi"), done())
        answer = await client.chat("hub.example/org/Big:q4", USER)
        assert answer.message.content == "Hi"
        assert answer.model == "hub.example/org/Big:q4"
        assert script.request.model == "big:q4"
        assert store.services_now["big:q4"].spec.model == "big:q4"
        assert answer.load_duration is not None
        assert answer.load_duration > 0

    spoken(tmp_path, test)


def test_with_nothing_to_say_a_model_is_loaded_or_unloaded(tmp_path: Path) -> None:
    async def test(client: AsyncClient, script: Scripted, store: Store) -> None:
        loaded = await client.generate("big:q4")
        assert (loaded.done, loaded.done_reason, loaded.response) == (True, "load", "")
        assert "big:q4" in store.services_now
        unloaded = await client.chat("big:q4", keep_alive=0)
        assert (unloaded.done_reason, unloaded.message.content) == ("unload", "")
        assert store.services_now["big:q4"].phase == "idle"
        assert (await client.generate("tiny", keep_alive="0s")).done_reason == "unload"
        assert store.services_now["tiny"].phase == "idle"
        assert (await client.generate("big:q4", keep_alive=0)).done_reason == "unload"
        with pytest.raises(ResponseError) as caught:
            await client.generate("none", keep_alive=0)
        assert caught.value.status_code == 404
        assert script.requests == []

    spoken(tmp_path, test)


def test_how_long_a_model_stays_is_told_to_the_node(tmp_path: Path) -> None:
    async def test(client: AsyncClient, script: Scripted, store: Store) -> None:
        def kept() -> float:
            return store.services_now["tiny"].keep_alive_s

        script.play(*says("Hi"), done())
        await client.chat("tiny", USER)
        assert kept() == -1.0, "nobody said anything"
        await client.chat("tiny", USER, keep_alive="5m")
        assert kept() == 300.0
        [line async for line in await client.generate("tiny", "x", stream=True, keep_alive=90)]
        assert kept() == 90.0
        await client.generate("tiny", keep_alive="1h")
        assert kept() == 3600.0
        await client.embed("tiny", "x", keep_alive="-1")
        assert kept() == -1.0
        await client.chat("tiny", USER, keep_alive=0)
        async with asyncio.timeout(30):
            while store.services_now["tiny"].phase != "idle":  # once it was answered
                await asyncio.sleep(0.001)

    spoken(tmp_path, test)


def test_what_stays_how_long_is_told(tmp_path: Path) -> None:
    async def test(client: AsyncClient, script: Scripted, store: Store) -> None:
        def of(**facts: Any) -> None:
            store.services_now["tiny"] = dataclasses.replace(store.services_now["tiny"], **facts)

        async def expires() -> Any:
            (loaded,) = (await client.ps()).models
            return loaded.expires_at

        assert (await expires()).year == 9999
        of(keep_alive_s=300.0, unload_at=2_000_000_000.0)
        assert (await expires()).timestamp() == 2_000_000_000.0
        of(unload_at=None)  # it is answering
        assert (await expires()).year < 9999

    spoken(tmp_path, test)


def test_what_is_unloaded_can_be_deleted_and_what_is_served_cannot(tmp_path: Path) -> None:
    async def test(client: AsyncClient, script: Scripted, store: Store) -> None:
        await client.generate("tiny", keep_alive=0)
        await client.generate("big:q4")
        await client.delete("tiny")
        await client.delete("big:q4")
        assert store.removed == ["tiny", "big:q4"]
        assert list(store.services_now) == ["big:q4"], "it is not idle: whether it may be removed is the node's to say"

    spoken(tmp_path, test)


def test_a_key_asks_models_and_changes_nothing_of_the_node(tmp_path: Path) -> None:
    """As of the control API, which is not handed on where keys are required."""

    async def run() -> None:
        script, keys = Scripted(), FixedKeys()
        script.play(*says("Hi"), done())
        store, key = Store(script), keys.add("alice", models=("tiny",))
        store.services_now["tiny"] = standing(ServiceSpec(name=ServiceName("tiny"), model="tiny"), "ready")
        async with controlled(store, tmp_path), guarded_door(tmp_path, keys, generation=script) as door:
            async with AsyncClient(host=door.url, headers=bearer(key), timeout=10.0, trust_env=False) as client:
                assert (await client.chat("tiny", USER)).done
                assert (await client.generate("tiny")).done_reason == "load"
                assert (await client.chat("tiny", USER, keep_alive="1h")).done
                assert store.services_now["tiny"].keep_alive_s == -1.0
                for asked in (
                    client.delete("big:q4"),
                    client.copy("tiny", "big:q4"),
                    client.pull("tiny"),
                    client.pull("tiny", stream=True),
                    client.generate("tiny", keep_alive=0),  # it is everybody's
                    client.generate("big:q4"),
                    client.chat("big:q4", USER),
                    client.embed("big:q4", "x"),
                ):
                    with pytest.raises(ResponseError) as caught:
                        answer = await asked
                        assert [step async for step in answer]  # type: ignore[attr-defined]  # of a stream
                    assert caught.value.status_code == 403
        assert (store.removed, store.pulled, list(store.services_now)) == ([], [], ["tiny"])

    asyncio.run(run())


def test_what_cannot_be_loaded_is_refused_with_the_nodes_reason(tmp_path: Path) -> None:
    async def test(client: AsyncClient, script: Scripted, store: Store) -> None:
        wrong = client.chat("none", [{"role": "robot", "content": "x"}])  # what is most wrong is told first
        for asked in (client.chat("none", USER), client.embed("none", "x"), client.generate("none", "x"), wrong):
            with pytest.raises(ResponseError, match="try pulling it first") as caught:
                await asked
            assert caught.value.status_code == 404
        store.too_big = True
        with pytest.raises(ResponseError, match="too big") as caught:
            await client.chat("big:q4", USER)
        assert caught.value.status_code == 507
        store.too_big, store.broken = False, True
        with pytest.raises(ResponseError, match="cannot be served") as caught:
            await client.chat("big:q4", USER)
        assert caught.value.status_code == 503

    spoken(tmp_path, test)


def test_without_a_daemon_what_is_served_goes_on(tmp_path: Path) -> None:
    async def test(client: AsyncClient, script: Scripted, store: Store) -> None:
        script.play(*says("Hi"), done())
        assert (await client.chat("tiny", USER)).message.content == "Hi"
        with pytest.raises(ResponseError) as caught:
            await client.chat("big:q4", USER)
        assert caught.value.status_code == 404
        with pytest.raises(ResponseError) as caught:
            await client.list()
        assert caught.value.status_code == 503
        script.served[0] = dataclasses.replace(script.served[0], ready=False)
        script.refuse_with = ServiceFailed("it is broken")
        with pytest.raises(ResponseError, match="it is broken"):
            await client.chat("tiny", USER)

    spoken(tmp_path, test, daemon=False)


@pytest.mark.parametrize(
    ("error", "status"),
    [(PromptTooLong("long"), 400), (QueueFull("full", retry_after_s=2), 429), (WorkerLost("x"), 502)],
)
def test_refusals_are_the_clients_own_exception(tmp_path: Path, error: Any, status: int) -> None:
    async def test(client: AsyncClient, script: Scripted, store: Store) -> None:
        with pytest.raises(ResponseError) as caught:
            await client.chat("tiny", USER)
        assert (caught.value.error, caught.value.status_code) == (error.message, status)
        with pytest.raises(ResponseError) as caught:
            async for _ in await client.generate("tiny", "x", stream=True):
                pass
        assert (caught.value.error, caught.value.status_code) == (error.message, status)

    spoken(tmp_path, test, Scripted(refuse_with=error))


def test_a_failure_in_a_stream_is_its_last_line(tmp_path: Path) -> None:
    async def test(client: AsyncClient, script: Scripted, store: Store) -> None:
        script.play(*says("Hel"), WorkerLost("the worker died"))
        seen = []
        with pytest.raises(ResponseError, match="the worker died"):
            async for line in await client.chat("tiny", USER, stream=True):
                seen.append(line.message.content)
        assert seen == ["Hel"]

    spoken(tmp_path, test)


def test_what_is_not_served_is_refused_by_name(tmp_path: Path) -> None:
    async def test(client: AsyncClient, script: Scripted, store: Store) -> None:
        blob = tmp_path / "blob"
        blob.write_bytes(b"x")
        for refused, named in (
            (client.create("new", from_="tiny", system="x"), "Modelfiles"),
            (client.push("tiny"), "pushed"),
            (client.create_blob(blob), "folder"),
        ):
            with pytest.raises(ResponseError, match=named) as caught:
                await refused
            assert caught.value.status_code == 404
        image = {"role": "user", "content": "x", "images": ["aGk="]}
        for asked, named in (
            (client.chat("tiny", [image]), r"messages\[0\].images"),
            (client.generate("tiny", "x", images=["aGk="]), "images"),
            (client.generate("tiny", "x", suffix="y"), "suffix"),
            (client.generate("tiny", "x", template="{{ .Prompt }}"), "template"),
            (client.generate("tiny", "x", context=[1]), "context"),
            (client.generate("tiny", "x", raw=True, system="y"), "system"),
            (client.generate("tiny", "x", options={"mirostat": 1}), "mirostat"),
        ):
            with pytest.raises(ResponseError, match=named) as caught:
                await asked
            assert caught.value.status_code == 400
        assert script.requests == []

    spoken(tmp_path, test)


def test_whether_it_is_there_is_asked_in_many_ways(tmp_path: Path) -> None:
    async def test(client: AsyncClient, script: Scripted, store: Store) -> None:
        async with httpx2.AsyncClient(base_url=str(client._client.base_url), trust_env=False) as http:
            page = await http.get("/")
            assert page.headers["content-type"].startswith("text/html")
            assert "Ollama is running" in page.text
            assert (await http.head("/")).status_code == 200
            version = (await http.get("/api/version")).json()
            assert version["thaloom"] == __version__
            assert [int(part) for part in version["version"].split(".")] >= [0, 6, 4]
            for path in ("/api/version", "/api/tags"):
                assert (await http.head(path)).status_code == 200

    spoken(tmp_path, test)


def test_the_synchronous_client_works_alike(tmp_path: Path) -> None:
    async def test(client: AsyncClient, script: Scripted, store: Store) -> None:
        script.play(*says("Hi"), done())

        def talk() -> tuple[str | None, list[str | None]]:
            with ollama.Client(host=str(client._client.base_url), trust_env=False) as plain:
                whole = plain.chat("tiny", USER)
                lines = plain.generate("tiny", "x", stream=True)
                return whole.message.content, [line.response for line in lines]

        assert await asyncio.to_thread(talk) == ("Hi", ["Hi", ""])

    spoken(tmp_path, test)


def test_over_the_real_frontend(tmp_path: Path) -> None:
    async def test(door: LiveDoor) -> None:
        door.say("Hello, 世界!")
        async with AsyncClient(host=door.url, trust_env=False) as client:
            answer = await client.chat("tiny", USER, options={"num_predict": 100_000, "num_ctx": 100_000})
            assert answer.message.content == "Hello, 世界!"
            asked = door.worker.requests[0]
            assert answer.prompt_eval_count == len(asked.prompt)
            assert len(asked.prompt) + asked.max_tokens == 256
            with pytest.raises(ResponseError, match="the context of 'tiny' holds 256"):
                await client.generate("tiny", "word " * 500)
            raw = await client.generate("tiny", "Once", raw=True)
            assert raw.response == "Hello, 世界!"
            assert door.worker.requests[-1].prompt == door.tokenizer.encode_prompt("Once")

    in_door(tmp_path, test)
