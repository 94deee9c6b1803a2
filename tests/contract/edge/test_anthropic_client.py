"""The current `anthropic` client, unmodified, over a real loopback socket."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anthropic
import httpx2
import pytest
from anthropic import AsyncAnthropic
from pydantic import BaseModel

from tests.contract.edge.live_door import LiveDoor
from tests.contract.edge.played_runtime import Scripted, calls, done, says, scripted_door, thinks
from tests.contract.edge.test_openai_client import in_door
from thaloom.base.errors import (
    BadParameter,
    DeadlineExceeded,
    PromptTooLong,
    QueueFull,
    ServiceFailed,
    ServiceLoading,
    ThaloomError,
    WorkerLost,
)
from thaloom.work.runtime.types import Mark, Pin, ServedModel

USER: Any = [{"role": "user", "content": "hi"}]
WEATHER: Any = {
    "name": "weather",
    "description": "Tells the weather.",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
Test = Callable[[AsyncAnthropic, Scripted], Awaitable[None]]


def spoken(folder: Path, test: Test, runtime: Scripted | None = None) -> None:
    async def run() -> None:
        script = runtime or Scripted()
        async with scripted_door(script, folder) as url:
            async with AsyncAnthropic(base_url=url, api_key="none", max_retries=0, timeout=10.0) as client:
                await test(client, script)

    asyncio.run(run())


def ask(client: AsyncAnthropic, **changes: Any) -> Any:
    return client.messages.create(**{"model": "tiny", "max_tokens": 100, "messages": USER} | changes)


def test_a_message_is_answered_whole(tmp_path: Path) -> None:
    async def test(client: AsyncAnthropic, script: Scripted) -> None:
        script.play(*says("Hel", "lo, 世界"), done())
        message = await ask(client)
        assert (message.type, message.role, message.model) == ("message", "assistant", "tiny")
        assert message.id.startswith("msg_")
        (block,) = message.content
        assert (block.type, block.text) == ("text", "Hello, 世界")
        assert (message.stop_reason, message.stop_sequence) == ("end_turn", None)
        usage = message.usage
        assert (usage.input_tokens, usage.cache_read_input_tokens, usage.cache_creation_input_tokens) == (4, 16, 0)
        assert usage.output_tokens == 7
        assert message._request_id
        assert script.request.max_tokens == 100
        assert script.request.up_to_context
        assert script.request.templating.variables["enable_thinking"] is False

    spoken(tmp_path, test)


def test_a_message_is_streamed_in_the_protocols_events(tmp_path: Path) -> None:
    async def test(client: AsyncAnthropic, script: Scripted) -> None:
        script.play(*says("Hel", "", "lo"), done())
        events = [event async for event in await ask(client, stream=True)]
        assert [event.type for event in events] == [
            "message_start", "content_block_start", "content_block_delta", "content_block_delta",
            "content_block_stop", "message_delta", "message_stop",
        ]  # fmt: skip
        start, delta = events[0].message, events[-2]
        assert (start.content, start.stop_reason, start.usage.output_tokens) == ([], None, 0)
        assert start.usage.input_tokens == 20
        assert delta.delta.stop_reason == "end_turn"
        assert (delta.usage.input_tokens, delta.usage.cache_read_input_tokens, delta.usage.output_tokens) == (4, 16, 7)

    spoken(tmp_path, test)


def test_the_stream_helper_makes_the_same_message_of_it(tmp_path: Path) -> None:
    async def test(client: AsyncAnthropic, script: Scripted) -> None:
        script.play(*thinks("Let me", " see"), *says("It is"), *calls(0, "weather", '{"city": ', '"Paris"}'),
                    done("tool_calls", reasoning_tokens=3))  # fmt: skip
        wanted: Any = {"tools": [WEATHER], "thinking": {"type": "adaptive"}}
        whole = await ask(client, **wanted)
        async with client.messages.stream(model="tiny", max_tokens=100, messages=USER, **wanted) as stream:
            texts = [text async for text in stream.text_stream]
            final = await stream.get_final_message()
        assert texts == ["It is"]
        assert [block.to_dict() for block in final.content] == [block.to_dict() for block in whole.content]
        thought, text, call = final.content
        assert (thought.type, text.type, call.type) == ("thinking", "text", "tool_use")
        assert thought.thinking == "Let me see"
        assert thought.signature
        assert (call.id, call.name, call.input) == ("call_0", "weather", {"city": "Paris"})
        assert final.stop_reason == whole.stop_reason == "tool_use"
        assert final.usage.output_tokens_details is not None
        assert final.usage.output_tokens_details.thinking_tokens == 3

    spoken(tmp_path, test)


def test_two_calls_are_two_blocks(tmp_path: Path) -> None:
    async def test(client: AsyncAnthropic, script: Scripted) -> None:
        script.play(*calls(0, "weather", '{"city":"A"}'), *calls(1, "weather"), done("tool_calls"))
        events = [event async for event in await ask(client, stream=True, tools=[WEATHER])]
        starts = [event for event in events if event.type == "content_block_start"]
        assert [(event.index, event.content_block.id) for event in starts] == [(0, "call_0"), (1, "call_1")]
        stops = [event.index for event in events if event.type == "content_block_stop"]
        assert stops == [0, 1]
        message = await ask(client, tools=[WEATHER])
        assert [block.input for block in message.content] == [{"city": "A"}, {}]

    spoken(tmp_path, test)


def test_thoughts_are_shown_only_to_who_asked_for_them(tmp_path: Path) -> None:
    async def test(client: AsyncAnthropic, script: Scripted) -> None:
        script.play(*thinks("secret"), *says("Hi"), done())
        for thinking in (None, {"type": "disabled"}):
            wanted = {} if thinking is None else {"thinking": thinking}
            message = await ask(client, **wanted)
            assert message.content[0].text == "Hi"
            assert script.request.templating.variables["enable_thinking"] is False
            kinds = [event.type async for event in await ask(client, stream=True, **wanted)]
            assert kinds.count("content_block_start") == 1
        thinking = {"type": "enabled", "budget_tokens": 1024, "display": "omitted"}
        message = await ask(client, thinking=thinking, max_tokens=2000)
        assert (message.content[0].type, message.content[0].thinking) == ("thinking", "")
        assert message.content[0].signature
        variables = script.request.templating.variables
        assert variables == {"enable_thinking": True, "thinking": True, "thinking_budget": 1024}
        async with client.messages.stream(model="tiny", max_tokens=2000, messages=USER, thinking=thinking) as stream:  # type: ignore[arg-type]
            final = await stream.get_final_message()
        assert [block.to_dict() for block in final.content] == [block.to_dict() for block in message.content]

    spoken(tmp_path, test)


@pytest.mark.parametrize(
    ("end", "reason", "sequence"),
    [
        (done("length", completion_tokens=100), "max_tokens", None),
        (done("length", completion_tokens=7), "model_context_window_exceeded", None),
        (done("stop", stop="END"), "stop_sequence", "END"),
        (done("stop", stop=5), "end_turn", None),
    ],
)
def test_why_it_ended(tmp_path: Path, end: Any, reason: str, sequence: str | None) -> None:
    async def test(client: AsyncAnthropic, script: Scripted) -> None:
        script.play(*says("x"), end)
        message = await ask(client, stop_sequences=["END"])
        assert (message.stop_reason, message.stop_sequence) == (reason, sequence)
        assert script.request.stop == ("END",)
        async with client.messages.stream(model="tiny", max_tokens=100, messages=USER) as stream:
            final = await stream.get_final_message()
        assert (final.stop_reason, final.stop_sequence) == (reason, sequence)

    spoken(tmp_path, test)


def test_a_conversation_with_tools_goes_back_in(tmp_path: Path) -> None:
    async def test(client: AsyncAnthropic, script: Scripted) -> None:
        script.play(*thinks("Hm"), *calls(0, "weather", '{"city":"Paris"}'), done("tool_calls"))
        first = await ask(client, tools=[WEATHER], thinking={"type": "adaptive"})
        script.play(*says("Rain."), done())
        results = [{"type": "tool_result", "tool_use_id": "call_0", "content": [{"type": "text", "text": "wet"}]}]
        await ask(
            client,
            system=[{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}],
            messages=[*USER, {"role": "assistant", "content": first.content}, {"role": "user", "content": results}],
            tools=[WEATHER],
            tool_choice={"type": "auto", "disable_parallel_tool_use": True},
            metadata={"user_id": "u"},
            service_tier="auto",
            extra_headers={"anthropic-beta": "some-feature"},
        )
        system, user, assistant, tool = script.request.messages or ()
        assert (system.role, system.content) == ("system", "Be brief.")
        assert script.request.pins == (Pin(seconds=300.0, mark=Mark(num_characters=len("Be brief."))),)
        assert (user.role, user.content) == ("user", "hi")
        assert (assistant.role, assistant.content) == ("assistant", "")
        assert assistant.extra["reasoning_content"] == "Hm"
        (call,) = assistant.extra["tool_calls"]
        assert call["function"] == {"name": "weather", "arguments": {"city": "Paris"}}
        assert (tool.role, tool.content, tool.extra) == ("tool", "wet", {"tool_call_id": "call_0", "name": "weather"})
        (given,) = script.request.tools
        assert (given.name, given.parameters) == ("weather", WEATHER["input_schema"])
        assert script.request.parallel_tool_calls is False

    spoken(tmp_path, test)


def test_an_answer_in_a_format_is_parsed_by_the_client(tmp_path: Path) -> None:
    class Person(BaseModel):
        name: str

    async def test(client: AsyncAnthropic, script: Scripted) -> None:
        script.play(*says('{"name": "Ada"}'), done())
        message = await client.messages.parse(model="tiny", max_tokens=50, messages=USER, output_format=Person)
        assert message.parsed_output == Person(name="Ada")
        constraint = script.request.constraint
        assert constraint is not None
        assert constraint.kind == "json_schema"
        assert '"name"' in constraint.text

    spoken(tmp_path, test)


def test_the_tool_runner_runs_a_tool_to_the_end(tmp_path: Path) -> None:
    seen: list[str] = []

    @anthropic.beta_async_tool
    async def weather(city: str) -> str:
        """Tells the weather.

        Args:
            city: where
        """
        seen.append(city)
        script.play(*says("Rain."), done())
        return "wet"

    script = Scripted()

    async def test(client: AsyncAnthropic, _: Scripted) -> None:
        script.play(*calls(0, "weather", '{"city": "Paris"}'), done("tool_calls"))
        # it first offers to let the server keep the conversation, which is refused in a way it knows
        runner = client.beta.messages.tool_runner(model="tiny", max_tokens=100, messages=USER, tools=[weather])
        final = await runner.until_done()
        assert seen == ["Paris"]
        assert final.content[0].type == "text"
        assert final.content[0].text == "Rain."
        assert [turn.role for turn in script.request.messages or ()] == ["user", "assistant", "tool"]

    spoken(tmp_path, test, script)


def test_tokens_are_counted(tmp_path: Path) -> None:
    async def test(client: AsyncAnthropic, script: Scripted) -> None:
        counted = await client.messages.count_tokens(model="tiny", messages=USER, system="S", tools=[WEATHER])
        assert counted.input_tokens == 5
        (asked,) = script.tokenized
        assert [message.role for message in asked.messages or ()] == ["system", "user"]
        assert asked.tools[0].name == "weather"
        assert (await client.beta.messages.count_tokens(model="tiny", messages=USER)).input_tokens == 5
        with pytest.raises(anthropic.NotFoundError):
            await client.messages.count_tokens(model="none", messages=USER)
        with pytest.raises(anthropic.NotFoundError):  # what is most wrong is told first
            await client.messages.count_tokens(model="none", messages=[])

    spoken(tmp_path, test)


def test_what_is_counted_is_what_the_prompt_has(tmp_path: Path) -> None:
    """Over the real frontend: the model's own template and tokenizer."""

    async def test(door: LiveDoor) -> None:
        door.say("Hello, 世界!")
        async with AsyncAnthropic(base_url=door.url, api_key="none", max_retries=0) as client:
            asked: Any = {"model": "tiny", "messages": USER, "system": "Be brief."}
            counted = await client.messages.count_tokens(**asked)
            message = await client.messages.create(max_tokens=50, **asked)
            async with client.messages.stream(max_tokens=50, **asked) as stream:
                first = await anext(aiter(stream))
                assert first.type == "message_start"
                assert first.message.usage.input_tokens == counted.input_tokens
                assert (await stream.get_final_text()) == "Hello, 世界!"
        assert message.content[0].text == "Hello, 世界!"
        assert counted.input_tokens == len(door.worker.requests[0].prompt)
        usage = message.usage
        assert usage.input_tokens + (usage.cache_read_input_tokens or 0) == counted.input_tokens

    in_door(tmp_path, test)


