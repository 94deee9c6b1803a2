"""The door as one ASGI application: composes the routes, and nothing else."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine
from html import escape
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from thaloom import __version__
from thaloom.base.clock import Clock
from thaloom.base.errors import ThaloomError
from thaloom.base.events import Emit
from thaloom.edge.api import health
from thaloom.edge.api.document import add_plain_routes
from thaloom.edge.api.errors import error_response, from_http_exception
from thaloom.edge.api.generation import GenerationRoute
from thaloom.edge.api.guard import Guard, defect
from thaloom.edge.api.kserve.document import add_infer_route
from thaloom.edge.api.kserve.routes import add_routes, infer_route
from thaloom.edge.api.metrics import DoorMetrics, MetricsPage
from thaloom.edge.api.openai import models as openai_models
from thaloom.edge.api.openai import speaking as openai
from thaloom.edge.api.proxy import ControlProxy
from thaloom.edge.wire import openai as wire
from thaloom.work.runtime.types import Generation, Inference

DESCRIPTION = "Local models behind the OpenAI protocol. The control API has its own document: /thaloom/v1/openapi.json"
Handler = Callable[[Request, Any], Coroutine[Any, Any, Response]]
PAGES = {
    "/v1/models": "models served here (OpenAI)",
    "/v1/chat/completions": "chat (OpenAI; POST)",
    "/v1/completions": "completions (OpenAI; POST)",
    "/v2": "models that are no language models (Open Inference Protocol)",
    "/healthz": "whether the door lives",
    "/readyz": "whether it can serve, and what",
    "/version": "what it is",
    "/metrics": "measurements (Prometheus)",
    "/openapi.json": "this API, described",
    "/thaloom/v1/openapi.json": "the control API, described",
}


def door_app(
    generation: Generation,
    *,
    control_socket: Path,
    clock: Clock,
    emit: Emit,
    inference: Inference | None = None,
) -> ASGIApp:
    """Everything the door serves, behind its guard. `generation` and `inference` are work.runtime.frontend.Frontend in
    real life; without `inference` there is no /v2."""
    metrics = DoorMetrics()
    proxy = ControlProxy(control_socket)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await proxy.close()

    app = _small_routes(generation, inference, lifespan=lifespan, exception_handlers=_error_handlers(metrics))

    streaming = {
        path: GenerationRoute(speaking, generation=generation, clock=clock, metrics=metrics)
        for path, speaking in (("/v1/chat/completions", openai.CHAT), ("/v1/completions", openai.COMPLETION))
    }

    document: dict[str, Any] = {}

    async def openapi(_: Request) -> Response:
        if not document:
            document.update(openapi_document(generation, inference))
        return JSONResponse(document)

    for route in app.routes:
        if isinstance(route, APIRoute) and route.methods is not None:
            route.methods.add("HEAD")  # wherever GET is served, as Starlette's own routes do (RFC 9110, 9.1)
    app.router.routes += [
        *(Route(path, route, methods=["POST"]) for path, route in streaming.items()),
        *(() if inference is None else (infer_route(inference),)),
        Route("/metrics", MetricsPage(metrics, generation).__call__, methods=["GET"]),
        Route("/openapi.json", openapi, methods=["GET"]),
        Route("/", _index, methods=["GET"]),
        Mount("/thaloom/v1", proxy),
    ]

    async def door(scope: Scope, receive: Receive, send: Send) -> None:
        """What streams is reached before the framework, through whose layers every chunk would have to go; it gets
        other methods, to refuse them."""
        straight = streaming.get(scope["path"]) if scope.get("method") == "POST" else None
        await (straight or app)(scope, receive, send)

    return Guard(door, clock=clock, emit=emit, metrics=metrics)


def openapi_document(generation: Generation, inference: Inference | None = None) -> dict[str, Any]:
    """The OpenAPI 3.1 document of everything the door itself serves."""
    document = add_plain_routes(_small_routes(generation, inference).openapi())
    return document if inference is None else add_infer_route(document)


def _small_routes(generation: Generation, inference: Inference | None = None, **options: Any) -> FastAPI:
    app = FastAPI(
        title="Thaloom",
        version=__version__,
        description=DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
        responses={"4XX": {"model": wire.Error}, "5XX": {"model": wire.Error}},
        **options,
    )

    @app.get("/v1/models", tags=["openai"], operation_id="list_models")
    async def models() -> wire.ModelList:
        return openai_models.list_models(generation)

    @app.get("/v1/models/{model:path}", tags=["openai"], operation_id="get_model")
    async def model(model: str) -> wire.Model:
        return openai_models.get_model(generation, model)

    @app.get("/healthz", tags=["node"], operation_id="health")
    async def healthz() -> health.Health:
        return health.health()

    @app.get("/readyz", tags=["node"], operation_id="readiness")
    async def readyz() -> health.Readiness:
        return health.readiness(generation)

    @app.get("/version", tags=["node"], operation_id="version")
    async def version() -> health.DoorVersion:
        return health.version()

    if inference is not None:
        add_routes(app, inference)
    return app


def _error_handlers(metrics: DoorMetrics) -> dict[int | type[Exception], Handler]:
    async def tell(request: Request, error: ThaloomError) -> Response:
        metrics.errors.labels(error.code).inc()
        return error_response(error, request.scope["path"])

    async def tell_http(request: Request, error: HTTPException) -> Response:
        return await tell(request, from_http_exception(request, error))

    async def tell_defect(request: Request, _: Exception) -> Response:
        return await tell(request, defect(request.state.request_id))  # the guard logs what it was

    return {ThaloomError: tell, HTTPException: tell_http, Exception: tell_defect}


async def _index(_: Request) -> Response:
    rows = "\n".join(f'<li><a href="{path}">{path}</a>: {escape(text)}</li>' for path, text in PAGES.items())
    return HTMLResponse(
        f"<!doctype html><html lang='en'><meta charset='utf-8'><title>Thaloom</title>"
        f"<h1>Thaloom {__version__}</h1><ul>\n{rows}\n</ul></html>\n"
    )
