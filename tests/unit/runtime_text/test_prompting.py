"""A model's way with text: read once, kept by the identity of its files, and its own sampling."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.unit.runtime_text.tokenizers_of_the_field import byte_level, save
from thaloom.base.clock import ManualClock
from thaloom.base.errors import BadParameter, MalformedFile
from thaloom.base.events import Degraded, Recorder
from thaloom.base.ids import RequestId
from thaloom.work.runtime.frontend.prompting import SHORT_PROMPT_CHARACTERS, Speech, SpeechCache, read_speech
from thaloom.work.runtime.types import ChatMessage, GenerateRequest, Sampling

TEMPLATE = {"chat_template": "{% for m in messages %}{{ m.content }}{% endfor %}"}


def read(folder: Path, recorder: Recorder | None = None, **files: Any) -> Speech:
    paths = save(folder, byte_level(), **files)
    return read_speech(paths, model="m", clock=ManualClock(), emit=recorder or Recorder())


def request(**prompt: Any) -> GenerateRequest:
    return GenerateRequest(id=RequestId("r"), model="m", **prompt)


def chat(*contents: str) -> GenerateRequest:
    return request(messages=tuple(ChatMessage(role="user", content=content) for content in contents))


def test_each_kind_of_prompt_becomes_tokens(tmp_path: Path) -> None:
    speech = read(tmp_path, tokenizer_config=TEMPLATE)
    assert speech.prompt_of(chat("H", "i")) == [39, 72]
    assert speech.prompt_of(request(prompt="Hi")) == [39, 72]
    assert speech.prompt_of(request(prompt_tokens=(1, 2))) == [1, 2]


def test_chat_with_a_model_without_template_is_refused_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(BadParameter, match="/v1/completions") as caught:
        read(tmp_path).prompt_of(chat("hi"))
    assert caught.value.param == "messages"


@pytest.mark.parametrize(
    ("asked", "param"), [(chat(""), "messages"), (request(prompt=""), "prompt"), (request(prompt_tokens=()), "prompt")]
)
def test_a_prompt_of_no_tokens_is_refused(tmp_path: Path, asked: GenerateRequest, param: str) -> None:
    with pytest.raises(BadParameter, match="not one token") as caught:
        read(tmp_path, tokenizer_config=TEMPLATE).prompt_of(asked)
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, Sampling()),
        ({"do_sample": False, "temperature": 0.7}, Sampling(temperature=0.0)),
        (
            {"do_sample": True, "temperature": 0.6, "top_p": 0.9, "top_k": 20},
            Sampling(temperature=0.6, top_p=0.9, top_k=20),
        ),
        ({"repetition_penalty": 1.05}, Sampling(repetition_penalty=1.05)),
        ({"do_sample": False, "repetition_penalty": 1.1}, Sampling(temperature=0.0, repetition_penalty=1.1)),
        ({"temperature": None, "top_k": None}, Sampling()),
        ({"temperature": True, "top_k": 50.0}, Sampling()),  # a worker would refuse each request that carried these
    ],
)
def test_the_models_own_sampling_is_the_default(tmp_path: Path, config: dict[str, Any], expected: Sampling) -> None:
    assert read(tmp_path, generation_config=config).sampling == expected


@pytest.mark.parametrize("config", [{"repetition_penalty": -1.0}, {"top_p": 7.0}])
def test_a_wish_of_the_model_that_is_not_followed_is_told(tmp_path: Path, config: dict[str, Any]) -> None:
    recorder = Recorder()
    assert read(tmp_path, recorder, generation_config=config).sampling == Sampling()
    assert len(recorder.of(Degraded)) == 1


def test_files_are_read_once_and_again_when_they_change(tmp_path: Path) -> None:
    async def run() -> None:
        cache = SpeechCache(ManualClock(), Recorder())
        files = save(tmp_path, byte_level(), tokenizer_config=TEMPLATE)
        first, again = await asyncio.gather(cache.get("m", files), cache.get("m", files))
        assert first is again
        save(tmp_path, byte_level(), tokenizer_config={"chat_template": "x"})
        assert await cache.get("m", files) is not first
        cache.close()

    asyncio.run(run())


def test_a_broken_file_is_read_again_once_it_may_be_mended(tmp_path: Path) -> None:
    async def run() -> None:
        cache = SpeechCache(ManualClock(), Recorder())
        files = save(tmp_path, byte_level())
        text = (tmp_path / "tokenizer.json").read_text()
        for _ in range(2):
            (tmp_path / "tokenizer.json").write_text("{")
            with pytest.raises(MalformedFile):
                await cache.get("m", files)
        (tmp_path / "tokenizer.json").write_text(text)
        assert (await cache.get("m", files)).template is None
        cache.close()

    asyncio.run(run())


def test_no_more_than_the_limit_is_kept(tmp_path: Path) -> None:
    async def run() -> None:
        cache = SpeechCache(ManualClock(), Recorder(), limit=1)
        one, two = (save(tmp_path / name, byte_level()) for name in ("one", "two"))
        first = await cache.get("one", one)
        await cache.get("two", two)
        assert await cache.get("one", one) is not first
        cache.close()

    asyncio.run(run())


def test_long_prompts_are_tokenised_like_short_ones(tmp_path: Path) -> None:
    async def run() -> None:
        cache = SpeechCache(ManualClock(), Recorder())
        speech = await cache.get("m", save(tmp_path, byte_level(), tokenizer_config=TEMPLATE))
        text = "A" * (SHORT_PROMPT_CHARACTERS + 1)
        assert await cache.tokenise(speech, chat(text)) == [32] * len(text)
        assert await cache.tokenise(speech, chat("A")) == [32]
        cache.close()

    asyncio.run(run())