def test_an_answer_may_be_shorter_than_it_may_be(tmp_path: Path) -> None:
    async def test(door: LiveDoor) -> None:
        door.say("Hi")
        async with AsyncAnthropic(base_url=door.url, api_key="none", max_retries=0, timeout=10.0) as client:
            await client.messages.create(model="tiny", max_tokens=30_000, messages=USER)
            asked = door.worker.requests[0]
            assert len(asked.prompt) + asked.max_tokens == 256
            long: Any = [{"role": "user", "content": "word " * 500}]
            with pytest.raises(anthropic.BadRequestError) as caught:
                await client.messages.create(model="tiny", max_tokens=30_000, messages=long)
            assert caught.value.error_code == "prompt_too_long"

    in_door(tmp_path, test)


def test_a_begun_answer_goes_on(tmp_path: Path) -> None:
    async def test(door: LiveDoor) -> None:
        door.say(" fine")
        async with AsyncAnthropic(base_url=door.url, api_key="none", max_retries=0) as client:
            begun: Any = [*USER, {"role": "assistant", "content": "I am"}]
            message = await client.messages.create(model="tiny", max_tokens=5, messages=begun)
            assert message.content[0].text == " fine"
        expected = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\nI am"
        assert door.worker.requests[0].prompt == door.tokenizer.encode_rendered(expected)

    in_door(tmp_path, test)


