"""The current `openai` client, unmodified, over a real loopback socket."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.contract.edge.fake_worker import FakeWorker
from tests.contract.edge.live_door import LiveDoor, live_door
from thaloom.base.errors import QueueFull

USER: Any = [{"role": "user", "content": "hi"}]


def in_door(folder: Path, test: Callable[[LiveDoor], Awaitable[None]], **options: Any) -> None:
    async def run() -> None:
        async with live_door(folder, **options) as door:
            await test(door)

    asyncio.run(run())


def test_a_chat_is_answered_whole(tmp_path: Path) -> None:
    async def test(door: LiveDoor) -> None:
        door.say("Hello, 世界!")
        answer = await door.client.chat.completions.create(model="tiny", messages=USER)
        assert answer.object == "chat.completion"
        assert answer.id.startswith("chatcmpl-")
        assert answer.system_fingerprint
        assert answer.model == "tiny"
        (choice,) = answer.choices
        assert (choice.index, choice.message.role, choice.message.content) == (0, "assistant", "Hello, 世界!")
        assert choice.finish_reason == "stop"
        assert answer.usage is not None
        assert answer.usage.prompt_tokens == len(door.worker.requests[0].prompt)
        assert answer.usage.completion_tokens == len(door.worker.tokens)
        assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
        assert answer.usage.prompt_tokens_details is not None
        assert answer.usage.prompt_tokens_details.cached_tokens == 16

    in_door(tmp_path, test)


def test_the_template_of_the_model_makes_the_prompt(tmp_path: Path) -> None:
    async def test(door: LiveDoor) -> None:
        parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
        messages: Any = [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": parts}]
        await door.client.chat.completions.create(model="tiny", messages=messages)
        expected = (
            "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\none\ntwo<|im_end|>\n<|im_start|>assistant\n"
        )
        assert door.worker.requests[0].prompt == door.tokenizer.encode_rendered(expected)

    in_door(tmp_path, test)


def test_a_chat_is_streamed(tmp_path: Path) -> None:
    async def test(door: LiveDoor) -> None:
        door.say("Hello, 世界!")
        stream = await door.client.chat.completions.create(
            model="tiny", messages=USER, stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
        assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
        assert len({(chunk.id, chunk.created, chunk.system_fingerprint) for chunk in chunks}) == 1
        assert chunks[0].choices[0].delta.role == "assistant"
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == "Hello, 世界!"
        reasons = [chunk.choices[0].finish_reason for chunk in chunks[:-1]]
        assert reasons[-1] == "stop"
        assert set(reasons[:-1]) == {None}
        assert chunks[-1].choices == []
        assert chunks[-1].usage is not None
        assert chunks[-1].usage.completion_tokens == len(door.worker.tokens)
        assert all(chunk.usage is None for chunk in chunks[:-1])

    in_door(tmp_path, test)


def test_counts_so_far_are_told_with_every_chunk_if_asked_for(tmp_path: Path) -> None:
    async def test(door: LiveDoor) -> None:
        door.say("Hi you")
        options: Any = {"include_usage": True, "continuous_usage_stats": True}
        stream = await door.client.completions.create(model="tiny", prompt="xyz", stream=True, stream_options=options)
        usages = [chunk.usage async for chunk in stream]
        assert all(usage is not None and usage.prompt_tokens == 3 for usage in usages)
        counts = [usage.completion_tokens for usage in usages if usage is not None]
        assert counts == sorted(counts)
        assert counts[-1] == len(door.worker.tokens)

    in_door(tmp_path, test)


def test_without_asking_there_is_no_usage_in_a_stream(tmp_path: Path) -> None:
    async def test(door: LiveDoor) -> None:
        door.say("Hi")
        stream = await door.client.completions.create(model="tiny", prompt="x", stream=True)
        chunks = [chunk async for chunk in stream]
        assert "".join(chunk.choices[0].text for chunk in chunks) == "Hi"
        assert [chunk.choices[0].finish_reason for chunk in chunks][-1] == "stop"
        assert all(chunk.usage is None for chunk in chunks)

    in_door(tmp_path, test)


def test_a_completion_is_answered_whole_and_ends_at_sixteen_tokens_by_itself(tmp_path: Path) -> None:
    async def test(door: LiveDoor) -> None:
        door.say("A" * 40)
        answer = await door.client.completions.create(model="tiny", prompt="x")
        assert answer.object == "text_completion"
        assert answer.id.startswith("cmpl-")
        assert (answer.choices[0].text, answer.choices[0].finish_reason) == ("A" * 16, "length")

    in_door(tmp_path, test)


def test_several_answers_and_prompts_keep_their_places(tmp_path: Path) -> None:
    async def test(door: LiveDoor) -> None:
        door.say("Hi")
        answer = await door.client.completions.create(model="tiny", prompt=["a", "bb"], n=2, seed=5)
        assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
        assert [len(request.prompt) for request in door.worker.requests] == [1, 1, 2, 2]
        assert [request.seed for request in door.worker.requests] == [5, 6, 5, 6]
        assert answer.usage is not None
        assert answer.usage.prompt_tokens == 3  # each prompt once
        assert answer.usage.completion_tokens == 8
        await door.client.completions.create(model="tiny", prompt=[[1, 2], [3]])
        assert [request.prompt for request in door.worker.requests[4:]] == [[1, 2], [3]]
        await door.client.completions.create(model="tiny", prompt=[4, 5])
        assert door.worker.requests[6].prompt == [4, 5]

    in_door(tmp_path, test)


def test_streamed_choices_end_once_each(tmp_path: Path) -> None:
    async def test(door: LiveDoor) -> None:
        door.say("Hello there")
        stream = await door.client.chat.completions.create(model="tiny", messages=USER, n=3, stream=True)
        texts, reasons = ["", "", ""], [0, 0, 0]
        async for chunk in stream:
            for choice in chunk.choices:
                assert reasons[choice.index] == 0, "a chunk after the last one"
                texts[choice.index] += choice.delta.content or ""
                reasons[choice.index] += choice.finish_reason is not None
        assert texts == ["Hello there"] * 3
        assert reasons == [1, 1, 1]

    in_door(tmp_path, test)


@pytest.mark.parametrize("stop", ["lo t", ["xyz", "lo t"]])
def test_stop_strings_work_streamed_and_not(tmp_path: Path, stop: str | list[str]) -> None:
    async def test(door: LiveDoor) -> None:
        door.say("Hello there")
        whole = await door.client.chat.completions.create(model="tiny", messages=USER, stop=stop)
        assert (whole.choices[0].message.content, whole.choices[0].finish_reason) == ("Hel", "stop")
        assert whole.usage is not None
        assert whole.usage.completion_tokens < len(door.worker.tokens)
        stream = await door.client.completions.create(model="tiny", prompt="x", stop=stop, stream=True)
        chunks = [chunk async for chunk in stream]
        assert "".join(chunk.choices[0].text for chunk in chunks) == "Hel"
        assert chunks[-1].choices[0].finish_reason == "stop"

    in_door(tmp_path, test)


def test_chat_logprobs_cover_every_token(tmp_path: Path) -> None:
    async def test(door: LiveDoor) -> None:
        door.say("Hi 世")
        answer = await door.client.chat.completions.create(model="tiny", messages=USER, logprobs=True, top_logprobs=2)
        assert answer.choices[0].logprobs is not None
        content = answer.choices[0].logprobs.content
        assert content is not None
        assert b"".join(bytes(entry.bytes or []) for entry in content) == "Hi 世".encode()
        assert all(entry.logprob == -0.5 and len(entry.top_logprobs) == 2 for entry in content)
        stream = await door.client.chat.completions.create(model="tiny", messages=USER, logprobs=True, stream=True)
        streamed = [
            entry
            async for chunk in stream
            if chunk.choices[0].logprobs
            for entry in chunk.choices[0].logprobs.content or []
        ]
        assert [entry.token for entry in streamed] == [entry.token for entry in content]
        assert all(entry.top_logprobs == [] for entry in streamed)
        plain = await door.client.chat.completions.create(model="tiny", messages=USER)
        assert plain.choices[0].logprobs is None

    in_door(tmp_path, test)


def test_completion_logprobs_say_where_each_token_begins(tmp_path: Path) -> None:
    async def test(door: LiveDoor) -> None:
        door.say("Hello")
        answer = await door.client.completions.create(model="tiny", prompt="x", logprobs=2)
        logprobs = answer.choices[0].logprobs
        assert logprobs is not None
        assert "".join(logprobs.tokens or []) == "Hello"
        starts = [0]
        for token in (logprobs.tokens or [])[:-1]:
            starts.append(starts[-1] + len(token))
        assert logprobs.text_offset == starts
        assert logprobs.token_logprobs == [-0.5] * len(starts)
        assert all(len(top) == 2 for top in logprobs.top_logprobs or [])
        stream = await door.client.completions.create(model="tiny", prompt="x", logprobs=0, stream=True)
        offsets = [at async for chunk in stream for at in (chunk.choices[0].logprobs or logprobs).text_offset or []]
        assert offsets == starts

    in_door(tmp_path, test)


def test_models_are_listed_and_shown(tmp_path: Path) -> None:
    async def test(door: LiveDoor) -> None:
        models = await door.client.models.list()
        assert [(model.id, model.object, model.owned_by) for model in models.data] == [("tiny", "model", "thaloom")]
        assert (await door.client.models.retrieve("tiny")).created == 1_700_000_000
        with pytest.raises(openai.NotFoundError):
            await door.client.models.retrieve("no/such")

    in_door(tmp_path, test)


def test_the_clients_own_error_classes_come_out(tmp_path: Path) -> None:
    async def test(door: LiveDoor) -> None:
        async def create(**changes: Any) -> Any:
            return await door.client.chat.completions.create(**{"model": "tiny", "messages": USER} | changes)

        with pytest.raises(openai.NotFoundError) as missing:
            await create(model="other")
        assert missing.value.code == "model_not_found"
        assert missing.value.type == "invalid_request_error"
        with pytest.raises(openai.BadRequestError) as long:
            await create(messages=[{"role": "user", "content": "A" * 300}])
        assert long.value.code == "prompt_too_long"
        assert "256" in long.value.message
        door.worker.refuse_with = QueueFull("full", retry_after_s=2.2)
        with pytest.raises(openai.RateLimitError) as full:
            await create(stream=True)
        assert full.value.response.headers["retry-after"] == "3"
        door.routes.routes = []
        with pytest.raises(openai.NotFoundError):
            await create()

    in_door(tmp_path, test)


def test_a_worker_killed_in_mid_stream_is_a_typed_error(tmp_path: Path) -> None:
    async def test(door: LiveDoor) -> None:
        door.say("Hello there")
        stream = await door.client.chat.completions.create(model="tiny", messages=USER, stream=True)
        text = ""
        with pytest.raises(openai.APIError) as lost:
            async with asyncio.timeout(30):
                async for chunk in stream:
                    text += chunk.choices[0].delta.content or ""
        assert text == "He"
        assert lost.value.code == "worker_lost"
        with pytest.raises(openai.InternalServerError) as whole:
            await door.client.chat.completions.create(model="tiny", messages=USER)
        assert whole.value.status_code == 502

    in_door(tmp_path, test, worker=FakeWorker(die_after=2))


def test_many_streams_at_once_do_not_mix(tmp_path: Path) -> None:
    async def test(door: LiveDoor) -> None:
        door.say("Hello, 世界!")

        async def one() -> str:
            stream = await door.client.completions.create(model="tiny", prompt="x", stream=True)
            return "".join([chunk.choices[0].text async for chunk in stream])

        assert await asyncio.gather(*(one() for _ in range(32))) == ["Hello, 世界!"] * 32
        assert door.worker.num_open == 0

    in_door(tmp_path, test)
