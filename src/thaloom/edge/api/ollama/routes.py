"""Every route of Ollama's protocol but the two that generate."""

from __future__ import annotations

from typing import Any, NoReturn

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from thaloom.base.clock import Clock
from thaloom.base.errors import ModelNotFound, UnknownPath
from thaloom.edge.api.entrance.visits import only_without_keys
from thaloom.edge.api.errors import to_json
from thaloom.edge.api.ollama import models
from thaloom.edge.api.ollama.embed import embed, embeddings
from thaloom.edge.api.ollama.loading import Loading
from thaloom.edge.api.ollama.names import local_name
from thaloom.edge.api.ollama.node import Node
from thaloom.edge.api.ollama.pulling import PullRoute
from thaloom.edge.api.ollama.requests import read
from thaloom.edge.api.routes.object_route import Answered, ObjectRoute
from thaloom.edge.wire import control
from thaloom.edge.wire import ollama as wire
from thaloom.work.runtime.types import Generation

_REFUSED = {
    "/api/create": "models are not made of Modelfiles here; pull one, or import a folder with `thaloom pull`",
    "/api/push": "models are not pushed from here",
    "/api/blobs/{digest}": "files are not taken one by one here; import a folder with `thaloom pull`",
}


def routes(loading: Loading, *, generation: Generation, node: Node, clock: Clock) -> list[Route]:
    async def tags(_: Request) -> Response:
        return _answer(await models.tags(node))

    async def ps(_: Request) -> Response:
        return _answer(await models.ps(node, clock.now()))

    async def version(_: Request) -> Response:
        return _answer(models.version())

    async def show(data: dict[str, Any]) -> Answered:
        return await models.show(node, generation, read(wire.NamedRequest, data).model)

    async def copy(data: dict[str, Any]) -> Answered:
        """What has that name already gives way, as there."""
        only_without_keys("models are copied")
        fields = read(wire.CopyRequest, data)
        source = (await node.model(local_name(fields.source))).name
        await node.copy_model(source, control.CopyRequest(name=local_name(fields.destination), replace=True))
        return None

    async def delete(data: dict[str, Any]) -> Answered:
        only_without_keys("models are removed")
        name = read(wire.NamedRequest, data).model
        try:
            await models.delete(node, name)
        except ModelNotFound as error:
            raise ModelNotFound(f"model {name!r} not found", param="model") from error
        return None

    return [
        Route("/api/tags", tags, methods=["GET"]),
        Route("/api/ps", ps, methods=["GET"]),
        Route("/api/version", version, methods=["GET"]),
        Route("/api/show", ObjectRoute(show), methods=["POST"]),
        Route("/api/copy", ObjectRoute(copy), methods=["POST"]),
        Route("/api/delete", ObjectRoute(delete), methods=["DELETE"]),
        Route("/api/pull", PullRoute(node), methods=["POST"]),
        Route("/api/embed", embed(loading, generation, clock), methods=["POST"]),
        Route("/api/embeddings", embeddings(loading, generation), methods=["POST"]),
        *(Route(path, _refuse, methods=["GET", "POST"]) for path in _REFUSED),
    ]


async def _refuse(request: Request) -> NoReturn:
    path = request.scope["path"]
    why = next(why for known, why in _REFUSED.items() if path.startswith(known.partition("{")[0]))
    raise UnknownPath(f"{path}: {why}")


def _answer(told: Any) -> Response:
    return Response(to_json(told.model_dump(exclude_none=True)), media_type="application/json")
