"""A real node over a foreign engine (the fake one of the contract tests): through the door, through loss, and gone."""

from __future__ import annotations

import json
import os
from importlib.util import find_spec
from pathlib import Path

import httpx2
import openai
import pytest

from tests.contract.engines.site import install, some_gguf
from tests.models import make_model
from tests.system.cli import thaloom
from tests.system.node import PATIENCE_S, Node, eventually, node

__all__ = ["node"]
from thaloom.base.errors import DriverUnavailable, Forbidden, NotServable, ServiceFailed
from thaloom.edge.wire.control import ServeRequest

pytestmark = pytest.mark.slow


def engines(node: Node) -> list[str]:
    found = []
    for process in node.processes_of_home():
        try:
            arguments = Path(f"/proc/{process.pid}/cmdline").read_bytes().decode().split("\0")
        except OSError:  # it ended just now
            continue
        if any("fake_engine" in argument for argument in arguments) and not any("keeper" in a for a in arguments):
            found.append(str(process.pid))
    return found


def start(node: Node, folder: Path, monkeypatch: pytest.MonkeyPatch, **told: object) -> None:
    install(folder, monkeypatch, **told)
    node.environment |= {name: os.environ[name] for name in ("PATH", "FAKE_ENGINE")}
    node.environment["FAKE_ENGINE_LOG"] = "/dev/stdout"  # its walls leave it no file; what it says is in the log
    node.start()
    node.wait_for_door()


def test_a_foreign_engine_is_served_healed_and_gone(
    node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start(node, tmp_path, monkeypatch)
    path = some_gguf(tmp_path)
    result = thaloom(node, "serve", str(path), "--engine", "llama.cpp", "--name", "guest", "--context", "64")
    assert result.code == 0, result.err
    assert "Degraded" in result.out
    with node.client() as client:
        service = client.service("guest")
        assert (service.spec.engine, service.context_length) == ("llama.cpp", 64)
        assert service.weight_bytes
        assert any(condition.kind == "Degraded" and condition.status for condition in service.conditions)
    model = openai.OpenAI(base_url=f"{node.url}/v1", api_key="none", max_retries=0, timeout=PATIENCE_S)
    answer = model.chat.completions.create(model="guest", messages=[{"role": "user", "content": "hi"}])
    assert answer.choices[0].message.content == "Hello"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (5, 2)
    streamed = list(model.completions.create(model="guest", prompt="Say", max_tokens=3, stream=True))
    assert "".join(chunk.choices[0].text for chunk in streamed if chunk.choices) == "Hello"
    said = [line for line in thaloom(node, "logs", "guest").out.splitlines() if line.startswith('{"path"')]
    assert [json.loads(line)["path"] for line in said] == ["/v1/chat/completions", "/v1/completions"]
    metrics = httpx2.get(f"{node.url}/metrics").text
    assert any("guest" in line and line.endswith(" 4.0") for line in metrics.splitlines()), metrics  # its tokens so far

    (engine,) = engines(node)
    node.kill(int(engine))
    eventually(lambda: engines(node) not in ([], [engine]))
    with node.client() as client:
        eventually(lambda: client.service("guest").phase == "ready")
        assert client.service("guest").restarts == 1
    again = eventually(lambda: _answer(model))
    assert again == "Hello"
    assert "fake engine: well" in thaloom(node, "logs", "guest").out

    old = engines(node)
    node.kill(node.process("worker", "guest").pid)  # its engine goes with it, and both come back
    eventually(lambda: _answer(model) == "Hello")
    eventually(lambda: len(engines(node)) == 1 and engines(node) != old)
    assert thaloom(node, "stop", "guest").code == 0
    eventually(lambda: engines(node) == [])


def _answer(model: openai.OpenAI) -> str | None:
    try:
        answer = model.chat.completions.create(model="guest", messages=[{"role": "user", "content": "hi"}])
    except openai.APIStatusError:
        return None
    return answer.choices[0].message.content


def test_an_engine_that_never_loads_is_failed_with_its_own_words(
    node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start(node, tmp_path, monkeypatch, mood="die while loading")
    with node.client() as client:
        client.serve("guest", ServeRequest(model=str(some_gguf(tmp_path)), engine="llama.cpp"))
        with pytest.raises(ServiceFailed, match="cannot read the weights"):
            client.wait_ready("guest", timeout_s=PATIENCE_S)
        with pytest.raises(DriverUnavailable, match="vllm"):
            client.serve("other", ServeRequest(model=str(tmp_path), engine="vllm"))
        with pytest.raises(Forbidden, match="engine_hosts"):
            client.serve("other", ServeRequest(model="m", engine="openai", url="https://models.example/v1"))
        client.stop("guest")
    eventually(lambda: engines(node) == [])


def test_a_model_of_an_architecture_we_do_not_have_names_the_engine_that_takes_it(node: Node, tmp_path: Path) -> None:
    model = make_model(tmp_path / "odd")
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"architectures": ["GPTNeoXForCausalLM"]}))
    node.start()
    node.wait_for_door()
    assert thaloom(node, "pull", str(model)).code == 0
    result = thaloom(node, "serve", "odd")
    assert result.code != 0
    assert "no own model for architecture GPTNeoXForCausalLM" in result.err
    assert "thaloom serve odd --engine transformers" in result.err
    if find_spec("torch") is None or find_spec("transformers") is None:
        asked = thaloom(node, "serve", "odd", "--engine", "transformers")
        assert asked.code != 0
        assert "thaloom[transformers]" in asked.err
    with node.client() as client, pytest.raises(NotServable, match="'transformers' serves models that continue texts"):
        (model / "config.json").write_text(json.dumps(config | {"architectures": ["BertModel"]}))
        assert thaloom(node, "pull", str(model), "--name", "bert").code == 0
        client.serve("bert", ServeRequest(model="bert", engine="transformers"))