def test_models_are_listed_in_the_protocols_form_to_who_speaks_it(tmp_path: Path) -> None:
    names = ["a", "b", "c", "d", "e"]
    served = [ServedModel(name=name, ready=True, context_length=64, created_at=1_700_000_000.0) for name in names]

    async def test(client: AsyncAnthropic, script: Scripted) -> None:
        pages = await client.models.list(limit=2)
        assert [model.id async for model in pages] == names
        assert pages.has_more
        before = await client.models.list(before_id="d", limit=2)
        assert [model.id for model in before.data] == ["b", "c"]
        model = await client.models.retrieve("c")
        assert (model.id, model.type, model.max_input_tokens, model.lifecycle) == ("c", "model", 64, "active")
        assert model.created_at.year == 2023
        assert [model.id async for model in await client.beta.models.list()] == names
        with pytest.raises(anthropic.NotFoundError) as caught:
            await client.models.retrieve("z")
        assert (caught.value.type, caught.value.error_code) == ("not_found_error", "model_not_found")
        for query in ({"limit": 0}, {"after_id": "z"}, {"after_id": "a", "before_id": "b"}):
            with pytest.raises(anthropic.BadRequestError):
                await client.models.list(**query)
        async with httpx2.AsyncClient(base_url=client.base_url, trust_env=False) as http:
            assert (await http.get("/v1/models")).json()["object"] == "list"  # OpenAI's, for everybody else

    spoken(tmp_path, test, Scripted(served=served))


