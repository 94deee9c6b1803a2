"""The current `openai` client and what a chat may do beside talking: call tools, keep to a form, think aloud."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import openai
import pytest
from pydantic import BaseModel

from tests.contract.edge.scripted_door import DONE, Scripted, ScriptedDoor, scripted_door
from thaloom.work.runtime.types import Constraint, Delta, Done, ToolCallPiece

USER: Any = [{"role": "user", "content": "hi"}]
CALLED = dataclasses.replace(DONE, reason="tool_calls")
CALLS: Sequence[Delta | Done] = (
    Delta(text="", num_tokens=1, reasoning="hm"),
    Delta(text="", num_tokens=1, tool_calls=(ToolCallPiece(index=0, id="call_a", name="weather"),)),
    Delta(text="", num_tokens=1, tool_calls=(ToolCallPiece(index=0, arguments='{"city": '),)),
    Delta(text="", num_tokens=1, tool_calls=(ToolCallPiece(index=0, arguments='"Ulm"}'),)),
    Delta(text="", num_tokens=1, tool_calls=(ToolCallPiece(index=1, id="call_b", name="time", arguments="{}"),)),
    CALLED,
)


class weather(BaseModel):
    city: str


class Answer(BaseModel):
    number: int


def with_door(says: Sequence[Delta | Done], test: Callable[[ScriptedDoor], Awaitable[None]]) -> None:
    async def run() -> None:
        async with scripted_door(Scripted(says=says)) as door:
            await test(door)

    asyncio.run(run())


TOOLS: Any = [
    {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}},
    {"type": "function", "function": {"name": "time"}},
]


def test_tools_are_called() -> None:
    async def test(door: ScriptedDoor) -> None:
        answer = await door.client.chat.completions.create(model="tiny", messages=USER, tools=TOOLS)
        (choice,) = answer.choices
        assert choice.finish_reason == "tool_calls"
        assert choice.message.content is None
        assert choice.message.tool_calls is not None
        assert [(call.id, call.type, call.function.name, call.function.arguments)
                for call in choice.message.tool_calls if call.type == "function"] == [
            ("call_a", "function", "weather", '{"city": "Ulm"}'), ("call_b", "function", "time", "{}"),
        ]  # fmt: skip
        assert (choice.message.model_extra or {})["reasoning_content"] == "hm"
        assert [tool.name for tool in door.generation.generated[0].tools] == ["weather", "time"]

    with_door(CALLS, test)


def test_calls_are_streamed_piece_by_piece() -> None:
    async def test(door: ScriptedDoor) -> None:
        stream = await door.client.chat.completions.create(model="tiny", messages=USER, tools=TOOLS, stream=True)
        chunks = [chunk.choices[0] async for chunk in stream]
        assert (chunks[0].delta.role, chunks[0].delta.content) == ("assistant", None)
        assert chunks[1].delta.model_dump(exclude_unset=True) == {"reasoning_content": "hm"}
        calls = [chunk.delta.tool_calls[0].model_dump(exclude_unset=True) for chunk in chunks if chunk.delta.tool_calls]
        assert calls == [
            {"index": 0, "id": "call_a", "type": "function", "function": {"name": "weather", "arguments": ""}},
            {"index": 0, "function": {"arguments": '{"city": '}},
            {"index": 0, "function": {"arguments": '"Ulm"}'}},
            {"index": 1, "id": "call_b", "type": "function", "function": {"name": "time", "arguments": ""}},
            {"index": 1, "function": {"arguments": "{}"}},
        ]
        reasons = [chunk.finish_reason for chunk in chunks]
        assert reasons[-1] == "tool_calls"
        assert set(reasons[:-1]) == {None}

    with_door(CALLS, test)


def test_the_clients_stream_helper_puts_calls_together() -> None:
    async def test(door: ScriptedDoor) -> None:
        tools = [openai.pydantic_function_tool(weather), TOOLS[1]]
        async with door.client.chat.completions.stream(model="tiny", messages=USER, tools=tools) as stream:
            events = [event async for event in stream]
            final = await stream.get_final_completion()
        done = [event for event in events if event.type == "tool_calls.function.arguments.done"]
        assert [(event.name, event.index, event.arguments) for event in done] == [
            ("weather", 0, '{"city": "Ulm"}'), ("time", 1, "{}"),
        ]  # fmt: skip
        assert final.choices[0].message.content is None
        calls = final.choices[0].message.tool_calls
        assert calls is not None
        assert calls[0].function.parsed_arguments == weather(city="Ulm")
        (request,) = door.generation.generated
        assert request.tools[0].strict
        assert request.tools[0].parameters["properties"]["city"]["type"] == "string"

    with_door(CALLS, test)


def test_a_tool_can_be_forced_and_parsed() -> None:
    async def test(door: ScriptedDoor) -> None:
        choice: Any = {"type": "function", "function": {"name": "weather"}}
        answer = await door.client.chat.completions.parse(
            model="tiny", messages=USER, tools=[openai.pydantic_function_tool(weather)], tool_choice=choice
        )
        calls = answer.choices[0].message.tool_calls
        assert calls is not None
        assert calls[0].function.parsed_arguments == weather(city="Ulm")
        (request,) = door.generation.generated
        assert (request.tool_use, request.forced_tool) == ("required", "weather")

    with_door([*CALLS[:4], CALLED], test)


def test_a_whole_conversation_about_a_tool_is_understood() -> None:
    async def test(door: ScriptedDoor) -> None:
        first = await door.client.chat.completions.create(model="tiny", messages=USER, tools=TOOLS)
        messages: Any = [
            *USER,
            first.choices[0].message,  # as the client gives it back, with all its nulls
            {"role": "tool", "tool_call_id": "call_a", "content": "rain"},
            {"role": "tool", "tool_call_id": "call_b", "content": "noon"},
        ]
        await door.client.chat.completions.create(model="tiny", messages=messages, tools=TOOLS)
        told = door.generation.generated[1].messages
        assert told is not None
        assert [message.role for message in told] == ["user", "assistant", "tool", "tool"]
        assert told[1].extra["tool_calls"][0]["function"] == {"name": "weather", "arguments": {"city": "Ulm"}}
        assert told[1].extra["reasoning_content"] == "hm"

    with_door(CALLS, test)


def test_an_older_client_gets_a_function_call() -> None:
    async def test(door: ScriptedDoor) -> None:
        create: Any = door.client.chat.completions.create
        functions = [{"name": "weather"}, {"name": "time"}]
        answer = await create(model="tiny", messages=USER, functions=functions)
        assert answer.choices[0].finish_reason == "function_call"
        call = answer.choices[0].message.function_call
        assert (call.name, call.arguments) == ("weather", '{"city": "Ulm"}')
        chunks = [
            chunk.choices[0]
            async for chunk in await create(model="tiny", messages=USER, functions=functions, stream=True)
        ]
        pieces = [chunk.delta.function_call for chunk in chunks if chunk.delta.function_call]
        assert pieces[0].name == "weather"
        assert "".join(piece.arguments for piece in pieces) == '{"city": "Ulm"}'
        assert chunks[-1].finish_reason == "function_call"

    with_door(CALLS, test)


@pytest.mark.parametrize("stream", [False, True])
def test_the_clients_parse_helper_gets_its_object(stream: bool) -> None:
    async def test(door: ScriptedDoor) -> None:
        completions = door.client.chat.completions
        if stream:
            async with completions.stream(model="tiny", messages=USER, response_format=Answer) as told:
                final: Any = await told.get_final_completion()
        else:
            final = await completions.parse(model="tiny", messages=USER, response_format=Answer)
        assert final.choices[0].message.parsed == Answer(number=5)
        constraint = door.generation.generated[0].constraint
        assert isinstance(constraint, Constraint)
        assert constraint.kind == "json_schema"
        assert '"number"' in constraint.text

    with_door([Delta(text='{"num', num_tokens=1), Delta(text='ber": 5}', num_tokens=1), DONE], test)


def test_thoughts_come_apart() -> None:
    says = [Delta(text="", num_tokens=1, reasoning="hm"), Delta(text="so", num_tokens=1, reasoning="!"),
            dataclasses.replace(DONE, reasoning_tokens=1)]  # fmt: skip

    async def test(door: ScriptedDoor) -> None:
        answer = await door.client.chat.completions.create(model="tiny", messages=USER, reasoning_effort="low")
        assert answer.choices[0].message.content == "so"
        assert (answer.choices[0].message.model_extra or {})["reasoning_content"] == "hm!"
        assert answer.usage is not None
        assert answer.usage.completion_tokens_details is not None
        assert answer.usage.completion_tokens_details.reasoning_tokens == 1
        stream = await door.client.chat.completions.create(model="tiny", messages=USER, stream=True)
        deltas = [chunk.choices[0].delta async for chunk in stream]
        assert "".join((delta.model_extra or {}).get("reasoning_content") or "" for delta in deltas) == "hm!"
        assert "".join(delta.content or "" for delta in deltas) == "so"

    with_door(says, test)
