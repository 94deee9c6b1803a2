"""Every method of the SDK with what it cannot be called without, and both clients behind one way of calling them."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import operator
import typing
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

from tests.contract.edge.live_door import LiveDoor, live_door
from tests.gates import gate
from tests.unit.edge_control.plane import Plane
from thaloom import AsyncClient, Client
from thaloom.edge.api.control.routes import control_app
from thaloom.edge.api.control.server import ControlServer
from thaloom.edge.client.sdk.async_connection import AsyncStream
from thaloom.edge.client.sdk.connection import Stream

FEDERATION = {
    "apiVersion": "thaloom/v1",
    "kind": "Federation",
    "metadata": {"name": "f"},
    "spec": {"model": "tiny", "participants": ["a", "b"]},
}
METHODS: dict[str, tuple[Any, ...]] = {
    "chat": ("tiny", "hi"),
    "stream_chat": ("tiny", "hi"),
    "complete": ("tiny", "hi"),
    "stream_complete": ("tiny", "hi"),
    "embed": ("tiny", ["a", "b"]),
    "rerank": ("tiny", "a", ["b", {"text": "c"}]),
    "score": ("tiny", "a", ["b", "c"]),
    "tokenize": ("hi",),
    "tokenize_chat": ("hi",),
    "detokenize": ([72, 105],),
    "tokenizer_info": (),
    "models": (),
    "model": ("tiny",),
    "health": (),
    "ready": (),
    "version": (),
    "metrics": (),
    "openapi": (),
    "node.version": (),
    "node.status": (),
    "node.processes": (),
    "node.events": (),
    "node.devices": (),
    "node.device": ("cpu",),
    "node.models": (),
    "node.model": ("tiny:v1",),
    "node.pull": ("/somewhere",),
    "node.unfinished_pulls": (),
    "node.remove_pull": ("hf://a/b@main",),
    "node.outgoing": (),
    "node.copy_model": ("tiny:v1", "small"),
    "node.quantise": ("tiny",),
    "node.verify": ("tiny",),
    "node.remove_model": ("tiny",),
    "node.serve": ("tiny",),
    "node.services": (),
    "node.service": ("tiny",),
    "node.wait_ready": ("tiny",),
    "node.logs": ("tiny",),
    "node.put_alias": ("best", {"tiny": 1}),
    "node.alias": ("best",),
    "node.aliases": (),
    "node.return_canary": ("best",),
    "node.remove_alias": ("best",),
    "node.run_job": ("prepare", ["true"]),
    "node.job": ("prepare",),
    "node.jobs": (),
    "node.job_logs": ("prepare",),
    "node.stop_job": ("prepare",),
    "node.wait_job": ("prepare",),
    "node.remove_job": ("prepare",),
    "node.encryption": (),
    "node.make_master_key": (),
    "node.rotate_master_key": (),
    "node.certificate": (),
    "node.make_certificate": (),
    "node.renew_certificate": (),
    "node.import_certificate": ("/somewhere.pem",),
    "node.encrypt": ("tiny:v1",),
    "node.decrypt": ("tiny:v1",),
    "node.actions": (),
    "node.action": ("a-1",),
    "node.undo": ("a-1",),
    "node.approve": ("0" * 64,),
    "node.checkpoint": (),
    "node.verify_journal": (),
    "node.whoami": (),
    "node.make_tenant": ("acme",),
    "node.tenants": (),
    "node.tenant": ("acme",),
    "node.set_quota": ("acme",),
    "node.apply": ([FEDERATION],),
    "node.documents": (),
    "node.document": ("federation", "f"),
    "node.keys": (),
    "node.make_key": ("ci",),
    "node.narrow_key": ("ci", "ci-nightly"),
    "node.remove_key": ("ci",),
    "node.remove_tenant": ("acme",),
    "node.wake": ("tiny",),
    "node.keep_alive": ("tiny", 600),
    "node.stop": ("tiny",),
    "node.openapi": (),
    "node.down": (),
}
"""In an order in which they can be called one after another."""
NEEDED: dict[str, dict[str, Any]] = {
    "node.quantise": {"to": "int8"},
    "node.return_canary": {"revision": 1, "reason": "worse"},
}
"""Keywords without a default."""
OVER_THE_SOCKET = (
    *("node.keys", "node.make_key", "node.narrow_key", "node.remove_key"),
    *("node.make_tenant", "node.tenants", "node.tenant", "node.set_quota", "node.remove_tenant"),
    *("node.make_certificate", "node.renew_certificate", "node.import_certificate"),
    *("node.make_master_key", "node.rotate_master_key", "node.encrypt", "node.decrypt"),
    *("node.apply", "node.documents", "node.document"),
    *("node.actions", "node.action", "node.undo"),
    *("node.run_job", "node.job", "node.jobs", "node.job_logs", "node.stop_job", "node.wait_job", "node.remove_job"),
    *("node.approve", "node.checkpoint", "node.verify_journal"),
)
NO_CALLS = {"aclose", "close", "url", "node"}
AnyClient = Client | AsyncClient


def public(kind: type, prefix: str = "") -> list[str]:
    return [prefix + name for name, _ in inspect.getmembers(kind) if not name.startswith("_") and name not in NO_CALLS]


def method(client: AnyClient, name: str) -> Any:
    return operator.attrgetter(name)(client)


def options(client: AnyClient, name: str) -> dict[str, Any]:
    """Every option of a method by name, with what it is annotated with."""
    function = method(client, name).__func__
    module = vars(inspect.getmodule(function))
    found: dict[str, Any] = {}
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            fields = eval(parameter.annotation, module)
            found |= typing.get_type_hints(typing.get_args(fields)[0])
        elif parameter.kind is inspect.Parameter.KEYWORD_ONLY:
            found[parameter.name] = parameter.annotation
    return found


async def ask(client: AnyClient, name: str, /, *arguments: Any, **options: Any) -> Any:
    """What a method gives, of a stream the list of its pieces."""
    if isinstance(client, Client):
        return await asyncio.to_thread(_ask, client, name, *arguments, **options)
    answer = method(client, name)(*arguments, **options)
    if isinstance(answer, AsyncStream):
        async with answer as pieces:
            return [piece async for piece in pieces]
    return await answer


def _ask(client: Client, name: str, /, *arguments: Any, **options: Any) -> Any:
    answer = method(client, name)(*arguments, **options)
    if isinstance(answer, Stream):
        with answer as pieces:
            return list(pieces)
    return answer


@contextlib.asynccontextmanager
async def opened(kind: type[AnyClient], *arguments: Any, **options: Any) -> AsyncIterator[AnyClient]:
    client = kind(*arguments, **options)
    try:
        yield client
    finally:
        if isinstance(client, Client):
            client.close()
        else:
            await client.aclose()


@contextlib.asynccontextmanager
async def node(folder: Path, **options: Any) -> AsyncIterator[tuple[LiveDoor, Plane]]:
    """A door on loopback, and behind it a control server on a real socket, as they are in a node."""
    plane = Plane()
    (folder / "run").mkdir()
    with _same_place(folder / "control.sock", folder / "run" / "control.sock"):
        server = ControlServer(control_app(plane, gate()), folder / "run" / "control.sock")
        server.listen()
        serving = asyncio.create_task(server.serve())
        try:
            async with live_door(folder, **options) as door:
                yield door, plane
        finally:
            server.stop()
            await serving


@contextlib.contextmanager
def _same_place(link: Path, place: Path) -> Iterator[None]:
    link.symlink_to(place)
    try:
        yield
    finally:
        link.unlink()