@pytest.mark.parametrize(
    ("error", "kind", "named"),
    [
        (BadParameter("x", param="messages"), anthropic.BadRequestError, "invalid_request_error"),
        (PromptTooLong("x", prompt_tokens=9), anthropic.BadRequestError, "invalid_request_error"),
        (QueueFull("full", retry_after_s=2), anthropic.RateLimitError, "rate_limit_error"),
        (ServiceLoading("soon", retry_after_s=1), anthropic.ServiceUnavailableError, "overloaded_error"),
        (ServiceFailed("never"), anthropic.ServiceUnavailableError, "api_error"),
        (WorkerLost("gone"), anthropic.InternalServerError, "api_error"),
        (DeadlineExceeded("late"), anthropic.GatewayTimeoutError, "timeout_error"),
    ],
)
def test_refusals_are_the_clients_own_exceptions(
    tmp_path: Path, error: ThaloomError, kind: type[anthropic.APIStatusError], named: str
) -> None:
    async def test(client: AsyncAnthropic, script: Scripted) -> None:
        for stream in (False, True):
            with pytest.raises(kind) as caught:
                await ask(client, stream=stream)
            told = caught.value
            assert (told.type, told.error_code, told.api_message) == (named, error.code, error.message)
            assert told.request_id
            assert isinstance(told.body, dict)
            assert told.body["request_id"] == told.request_id

    spoken(tmp_path, test, Scripted(refuse_with=error))


