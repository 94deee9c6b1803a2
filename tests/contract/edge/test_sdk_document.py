"""The SDK and the OpenAPI documents agree: every operation has a method, and methods say what the schemas have."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import httpx2
import pytest

from tests.contract.edge.sdk_methods import METHODS, AnyClient, ask, opened, options, public
from tests.gates import gate
from tests.unit.edge_control.plane import Plane
from thaloom import AsyncClient, Client
from thaloom.base.errors import ThaloomError
from thaloom.door import openapi_document
from thaloom.edge.api.control.routes import control_app
from thaloom.edge.client.sdk.async_node import AsyncNode
from thaloom.edge.client.sdk.node import Node

WITHOUT_METHOD = {
    "get /": "a page for people",
    "post /thaloom/v1/access/refused": "what a door tells the daemon",
    "post /rerank": "the route of /v1/rerank under vLLM's name",
    "post /v2/rerank": "Cohere's form of /v1/rerank, for its clients",
    "post /score": "the route of /v1/score under vLLM's name",
}
WITHOUT_METHOD_BELOW = {
    # Path's beginning: why the clients people have, and not ours, are what calls it. A protocol may be absent.
    "/v1/messages": "Anthropic's protocol",
    "/api/": "Ollama's protocol, and the hub's",
    "/v1/responses": "OpenAI's protocol with a memory: the openai client keeps its state",
    "/v1/files": "OpenAI's files: only its batches use them",
    "/v1/batches": "OpenAI's batches",
    "/v1/audio/": "OpenAI's audio: the openai client",
    "/v1/images/": "OpenAI's images: the openai client",
    "/v2": "the Open Inference Protocol: its own clients",
    "/{name}/resolve/": "the hub's files",
    "/{org}/{name}/resolve/": "the hub's files",
}
TERMS = {"dry_run", "plan", "until"}
"""Of every request that changes something: people look before they leap with the command line."""
OPTIONS_OF_THE_SDK = {"on_progress", "timeout_s", "follow"}
"""What methods take and no schema has; `follow` is a query parameter all the same."""
NOT_FOR_CALLERS = {"read_through": "said by the door's own hub, on behalf of its callers"}
Operation = tuple[str, str]


def documents() -> list[dict[str, Any]]:
    return [openapi_document(), control_app(Plane(), gate()).openapi()]


def operations() -> dict[Operation, tuple[dict[str, Any], dict[str, Any]]]:
    """Everything documented, with the document it is in."""
    return {
        (verb, path): (operation, document)
        for document in documents()
        for path, verbs in document["paths"].items()
        for verb, operation in verbs.items()
        if verb in ("get", "put", "post", "delete", "patch")
    }


def told_not_to(operation: Operation) -> bool:
    verb, path = operation
    return f"{verb} {path}" in WITHOUT_METHOD or path.startswith(tuple(WITHOUT_METHOD_BELOW))


async def requests(kind: type[AnyClient], name: str) -> httpx2.Request:
    """What travels when the method is called with every option it has."""
    seen: list[httpx2.Request] = []

    def refuse(request: httpx2.Request) -> httpx2.Response:
        seen.append(request)
        return httpx2.Response(400, json={"error": {"code": "bad_request", "message": "seen"}})

    async with opened(kind, transport=httpx2.MockTransport(refuse), retries=None) as client:
        said = {option: 1 for option in options(client, name) if option not in OPTIONS_OF_THE_SDK}
        with pytest.raises(ThaloomError, match="seen"):
            await ask(client, name, *METHODS[name], **said)
    (request,) = seen
    return request


def sent(kind: type[AnyClient]) -> dict[str, httpx2.Request]:
    async def run() -> dict[str, httpx2.Request]:
        return {name: await requests(kind, name) for name in METHODS}

    return asyncio.run(run())


@pytest.fixture(scope="module")
def said() -> dict[str, httpx2.Request]:
    return sent(AsyncClient)


def operation_of(request: httpx2.Request, known: dict[Operation, Any]) -> Operation | None:
    path = request.url.raw_path.decode().partition("?")[0]
    exact = (request.method.lower(), path)
    if exact in known:
        return exact
    for verb, template in known:
        pattern = re.sub(r"\{[^}]*\}", "[^/]+", template)
        if verb == exact[0] and re.fullmatch(pattern, path):
            return verb, template
    return None


def test_every_method_is_tried() -> None:
    for client, below in ((Client, Node), (AsyncClient, AsyncNode)):
        assert sorted(public(client) + public(below, "node.")) == sorted(METHODS)


def test_both_clients_say_the_same(said: dict[str, httpx2.Request]) -> None:
    for name, request in sent(Client).items():
        other = said[name]
        assert (request.method, request.url, request.content) == (other.method, other.url, other.content), name


def test_every_operation_has_a_method(said: dict[str, httpx2.Request]) -> None:
    known = operations()
    called = {operation_of(request, known) for request in said.values()}
    without = [operation for operation in known if operation not in called and not told_not_to(operation)]
    assert without == [], "give them a method in edge/client/sdk, or a reason in WITHOUT_METHOD"


def test_every_method_calls_what_there_is(said: dict[str, httpx2.Request]) -> None:
    known = operations()
    undocumented = {"/thaloom/v1/openapi.json"}  # a document that describes itself no further
    lost = [
        f"{name}: {request.method} {request.url.path}"
        for name, request in said.items()
        if operation_of(request, known) is None and request.url.path not in undocumented
    ]
    assert lost == []


def test_no_reason_is_given_for_what_is_not_there() -> None:
    known = {f"{verb} {path}" for verb, path in operations()}
    assert set(WITHOUT_METHOD) <= known


def test_methods_say_what_the_schemas_have_and_all_of_it(said: dict[str, httpx2.Request]) -> None:
    known = operations()
    by_operation: dict[Operation, set[str]] = {}
    for name, request in said.items():
        operation = operation_of(request, known)
        if operation is None or not request.content:
            continue
        fields = set(httpx2.Response(200, content=request.content).json())
        assert fields <= properties(*known[operation])[0], name
        by_operation.setdefault(operation, set()).update(fields)
    for operation, fields in by_operation.items():
        _, served = properties(*known[operation])
        assert served <= fields, f"{operation}: no method can say these"


def test_methods_ask_with_the_parameters_there_are(said: dict[str, httpx2.Request]) -> None:
    known = operations()
    for name, request in said.items():
        operation = operation_of(request, known)
        if operation is not None:
            parameters = known[operation][0].get("parameters", [])
            has = {parameter["name"] for parameter in parameters if parameter["in"] == "query"}
            assert set(request.url.params.keys()) == has - TERMS, name


def properties(operation: dict[str, Any], document: dict[str, Any]) -> tuple[set[str], set[str]]:
    """The fields a body may have, and those of them that are served."""
    schema = operation["requestBody"]["content"]["application/json"]["schema"]
    has: set[str] = set()
    served: set[str] = set()
    for one in schema.get("anyOf", [schema]):
        fields = document["components"]["schemas"][one["$ref"].rpartition("/")[2]]["properties"]
        has |= set(fields)
        served |= {name for name, field in fields.items() if "Not served" not in field.get("description", "")}
        served -= set(NOT_FOR_CALLERS)
    return has, served


def test_an_operation_without_a_method_would_be_found(said: dict[str, httpx2.Request]) -> None:
    known = operations()
    less = {name: request for name, request in said.items() if name != "node.down"}
    called = {operation_of(request, known) for request in less.values()}
    assert [operation for operation in known if operation not in called and not told_not_to(operation)] == [
        ("post", "/thaloom/v1/down")
    ]
