"""A real node spoken to by clients of Anthropic and Ollama, from an empty store to an answer and back."""

from __future__ import annotations

import json

import anthropic
import ollama
import pytest

from tests.system.node import Node, node

__all__ = ["node"]


def test_an_ollama_client_needs_nobody_to_prepare_the_node(node: Node) -> None:
    node.start()
    node.wait_for_door()
    with ollama.Client(host=node.url, timeout=60.0, trust_env=False) as client:
        with pytest.raises(ollama.ResponseError, match="try pulling it first"):
            client.chat("tiny", [{"role": "user", "content": "hi"}])
        steps = [step.status for step in client.pull("tiny:latest", stream=True)]
        assert steps[-1] == "success"
        assert [model.model for model in client.list().models] == ["tiny:latest"]
        assert client.ps().models == []
        asked = [{"role": "user", "content": "What does chmod do?"}]
        options = {"temperature": 0, "num_predict": 12}
        first = client.chat("tiny", asked, options=options)
        assert first.message.content
        assert first.load_duration is not None
        assert first.load_duration > 0
        (loaded,) = client.ps().models
        assert loaded.model == "tiny:latest"
        assert loaded.size is not None
        assert loaded.size > 0
        again = "".join(line.message.content or "" for line in client.chat("tiny", asked, options=options, stream=True))
        assert again == first.message.content
        assert client.show("tiny").template
        schema = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"],
                  "additionalProperties": False}  # fmt: skip
        held = client.chat("tiny", asked, format=schema, options={"temperature": 0})
        assert set(json.loads(held.message.content or "")) == {"ok"}
        with pytest.raises(ollama.ResponseError, match="format"):
            client.chat("tiny", asked, format={"type": "nonsense"})
        cut = client.generate("tiny", "chmod", raw=True, options=options | {"stop": [" "], "repeat_penalty": 1.1})
        assert " " not in (cut.response or "")
        client.copy("tiny", "mine")
        assert [model.model for model in client.list().models] == ["mine:latest", "tiny:latest"]
        with pytest.raises(ollama.ResponseError, match="is served as") as caught:
            client.delete("tiny")
        assert caught.value.status_code == 409
        assert client.generate("tiny", keep_alive=0).done_reason == "unload"
        client.delete("tiny")
        assert client.chat("mine", asked, options=options).message.content == first.message.content


def test_an_anthropic_client_gets_the_same_words_whole_and_in_pieces(node: Node) -> None:
    node.start()
    node.serve_tiny()
    node.wait_for_door()
    with anthropic.Anthropic(base_url=node.url, api_key="none", max_retries=0, timeout=60.0) as client:
        assert [model.id for model in client.models.list()] == ["tiny"]
        asked: list[anthropic.types.MessageParam] = [{"role": "user", "content": "What does chmod do?"}]
        greedy = {"temperature": 0}
        whole = client.messages.create(model="tiny", max_tokens=12, messages=asked, extra_body=greedy)
        with client.messages.stream(model="tiny", max_tokens=12, messages=asked, extra_body=greedy) as stream:
            final = stream.get_final_message()
        assert whole.content[0].type == final.content[0].type == "text"
        assert whole.content[0].text == final.content[0].text != ""
        counted = client.messages.count_tokens(model="tiny", messages=asked).input_tokens
        for message in (whole, final):
            assert message.usage.input_tokens + (message.usage.cache_read_input_tokens or 0) == counted
            assert message.stop_reason in ("max_tokens", "end_turn")
        long: list[anthropic.types.MessageParam] = [{"role": "user", "content": "word " * 20_000}]
        with pytest.raises(anthropic.BadRequestError) as caught:
            client.messages.create(model="tiny", max_tokens=12, messages=long)
        assert caught.value.error_code == "prompt_too_long"
