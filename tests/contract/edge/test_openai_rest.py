"""The rest of what OpenAI's clients ask a door for: embeddings, models, and answers out of the ordinary; and what
vLLM's, Jina's and Cohere's clients ask for beside it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.contract.edge.live_door import live_door
from tests.contract.edge.scripted_door import DONE, Scripted, ScriptedDoor, scripted_door
from thaloom.base.errors import NotServable, QueueFull
from thaloom.edge.wire import embeddings, ranking, tokens
from thaloom.edge.wire import openai as wire
from thaloom.work.runtime.types import Delta, PositionLogprobs, TokenLogprob

USER: Any = [{"role": "user", "content": "hi"}]


def with_door(test: Callable[[ScriptedDoor], Awaitable[None]], **options: Any) -> None:
    async def run() -> None:
        async with scripted_door(Scripted(**options)) as door:
            await test(door)

    asyncio.run(run())


def refusal(response: Any) -> tuple[int, str, str | None]:
    error = response.json()["error"]
    return response.status_code, error["code"], error["param"]


def position(text: str, logprob: float | None) -> PositionLogprobs:
    chosen = TokenLogprob(token=1, text=text, data=text.encode(), logprob=logprob)
    return PositionLogprobs(chosen=chosen, top=() if logprob is None else (chosen,))


def test_an_echoed_prompt_has_log_probabilities_but_for_its_first_token() -> None:
    async def test(door: ScriptedDoor) -> None:
        answer = await door.client.completions.create(model="tiny", prompt="ab", echo=True, max_tokens=0, logprobs=1)
        logprobs = answer.choices[0].logprobs
        assert answer.choices[0].text == "ab"
        assert logprobs is not None
        assert (logprobs.tokens, logprobs.token_logprobs, logprobs.text_offset) == (["a", "b"], [None, -1.5], [0, 1])
        assert logprobs.top_logprobs == [None, {"b": -1.5}]

    echoed = Delta(text="ab", num_tokens=0, logprobs=(position("a", None), position("b", -1.5)))
    with_door(test, says=[echoed, DONE])


def test_the_best_of_several_answers_is_given() -> None:
    async def test(door: ScriptedDoor) -> None:
        for text, logprob in (("bad", -3.0), ("good", -0.5), ("fair", -1.0)):
            door.generation.scripts.append(
                [Delta(text=text, num_tokens=1, logprobs=(position(text, logprob),)), DONE],
            )
        answer = await door.client.completions.create(model="tiny", prompt="x", best_of=3, n=2)
        assert [(choice.index, choice.text) for choice in answer.choices] == [(0, "good"), (1, "fair")]
        assert answer.choices[0].logprobs is None
        assert answer.usage is not None
        assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (5, 6)

    with_door(test)


def test_counts_so_far_come_with_every_chunk() -> None:
    async def test(door: ScriptedDoor) -> None:
        options: Any = {"include_usage": True, "continuous_usage_stats": True}
        stream = await door.client.chat.completions.create(
            model="tiny", messages=USER, stream=True, stream_options=options
        )
        usages = [chunk.usage async for chunk in stream]
        assert [usage and usage.completion_tokens for usage in usages] == [None, 1, 2, 2, 2]
        assert {usage.prompt_tokens for usage in usages if usage} == {5}

    with_door(
        test, says=[Delta(text="a", num_tokens=1, prompt_tokens=5), Delta(text="b", num_tokens=1), DONE]
    )  # fmt: skip


@pytest.mark.parametrize("given", ["Hello", ["Hello"], [1, 2, 3, 4, 5], [[1, 2, 3, 4, 5]]])
def test_each_form_of_input_is_embedded(given: Any) -> None:
    async def test(door: ScriptedDoor) -> None:
        answer = await door.client.embeddings.create(model="tiny", input=given)  # asks for base64 and decodes it
        assert answer.object == "list"
        assert answer.model == "tiny"
        (told,) = answer.data
        assert (told.object, told.index) == ("embedding", 0)
        assert told.embedding == pytest.approx([5.0, 0.5, -0.25, 1e-8])
        assert (answer.usage.prompt_tokens, answer.usage.total_tokens) == (5, 5)

    with_door(test)


def test_many_inputs_are_embedded_in_their_order_and_cut_as_asked() -> None:
    async def test(door: ScriptedDoor) -> None:
        texts = ["x" * (number % 7 + 1) for number in range(50)]
        answer = await door.client.embeddings.create(model="tiny", input=texts, dimensions=2, encoding_format="float")
        assert [told.index for told in answer.data] == list(range(50))
        assert [told.embedding for told in answer.data] == [[float(len(text)), 0.5] for text in texts]
        assert answer.usage.prompt_tokens == sum(map(len, texts))
        assert len({request.id for request in door.generation.embedded}) == 50
        assert all(request.normalize for request in door.generation.embedded)

    with_door(test)


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": [""]}, "input[0]"),
        ({"input": [[]]}, "input[0]"),
        ({"input": [-1]}, "input[0]"),
        ({"input": 5}, "input"),
        ({"input": ["x"] * 2049}, "input"),
        ({"input": None}, "input"),
        ({"dimensions": 0}, "dimensions"),
        ({"dimensions": 5}, "dimensions"),
        ({"encoding_format": "int8"}, "encoding_format"),
        ({"model": 5}, "model"),
        ({"truncate_prompt_tokens": 5}, "truncate_prompt_tokens"),
    ],
)
def test_a_wrong_field_of_an_embedding_is_named(changes: dict[str, Any], param: str) -> None:
    async def test(door: ScriptedDoor) -> None:
        body = {"model": "tiny", "input": "x"} | changes
        assert refusal(await door.http.post("/v1/embeddings", json=body)) == (400, "bad_parameter", param)

    with_door(test)


def test_one_refused_input_refuses_all_and_keeps_its_status() -> None:
    async def test(door: ScriptedDoor) -> None:
        with pytest.raises(openai.RateLimitError) as full:
            await door.client.embeddings.create(model="tiny", input=["a", "b"])
        assert full.value.response.headers["retry-after"] == "3"
        door.generation.fails = NotServable("no states")
        with pytest.raises(openai.UnprocessableEntityError):
            await door.client.embeddings.create(model="tiny", input="a")

    with_door(test, fails=QueueFull("full", retry_after_s=2.5))


def test_a_model_that_is_not_here_is_told_first() -> None:
    async def test(door: ScriptedDoor) -> None:
        for path in ("/v1/embeddings", "/v1/rerank", "/score", "/tokenize", "/detokenize", "/v1/chat/completions"):
            wrong = await door.http.post(path, json={"model": "other"})
            assert refusal(wrong) == (404, "model_not_found", "model")
            assert refusal(await door.http.post(path, json={"model": "tiny"}))[:2] == (400, "bad_parameter")
        assert refusal(await door.http.get("/tokenizer_info", params={"model": "other"}))[0] == 404

    with_door(test)


def test_degraded_answers_say_so() -> None:
    async def test(door: ScriptedDoor) -> None:
        for path, body in (
            ("/v1/embeddings", {"input": ["a", "b"]}),
            ("/v1/rerank", {"query": "a", "documents": ["b"]}),
            ("/score", {"text_1": "a", "text_2": "b"}),
        ):
            response = await door.http.post(path, json={"model": "tiny"} | body)
            assert response.headers["x-thaloom-degraded"] == "no compiler ?"

    with_door(test, degraded="no compiler\n\u00e9")


def test_models_are_listed_and_found() -> None:
    async def test(door: ScriptedDoor) -> None:
        (told,) = [model async for model in door.client.models.list()]
        assert told == await door.client.models.retrieve("tiny") == await door.client.models.retrieve("tiny:latest")
        assert (told.id, told.object, told.created, told.owned_by) == ("tiny", "model", 7, "thaloom")
        extra = told.model_extra or {}
        assert (extra["root"], extra["parent"], extra["max_model_len"], extra["ready"]) == ("tiny", None, 4096, True)

    with_door(test)


# -- beside OpenAI's protocol


def test_a_text_and_a_chat_become_tokens_and_text_again() -> None:
    async def test(door: ScriptedDoor) -> None:
        told = (await door.http.post("/tokenize", json={"prompt": "Hi"})).json()
        assert told == {"count": 2, "max_model_len": 4096, "tokens": [72, 105], "token_strs": None}
        body = {"model": "tiny", "prompt": "Hi", "add_special_tokens": False, "return_token_strs": True}
        told = (await door.http.post("/tokenize", json=body)).json()
        assert told["token_strs"] == ["H", "i"]
        tokens.TokenizeAnswer.model_validate(told)
        chat = {
            "messages": [{"role": "user", "content": "Hi"}],
            "tools": [{"type": "function", "function": {"name": "f"}}],
            "add_generation_prompt": False,
            "chat_template_kwargs": {"a": 1},
        }
        assert (await door.http.post("/tokenize", json=chat)).json()["tokens"] == [72, 105]
        plain, bare, chatted = door.generation.tokenized
        assert (plain.add_special_tokens, bare.add_special_tokens) == (True, False)
        assert [tool.name for tool in chatted.tools] == ["f"]
        assert not chatted.templating.add_generation_prompt
        assert chatted.templating.variables == {"a": 1}
        assert (await door.http.post("/detokenize", json={"tokens": [72, 105]})).json() == {"prompt": "Hi"}
        assert refusal(await door.http.post("/detokenize", json={"tokens": [256]})) == (400, "bad_parameter", "tokens")

    with_door(test)


def test_a_models_way_with_text_is_told() -> None:
    async def test(door: ScriptedDoor) -> None:
        told = (await door.http.get("/tokenizer_info")).json()
        assert tokens.TokenizerInfoAnswer.model_validate(told).model_dump() == told
        assert (told["tokenizer_class"], told["model"], told["eos_token"]) == (
            "PreTrainedTokenizerFast",
            "tiny",
            "</s>",
        )

    with_door(test)


def test_which_model_must_be_said_where_there_are_several() -> None:
    async def test(door: ScriptedDoor) -> None:
        for response in (
            await door.http.post("/tokenize", json={"prompt": "Hi"}),
            await door.http.post("/detokenize", json={"tokens": []}),
            await door.http.get("/tokenizer_info"),
        ):
            assert refusal(response) == (400, "bad_parameter", "model")
        assert (await door.http.get("/tokenizer_info", params={"model": "two"})).json()["model"] == "two"

    with_door(test, names=["one", "two"])


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "prompt"),
        ({"prompt": 5}, "prompt"),
        ({"prompt": "x", "add_special_tokens": 1}, "add_special_tokens"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": USER, "chat_template": "x"}, "chat_template"),
        ({"messages": USER, "add_special_tokens": True}, "add_special_tokens"),
    ],
)
def test_a_wrong_field_of_what_is_to_be_tokenized_is_named(body: dict[str, Any], param: str) -> None:
    async def test(door: ScriptedDoor) -> None:
        assert refusal(await door.http.post("/tokenize", json=body)) == (400, "bad_parameter", param)

    with_door(test)


RANK = {"model": "tiny", "query": "a", "documents": ["b", {"text": "aaa"}, "ca"]}


def test_documents_are_ranked_as_jina_has_it() -> None:
    async def test(door: ScriptedDoor) -> None:
        for path in ("/v1/rerank", "/rerank"):
            told = (await door.http.post(path, json=RANK | {"top_n": 2, "instruction": "find"})).json()
            assert ranking.Ranking.model_validate(told).model_dump() == told
            assert [(one["index"], one["relevance_score"]) for one in told["results"]] == [(1, 0.3), (2, 0.1)]
            assert told["results"][0]["document"] == {"text": "aaa"}
            assert told["usage"] == {"prompt_tokens": 3, "total_tokens": 3}
        assert door.generation.scored[0].documents == ("b", "aaa", "ca")
        assert door.generation.scored[0].instruction == "find"
        for top in (None, 0, 5):
            assert len((await door.http.post("/rerank", json=RANK | {"top_n": top})).json()["results"]) == 3
        bare = (await door.http.post("/rerank", json=RANK | {"return_documents": False})).json()
        assert all("document" not in one for one in bare["results"])

    with_door(test)


def test_documents_are_ranked_as_cohere_has_it() -> None:
    async def test(door: ScriptedDoor) -> None:
        told = (await door.http.post("/v2/rerank", json=RANK)).json()
        assert [set(one) for one in told["results"]] == [{"index", "relevance_score"}] * 3
        assert told["meta"]["billed_units"]["search_units"] == 1
        assert told["id"]
        told = (await door.http.post("/v2/rerank", json=RANK | {"return_documents": True})).json()
        assert told["results"][0]["document"] == {"text": "aaa"}

    with_door(test)


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"query": None}, "query"),
        ({"query": ""}, "query"),
        ({"documents": []}, "documents"),
        ({"documents": "x"}, "documents"),
        ({"documents": ["x", ""]}, "documents[1]"),
        ({"documents": [{"image": "x"}]}, "documents[0].text"),
        ({"documents": ["x"] * 1001}, "documents"),
        ({"top_n": -1}, "top_n"),
        ({"return_documents": "yes"}, "return_documents"),
        ({"max_tokens_per_doc": 5}, "max_tokens_per_doc"),
    ],
)
def test_a_wrong_field_of_a_ranking_is_named(changes: dict[str, Any], param: str) -> None:
    async def test(door: ScriptedDoor) -> None:
        for path in ("/v1/rerank", "/v2/rerank"):
            assert refusal(await door.http.post(path, json=RANK | changes)) == (400, "bad_parameter", param)

    with_door(test)


@pytest.mark.parametrize(
    ("ones", "others", "scores"),
    [
        ("a", "aa", [0.2]),
        ("a", ["b", "a"], [0.0, 0.1]),
        (["a"], ["b", "a"], [0.0, 0.1]),
        (["a", "b"], ["aa", "b"], [0.2, 0.1]),
    ],
)
def test_texts_are_scored_as_vllm_has_it(ones: Any, others: Any, scores: list[float]) -> None:
    async def test(door: ScriptedDoor) -> None:
        for path in ("/score", "/v1/score"):
            told = (await door.http.post(path, json={"model": "tiny", "text_1": ones, "text_2": others})).json()
            assert ranking.ScoreList.model_validate(told).model_dump() == told
            assert told["data"] == [
                {"index": index, "object": "score", "score": score} for index, score in enumerate(scores)
            ]
            assert told["usage"]["prompt_tokens"] == len(scores)

    with_door(test)


def test_lists_of_different_lengths_are_not_scored() -> None:
    async def test(door: ScriptedDoor) -> None:
        body = {"model": "tiny", "text_1": ["a", "b"], "text_2": ["a", "b", "c"]}
        assert refusal(await door.http.post("/score", json=body)) == (400, "bad_parameter", "text_1")

    with_door(test)


def test_embeddings_are_what_the_document_promises() -> None:
    async def test(door: ScriptedDoor) -> None:
        for kind in ("float", "base64"):
            body = {"model": "tiny", "input": ["a"], "encoding_format": kind}
            told = (await door.http.post("/v1/embeddings", json=body)).json()
            assert embeddings.EmbeddingList.model_validate(told).model_dump() == told
        listed = (await door.http.get("/v1/models")).json()
        assert wire.ModelList.model_validate(listed).model_dump() == listed

    with_door(test)


def test_the_real_frontend_tells_tokens_without_a_worker(tmp_path: Path) -> None:
    async def run() -> None:
        async with live_door(tmp_path) as door:
            told = (await door.post("/tokenize", {"prompt": "Hello, 世界!", "return_token_strs": True})).json()
            assert told["tokens"] == door.tokenizer.encode_prompt("Hello, 世界!")
            assert (told["count"], told["max_model_len"]) == (len(told["tokens"]), 256)
            assert len(told["token_strs"]) == told["count"]
            back = (await door.post("/detokenize", {"tokens": told["tokens"]})).json()
            assert back == {"prompt": "Hello, 世界!"}
            chat = (await door.post("/tokenize", {"messages": USER})).json()
            expected = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
            assert chat["tokens"] == door.tokenizer.encode_rendered(expected)
            info = (await door.http.get("/tokenizer_info")).json()
            assert info["vocab_size"] == door.tokenizer.vocab_size
            assert "im_start" in info["chat_template"]
            wrong = await door.post("/detokenize", {"tokens": [10**6]})
            assert refusal(wrong) == (400, "bad_parameter", "tokens")

    asyncio.run(run())
