"""The Responses API driven by the current `openai` client, unmodified, over a real loopback socket."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx2
import openai
import pydantic
import pytest

from tests.contract.edge.live_door import LiveDoor
from tests.contract.edge.rehearsed import Scripted, called, ended, said, thought
from tests.contract.edge.test_openai_client import in_door
from tests.contract.edge.test_refusals import refusal
from thaloom.base.errors import PromptTooLong, QueueFull, WorkerLost
from thaloom.kernel.state.kept import KeepLimits

PATH = "/v1/responses"
ASK: dict[str, Any] = {"model": "tiny", "input": "hi"}
WEATHER: Any = {"type": "function", "name": "weather", "parameters": {"type": "object"}, "strict": False}


def test_a_response_is_made_kept_and_deleted(tmp_path: Path) -> None:
    async def test(door: LiveDoor) -> None:
        door.say("Hello, 世界!")
        made = await door.client.responses.create(**ASK, instructions="Be brief.", metadata={"a": "b"})
        assert made.output_text == "Hello, 世界!"
        assert (made.object, made.status, made.model, made.metadata) == ("response", "completed", "tiny", {"a": "b"})
        assert made.id.startswith("resp_")
        assert made.usage is not None
        assert made.usage.input_tokens == len(door.worker.requests[0].prompt)
        assert made.usage.output_tokens == len(door.worker.tokens)
        assert made.usage.input_tokens_details.cached_tokens == 16
        expected = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
        assert door.worker.requests[0].prompt == door.tokenizer.encode_rendered(expected)
        assert await door.client.responses.retrieve(made.id) == made
        await door.client.responses.delete(made.id)
        for ask in (door.client.responses.retrieve, door.client.responses.delete, door.client.responses.cancel):
            with pytest.raises(openai.NotFoundError, match="no response"):
                await ask(made.id)

    in_door(tmp_path, test)


def test_a_response_is_streamed_as_the_client_adds_it_up(tmp_path: Path) -> None:
    script = [
        thought("Hm"),
        thought("."),
        said("I "),
        said("look."),
        called(0, id="c1", name="weather"),
        called(0, '{"city"'),
        called(0, ':"Ulm"}'),
        ended("tool_calls", reasoning_tokens=2),
    ]

    async def test(door: LiveDoor) -> None:
        async with door.client.responses.stream(**ASK, tools=[WEATHER]) as stream:
            events = [event async for event in stream]
            final = await stream.get_final_response()
        assert [event.sequence_number for event in events] == list(range(len(events)))
        assert (events[0].type, events[1].type) == ("response.created", "response.in_progress")
        assert events[-1].type == "response.completed"
        assert [item.type for item in final.output] == ["reasoning", "message", "function_call"]
        assert final.output_text == "I look."
        call: Any = final.output[2]
        assert (call.name, call.arguments, call.call_id) == ("weather", '{"city":"Ulm"}', "c1")
        snapshots = [event.snapshot for event in events if event.type == "response.output_text.delta"]
        assert snapshots == ["I ", "I look."]
        kept = await door.client.responses.retrieve(final.id)
        assert [item.id for item in kept.output] == [item.id for item in final.output]
        assert kept.output_text == "I look."
        assert kept.usage is not None
        assert kept.usage.output_tokens_details.reasoning_tokens == 2

    in_door(tmp_path, test, generation=Scripted(script))


def test_responses_build_upon_each_other(tmp_path: Path) -> None:
    answers = Scripted([thought("Hm."), said("Hello"), ended()])

    async def test(door: LiveDoor) -> None:
        create = door.client.responses.create
        first = await create(model="tiny", input="one", instructions="old")
        second = await create(model="tiny", input="two", previous_response_id=first.id, instructions="new")
        await create(model="tiny", input="three", previous_response_id=second.id, store=False)
        found = [
            [(message.role, message.content, message.extra) for message in request.messages or ()]
            for request in answers.requests
        ]
        turn = ("assistant", "Hello", {"reasoning_content": "Hm."})
        assert found[1] == [("system", "new", {}), ("user", "one", {}), turn, ("user", "two", {})]
        assert found[2] == [("user", "one", {}), turn, ("user", "two", {}), turn, ("user", "three", {})]
        assert second.previous_response_id == first.id
        await door.client.responses.delete(first.id)
        with pytest.raises(openai.NotFoundError, match="builds upon") as refused:
            await create(model="tiny", input="x", previous_response_id=second.id)
        assert refused.value.param == "previous_response_id"
        with pytest.raises(openai.NotFoundError):
            await create(model="tiny", input="x", previous_response_id="resp_none")

    in_door(tmp_path, test, generation=answers)


def test_a_call_is_answered_and_goes_on(tmp_path: Path) -> None:
    calls = Scripted([called(0, '{"city":"Ulm"}', id="c1", name="weather"), ended("tool_calls")])

    async def test(door: LiveDoor) -> None:
        first = await door.client.responses.create(**ASK, tools=[WEATHER], tool_choice="required")
        assert calls.requests[0].tool_use == "required"
        (call,) = first.output
        assert call.type == "function_call"
        output: Any = [{"type": "function_call_output", "call_id": call.call_id, "output": "rain"}]
        by_hand: Any = [{"role": "user", "content": "hi"}, call.model_dump(exclude_none=True), *output]
        await door.client.responses.create(model="tiny", input=output, previous_response_id=first.id)
        await door.client.responses.create(model="tiny", input=by_hand, store=False)
        assert calls.requests[1].messages == calls.requests[2].messages
        tool = (calls.requests[1].messages or ())[-1]
        assert (tool.role, tool.content, tool.extra) == ("tool", "rain", {"tool_call_id": "c1", "name": "weather"})

    in_door(tmp_path, test, generation=calls)


def test_what_was_said_is_listed_page_by_page(tmp_path: Path) -> None:
    async def test(door: LiveDoor) -> None:
        given: Any = [{"role": "user", "content": f"say {number}"} for number in range(5)]
        made = await door.client.responses.create(model="tiny", input=given)
        listing = door.client.responses.input_items.list
        newest = [item.content[0].text async for item in listing(made.id, limit=2)]  # type: ignore[union-attr]
        assert newest == [f"say {number}" for number in (4, 3, 2, 1, 0)]
        page = await listing(made.id, limit=2, order="asc")
        assert ([item.content[0].text for item in page.data], page.has_more) == (["say 0", "say 1"], True)  # type: ignore[union-attr]
        with pytest.raises(openai.NotFoundError, match="no item"):
            await listing(made.id, after="msg_none")
        for wrong, param in (({"limit": 101}, "limit"), ({"order": "up"}, "order")):
            with pytest.raises(openai.BadRequestError) as refused:
                await listing(made.id, **wrong)  # type: ignore[arg-type]
            assert refused.value.param == param

    in_door(tmp_path, test, generation=Scripted())


class City(pydantic.BaseModel):
    name: str
    people: int


def test_a_schema_is_asked_for_and_parsed(tmp_path: Path) -> None:
    answers = Scripted([said('{"name": "Ulm",'), said(' "people": 126000}'), ended()])

    async def test(door: LiveDoor) -> None:
        parsed = await door.client.responses.parse(**ASK, text_format=City)
        assert parsed.output_parsed == City(name="Ulm", people=126_000)
        constraint = answers.requests[0].constraint
        assert constraint is not None
        assert constraint.kind == "json_schema"
        assert set(json.loads(constraint.text)["properties"]) == {"name", "people"}
        async with door.client.responses.stream(**ASK, text_format=City) as stream:
            final = await stream.get_final_response()
        assert final.output_parsed == City(name="Ulm", people=126_000)

    in_door(tmp_path, test, generation=answers)


def test_what_is_not_to_be_kept_is_not(tmp_path: Path) -> None:
    async def test(door: LiveDoor) -> None:
        for stream in (False, True):
            response = await door.post(PATH, ASK | {"store": False, "stream": stream})
            response_id = last_event(response)["response"]["id"] if stream else response.json()["id"]
            assert refusal(await door.http.get(f"{PATH}/{response_id}"))[:2] == (404, "not_kept")

    in_door(tmp_path, test, generation=Scripted())


def last_event(response: httpx2.Response) -> Any:
    return json.loads(response.text.split("\n\n")[-2].split("\ndata: ")[1])


def test_what_cannot_be_kept_is_told_whole_and_streamed(tmp_path: Path) -> None:
    async def test(door: LiveDoor) -> None:
        assert refusal(await door.post(PATH, ASK))[:2] == (507, "disk_full")
        response = await door.post(PATH, ASK | {"stream": True})
        assert response.status_code == 200
        event = last_event(response)
        assert event["type"] == "response.failed"
        assert event["response"]["error"]["type"] == "disk_full"
        assert "response.completed" not in response.text
        assert (await door.post(PATH, ASK | {"store": False})).status_code == 200

    in_door(tmp_path, test, generation=Scripted(), limits=KeepLimits(max_bytes=100))


def test_a_worker_that_dies_fails_the_response_which_is_kept_as_it_failed(tmp_path: Path) -> None:
    answers = Scripted([said("Hel"), WorkerLost("gone")])

    async def test(door: LiveDoor) -> None:
        assert refusal(await door.post(PATH, ASK))[:2] == (502, "worker_lost")
        event = last_event(await door.post(PATH, ASK | {"stream": True}))
        assert (event["type"], event["response"]["status"]) == ("response.failed", "failed")
        kept = await door.client.responses.retrieve(event["response"]["id"])
        assert (kept.status, kept.output_text) == ("failed", "Hel")
        assert kept.error is not None
        assert kept.error.code == "server_error"
        answers.refusals = [PromptTooLong("too long", param="messages")]
        assert refusal(await door.post(PATH, ASK)) == (400, "prompt_too_long", "input")
        answers.refusals = [QueueFull("full", retry_after_s=1.0)] * 2
        for stream in (False, True):
            assert refusal(await door.post(PATH, ASK | {"stream": stream}))[:2] == (429, "queue_full")

    in_door(tmp_path, test, generation=answers)


def test_a_client_that_leaves_cancels_and_nothing_is_kept(tmp_path: Path) -> None:
    answers = Scripted([said("Hel"), asyncio.Event(), ended()])

    async def test(door: LiveDoor) -> None:
        async with door.http.stream("POST", PATH, json=ASK | {"stream": True}) as response:
            async for line in response.aiter_lines():
                if "output_text.delta" in line:
                    break
            assert answers.num_open == 1
        async with asyncio.timeout(10):
            while answers.num_open:
                await asyncio.sleep(0.01)
        database = tmp_path / "kept" / "kept.db"
        assert not database.exists() or b"resp_" not in database.read_bytes()

    in_door(tmp_path, test, generation=answers)


@pytest.mark.parametrize("stream", [False, True])
def test_refusals_come_before_a_word_is_sent(tmp_path: Path, stream: bool) -> None:
    async def test(door: LiveDoor) -> None:
        for body, param in (
            ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
            ({"truncation": "auto"}, "truncation"),
            ({"text": {"verbosity": "high"}}, "text.verbosity"),
            ({"conversation": "c"}, "conversation"),
            ({"temperature": "hot"}, "temperature"),
        ):
            assert refusal(await door.post(PATH, ASK | body | {"stream": stream})) == (400, "bad_parameter", param)
        assert refusal(await door.post(PATH, ASK | {"input": "x" * 400, "stream": stream}))[:2] == (
            400,
            "prompt_too_long",
        )
        assert refusal(await door.post(PATH, ASK | {"model": "no"}))[:2] == (404, "model_not_found")
        assert refusal(await door.post(PATH, content=b"{"))[:2] == (400, "bad_request")

    in_door(tmp_path, test)


def test_methods_paths_and_queries_that_are_not_served_are_refused(tmp_path: Path) -> None:
    async def test(door: LiveDoor) -> None:
        made = await door.client.responses.create(**ASK)
        response = await door.http.put(f"{PATH}/{made.id}")
        assert refusal(response)[:2] == (405, "method_not_allowed")
        assert response.headers["allow"] == "GET, DELETE, HEAD"
        assert refusal(await door.http.get(PATH))[:2] == (405, "method_not_allowed")
        assert refusal(await door.http.get(f"{PATH}/{made.id}/other"))[:2] == (404, "unknown_path")
        assert refusal(await door.http.get(f"{PATH}/{made.id}?stream=true")) == (400, "bad_parameter", "stream")
        with pytest.raises(openai.ConflictError, match="not made in the background"):
            await door.client.responses.cancel(made.id)
        head = await door.http.head(f"{PATH}/{made.id}")
        assert (head.status_code, head.content) == (200, b"")

    in_door(tmp_path, test, generation=Scripted())


def test_the_tokens_of_a_request_are_counted(tmp_path: Path) -> None:
    async def test(door: LiveDoor) -> None:
        made = await door.client.responses.create(**ASK)
        counted = await door.client.responses.input_tokens.count(
            model="tiny", input="two", instructions="Be", previous_response_id=made.id
        )
        assert (counted.object, counted.input_tokens) == ("response.input_tokens", len("Be" + "hi" + "Hello" + "two"))
        assert refusal(await door.post(f"{PATH}/input_tokens", {"model": "tiny"})) == (400, "bad_parameter", "input")

    in_door(tmp_path, test, generation=Scripted())