def test_a_failure_in_a_stream_is_an_event_the_client_raises(tmp_path: Path) -> None:
    async def test(client: AsyncAnthropic, script: Scripted) -> None:
        script.play(*says("Hel"), WorkerLost("the worker died"))
        seen = []
        with pytest.raises(anthropic.APIStatusError) as caught:
            async for event in await ask(client, stream=True):
                seen.append(event.type)
        assert seen == ["message_start", "content_block_start", "content_block_delta"]
        assert (caught.value.type, caught.value.error_code) == ("api_error", "worker_lost")

    spoken(tmp_path, test)


def test_what_is_not_served_is_refused_by_name(tmp_path: Path) -> None:
    async def test(client: AsyncAnthropic, script: Scripted) -> None:
        with pytest.raises(anthropic.NotFoundError, match="batches are not served"):
            await client.messages.batches.create(requests=[])
        with pytest.raises(anthropic.NotFoundError, match="batches are not served"):
            await client.messages.batches.retrieve("x")
        source = {"type": "base64", "media_type": "image/png", "data": "AAAA"}
        with pytest.raises(anthropic.BadRequestError, match="'image' is not served"):
            await ask(client, messages=[{"role": "user", "content": [{"type": "image", "source": source}]}])
        with pytest.raises(anthropic.BadRequestError, match="web_search"):
            await ask(client, tools=[{"type": "web_search_20250305", "name": "web_search"}])
        assert script.requests == []

    spoken(tmp_path, test)


def test_the_synchronous_client_works_alike(tmp_path: Path) -> None:
    async def test(client: AsyncAnthropic, script: Scripted) -> None:
        script.play(*says("Hi"), done())

        def talk() -> tuple[str, str]:
            with anthropic.Anthropic(base_url=client.base_url, api_key="none", max_retries=0) as plain:
                whole = plain.messages.create(model="tiny", max_tokens=9, messages=USER)
                with plain.messages.stream(model="tiny", max_tokens=9, messages=USER) as stream:
                    return whole.content[0].text, stream.get_final_text()

        assert await asyncio.to_thread(talk) == ("Hi", "Hi")

    spoken(tmp_path, test)


def test_older_clients_say_temperature_and_such(tmp_path: Path) -> None:
    async def test(client: AsyncAnthropic, script: Scripted) -> None:
        script.play(*says("Hi"), done())
        await ask(client, extra_body={"temperature": 0, "top_p": 0.5, "top_k": 4})
        assert script.request.sampling_changes == {"temperature": 0.0, "top_p": 0.5, "top_k": 4}
        with pytest.raises(anthropic.BadRequestError, match="temperature"):
            await ask(client, extra_body={"temperature": 1.5})

    spoken(tmp_path, test)
