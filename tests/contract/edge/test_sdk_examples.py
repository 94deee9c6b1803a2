"""Every example of docs/sdk.md and of the SDK's docstrings runs as it stands."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import dataclasses
import doctest
import inspect
import io
import itertools
import re
from pathlib import Path
from typing import Any

import pytest

from tests.contract.edge.sdk_methods import METHODS, method, node, opened
from thaloom import AsyncClient, Client
from thaloom.base.errors import ModelInUse, ModelNotFound, ThaloomError

ROOT = Path(__file__).resolve().parents[3]
PAGE = ROOT / "docs" / "sdk.md"
REFUSED: dict[str, type[ThaloomError]] = {"node.model": ModelNotFound, "node.remove_model": ModelInUse}
"""By the fake node, which has another model and serves it."""


def test_the_page_runs(short_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 6
    shown = io.StringIO()

    def read() -> None:
        names: dict[str, Any] = {}
        with contextlib.redirect_stdout(shown):
            for block in blocks:
                exec(compile(block, str(PAGE), "exec"), names)

    async def run() -> None:
        async with node(short_path) as (door, plane):
            monkeypatch.setenv("THALOOM_HOST", "127.0.0.1")
            monkeypatch.setenv("THALOOM_PORT", door.url.rpartition(":")[2])
            door.say("Hi!")
            door.routes.routes = [dataclasses.replace(door.routes.routes[0], context_length=1024)]
            plane.gate.set()
            plane.source = lambda source: Path("/bundled") / source  # type: ignore[method-assign]
            plane.phases = itertools.repeat("ready")
            await asyncio.to_thread(read)

    asyncio.run(run())
    told = shown.getvalue().splitlines()
    assert told[0] == "Hi!"
    assert told[2].startswith("Hi!")
    assert {"The socket option", "ready", "prompt_too_long 1024", "['follow=False tail=5']"} <= set(told)


def examples(kind: type[Client] | type[AsyncClient]) -> dict[str, list[doctest.Example]]:
    """Of every method, one after another."""
    client = kind("http://127.0.0.1:9")
    parser = doctest.DocTestParser()
    return {name: parser.get_examples(inspect.getdoc(method(client, name)) or "") for name in METHODS}


def test_every_method_has_an_example() -> None:
    for kind in (Client, AsyncClient):
        assert [name for name, found in examples(kind).items() if not found] == []
    for name, found in examples(AsyncClient).items():
        assert any(word in example.source for example in found for word in ("await", "async")), name
        for example in found:
            compile(example.source, name, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


def test_the_examples_of_the_methods_run(short_path: Path) -> None:
    def read(client: Client) -> None:
        for name, found in examples(Client).items():
            with pytest.raises(REFUSED[name]) if name in REFUSED else contextlib.nullcontext():
                names: dict[str, Any] = {"client": client}
                for example in found:
                    shown = io.StringIO()
                    with contextlib.redirect_stdout(shown):
                        exec(compile(example.source, name, "single"), names)
                    assert not example.want or shown.getvalue() == example.want, name

    async def run() -> None:
        async with node(short_path) as (door, plane):
            door.say("Hi!")
            door.routes.routes = [dataclasses.replace(door.routes.routes[0], context_length=1024)]
            plane.gate.set()
            plane.source = lambda source: Path("/bundled") / source  # type: ignore[method-assign]
            plane.phases = itertools.repeat("ready")
            async with opened(Client, door.url, home=short_path) as client:
                assert isinstance(client, Client)
                await asyncio.to_thread(client.node.serve, "tiny")
                await asyncio.to_thread(client.node.serve, "chat", model="tiny")
                await asyncio.to_thread(read, client)

    asyncio.run(run())
