"""The door as one ASGI application: composes the routes, and nothing else."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from html import escape
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.routing import APIRoute
from prometheus_client.registry import Collector
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from thaloom import __version__
from thaloom.base.clock import Clock
from thaloom.base.errors import ThaloomError
from thaloom.base.events import Emit
from thaloom.base.heap import give_back
from thaloom.edge.api import health
from thaloom.edge.api.anthropic import models as anthropic_models
from thaloom.edge.api.anthropic import speaking as anthropic
from thaloom.edge.api.anthropic.errors import VERSION_HEADER
from thaloom.edge.api.control.proxy import ControlProxy
from thaloom.edge.api.document.common import add_common
from thaloom.edge.api.document.plain import add_plain_routes
from thaloom.edge.api.entrance.guard import Guard, defect
from thaloom.edge.api.entrance.hosts import LOOPBACK, Hosts
from thaloom.edge.api.entrance.refusals import Refusals
from thaloom.edge.api.entrance.room import Room
from thaloom.edge.api.entrance.tracing import Tracing
from thaloom.edge.api.entrance.visits import Doorkeeper
from thaloom.edge.api.errors import error_response, from_http_exception
from thaloom.edge.api.hub.routes import HubRoutes, OpenHub
from thaloom.edge.api.kserve.document import add_infer_route
from thaloom.edge.api.kserve.routes import add_routes, infer_route
from thaloom.edge.api.measures.metered import MeteredGeneration
from thaloom.edge.api.measures.metered_inference import MeteredInference
from thaloom.edge.api.measures.metrics import DoorMetrics, MetricsPage
from thaloom.edge.api.ollama.loading import Loading
from thaloom.edge.api.ollama.node import OfHolder
from thaloom.edge.api.ollama.routes import routes as ollama_routes
from thaloom.edge.api.ollama.talking import talking
from thaloom.edge.api.openai import audio, images, tokens
from thaloom.edge.api.openai import models as openai_models
from thaloom.edge.api.openai import speaking as openai
from thaloom.edge.api.openai.audio_document import add_audio
from thaloom.edge.api.openai.kept.keeping import Keeping
from thaloom.edge.api.openai.kept.part import KeptPart
from thaloom.edge.api.routes.exchange import Exchange
from thaloom.edge.api.routes.generation import GenerationRoute
from thaloom.edge.client.control_async import AsyncControlClient
from thaloom.edge.wire import anthropic as anthropic_wire
from thaloom.edge.wire import health as health_wire
from thaloom.edge.wire import openai as wire
from thaloom.edge.wire.tokens import TokenizerInfoAnswer
from thaloom.work.runtime.types import Generation, Inference

DESCRIPTION = (
    "Local models behind the protocols of OpenAI, Anthropic and Ollama. "
    "The control API has its own document: /thaloom/v1/openapi.json"
)
Handler = Callable[[Request, Any], Coroutine[Any, Any, Response]]
PAGES = {
    "/v1/models": "models served here (OpenAI)",
    "/v1/chat/completions": "chat (OpenAI; POST)",
    "/v1/completions": "completions (OpenAI; POST)",
    "/v1/embeddings": "embeddings (OpenAI; POST)",
    "/v1/rerank": "which documents answer a query best (Jina; POST; /v2/rerank: Cohere)",
    "/score": "how well texts go together (vLLM; POST)",
    "/tokenize": "a text's or a chat's tokens (vLLM; POST)",
    "/detokenize": "tokens' text (vLLM; POST)",
    "/tokenizer_info": "a model's way with text (vLLM)",
    "/v1/messages": "messages (Anthropic; POST)",
    "/api/chat": "chat (Ollama; POST)",
    "/api/tags": "models stored here (Ollama)",
    "/v1/responses": "responses (OpenAI; POST)",
    "/v1/files": "files (OpenAI)",
    "/v1/batches": "batches (OpenAI)",
    "/v1/images/generations": "text to image (OpenAI; POST)",
    "/v1/audio/transcriptions": "speech to text (OpenAI; POST; /v1/audio/speech: text to speech)",
    "/api/models": "a hub of what is in the store (HF_ENDPOINT)",
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
    keeping: Keeping | None = None,
    doorkeeper: Doorkeeper | None = None,
    tracing: Tracing | None = None,
    hub: OpenHub | None = None,
    inference: Inference | None = None,
    room: Room | None = None,
    hosts: Hosts = LOOPBACK,
    collectors: Sequence[Collector] = (),
    refusals: Refusals | None = None,
) -> ASGIApp:
    """Everything the door serves, behind its guard. In real life `generation` and `inference` are
    work.runtime.frontend.frontend.Frontend (without `inference` there is no /v2/models), and `doorkeeper`
    work.runtime.frontend.doorkeeper.Doorkeeper (None: nobody is asked for a key); `keeping` is kernel.state.kept.Kept
    (None: nothing is served that must be kept: responses, files, batches). `tracing` None: no traces. `hub` opens the
    store, and says who fetches what is not in it. `room`: for bodies; None: as much as there is by default.
    `hosts`: by which names the door may be asked for. `collectors`: of further measurements."""
    metrics = DoorMetrics()
    for collector in collectors:
        metrics.registry.register(collector)
    unmetered, generation = generation, MeteredGeneration(generation, metrics, clock)
    inference = None if inference is None else MeteredInference(inference)
    proxy = ControlProxy(control_socket)
    client = AsyncControlClient(control_socket)
    node = OfHolder(client)
    room = room or Room()
    keeper = None if keeping is None else KeptPart(generation, keeping, clock, emit, metrics, doorkeeper)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with contextlib.nullcontext() if keeper is None else keeper.working(guarded):
            tidying = asyncio.create_task(room.tidy(clock, give_back))
            yield
            tidying.cancel()
            await asyncio.gather(tidying, return_exceptions=True)
        await proxy.close()
        await client.close()

    app = _small_routes(generation, inference, lifespan=lifespan, exception_handlers=_error_handlers(metrics))

    streaming: dict[str, ASGIApp] = {
        path: GenerationRoute(speaking, generation=generation, clock=clock, metrics=metrics)
        for path, speaking in openai.GENERATIONS.items()
    }
    exchanges = {
        path: Exchange(answer, id_prefix, generation=generation, clock=clock)
        for path, (answer, id_prefix) in openai.EXCHANGES.items()
    }
    streaming["/v1/messages"] = GenerationRoute(anthropic.MESSAGES, generation=generation, clock=clock, metrics=metrics)

    loading = Loading(generation=generation, node=node, clock=clock)
    streaming |= talking(loading, generation=generation, clock=clock, metrics=metrics)
    if keeper is not None:
        streaming |= keeper.streaming

    document: dict[str, Any] = {}

    async def openapi(_: Request) -> Response:
        if not document:
            document.update(openapi_document(generation, inference))
        return JSONResponse(document)

    for route in app.routes:
        if isinstance(route, APIRoute) and route.methods is not None:
            route.methods.add("HEAD")  # wherever GET is served, as Starlette's own routes do (RFC 9110, 9.1)
    app.router.routes += [
        *(Route(path, route, methods=["POST"]) for path, route in (streaming | exchanges).items()),
        Route("/v1/messages/count_tokens", anthropic.count_tokens(generation), methods=["POST"]),
        Route("/v1/messages/batches{rest:path}", anthropic.refuse_batches, methods=["GET", "POST", "DELETE"]),
        *ollama_routes(loading, generation=generation, node=node, clock=clock),
        *([] if keeper is None else keeper.routes),
        *([] if inference is None else _inference_routes(inference, clock)),
        Route("/metrics", MetricsPage(metrics, unmetered).__call__, methods=["GET"]),
        Route("/openapi.json", openapi, methods=["GET"]),
        Route("/", _index, methods=["GET"]),
        Mount("/thaloom/v1", proxy),
        *(HubRoutes(hub, emit).routes() if hub is not None else ()),
    ]

    async def door(scope: Scope, receive: Receive, send: Send) -> None:
        """What streams is reached before the framework, through whose layers every chunk would have to go; it gets
        other methods, to refuse them."""
        straight = streaming.get(scope["path"]) if scope.get("method") == "POST" else None
        if straight is not None and keeper is not None:
            with keeper.turn(scope):
                await straight(scope, receive, send)
        else:
            await (straight or app)(scope, receive, send)

    guarded = Guard(
        door,
        clock=clock,
        emit=emit,
        metrics=metrics,
        doorkeeper=doorkeeper,
        tracing=tracing,
        room=room,
        hosts=hosts,
        refusals=refusals,
    )
    return guarded


def _inference_routes(inference: Inference, clock: Clock) -> list[Route]:
    """Those that FastAPI does not see."""
    return [
        infer_route(inference),
        Route("/v1/images/generations", images.Painting(inference, clock), methods=["POST"]),
        Route("/v1/audio/speech", audio.Speaking(inference), methods=["POST"]),
        Route("/v1/audio/transcriptions", audio.Transcribing(inference), methods=["POST"]),
    ]


def openapi_document(generation: Generation, inference: Inference | None = None) -> dict[str, Any]:
    """The OpenAPI 3.1 document of everything the door itself serves."""
    document = add_plain_routes(_small_routes(generation, inference).openapi())
    return add_common(document if inference is None else add_audio(add_infer_route(document)))


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

    @app.get("/v1/models", tags=["openai", "anthropic"], operation_id="list_models")
    async def models(request: Request) -> wire.ModelList | anthropic_wire.ModelPage:
        if VERSION_HEADER in request.headers:
            return anthropic_models.list_models(generation, request.query_params)
        return openai_models.list_models(generation)

    @app.get("/v1/models/{model:path}", tags=["openai", "anthropic"], operation_id="get_model")
    async def model(model: str, request: Request) -> wire.Model | anthropic_wire.ModelInfo:
        if VERSION_HEADER in request.headers:
            return anthropic_models.get_model(generation, model)
        return openai_models.get_model(generation, model)

    @app.get("/tokenizer_info", tags=["openai"], operation_id="tokenizer_info")
    async def tokenizer_info(model: str | None = None) -> TokenizerInfoAnswer:
        """`model` may be left out where one is served."""
        return await tokens.tokenizer_info(generation, model)

    @app.get("/healthz", tags=["node"], operation_id="health")
    async def healthz() -> health_wire.Health:
        return health.health()

    @app.get("/readyz", tags=["node"], operation_id="readiness")
    async def readyz() -> health_wire.Readiness:
        return health.readiness(generation)

    @app.get("/version", tags=["node"], operation_id="version")
    async def version() -> health_wire.DoorVersion:
        return health.version()

    if inference is not None:
        add_routes(app, inference)
    return app


def _error_handlers(metrics: DoorMetrics) -> dict[int | type[Exception], Handler]:
    async def tell(request: Request, error: ThaloomError) -> Response:
        metrics.errors.labels(error.code).inc()
        return error_response(error, request.scope["path"], request.headers, request.state.request_id)

    async def tell_http(request: Request, error: HTTPException) -> Response:
        return await tell(request, from_http_exception(request, error))

    async def tell_defect(request: Request, _: Exception) -> Response:
        return await tell(request, defect(request.state.request_id))  # the guard logs what it was

    return {ThaloomError: tell, HTTPException: tell_http, Exception: tell_defect}


async def _index(_: Request) -> Response:
    rows = "\n".join(f'<li><a href="{path}">{path}</a>: {escape(text)}</li>' for path, text in PAGES.items())
    return HTMLResponse(
        f"<!doctype html><html lang='en'><meta charset='utf-8'><title>Thaloom</title>"
        f"<h1>Thaloom {__version__}</h1><ul>\n{rows}\n</ul>"
        f"<p>Clients of Ollama look for these words here: Ollama is running</p></html>\n"
    )
