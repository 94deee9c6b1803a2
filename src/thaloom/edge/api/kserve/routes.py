"""`/v2/*`: health, metadata, and one pass through a model. Holds no state; asks the Inference it is given."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import FastAPI
from pydantic_core import from_json
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from thaloom import __version__
from thaloom.base.errors import BadRequest, ServiceLoading
from thaloom.base.ids import new_request_id
from thaloom.edge.api.entrance.visits import hold
from thaloom.edge.api.errors import to_json
from thaloom.edge.api.kserve.tensors import inputs_of, output_of
from thaloom.edge.api.routes.body import ClientGone, parsed_bytes, read_plain, while_connected
from thaloom.edge.api.routes.fields import validate
from thaloom.edge.wire import kserve as wire
from thaloom.kernel.models.types import ModelTensor
from thaloom.work.runtime.types import Inference, Inferred, InferRequest

MAX_BODY_BYTES = 14 * 1024 * 1024
"""In JSON or raw: what a worker takes in one frame, with room for names."""
AT_ONCE_BYTES = 64 * 1024
"""Larger bodies are read and written in threads, so that streams of others go on."""


def add_routes(app: FastAPI, inference: Inference) -> None:
    """Those that FastAPI describes by itself."""

    @app.get("/v2", tags=["kserve"], operation_id="kserve_server")
    async def server() -> wire.ServerMetadata:
        return wire.ServerMetadata(name="thaloom", version=__version__, extensions=list(wire.EXTENSIONS))

    @app.get("/v2/health/live", tags=["kserve"], operation_id="kserve_live")
    async def live() -> wire.Live:
        return wire.Live(live=True)

    @app.get("/v2/health/ready", tags=["kserve"], operation_id="kserve_ready")
    async def ready() -> wire.Ready:
        return wire.Ready(ready=True)

    @app.get("/v2/models/{model}", tags=["kserve"], operation_id="kserve_model")
    async def model(model: str) -> wire.ModelMetadata:
        inputs, outputs = await inference.tensors(model)
        return wire.ModelMetadata(
            name=model,
            platform="onnx_onnxruntime",
            inputs=[_metadata(tensor) for tensor in inputs],
            outputs=[_metadata(tensor) for tensor in outputs],
        )

    @app.get("/v2/models/{model}/ready", tags=["kserve"], operation_id="kserve_model_ready")
    async def model_ready(model: str) -> wire.ModelReady:
        if not inference.serves(model):
            raise ServiceLoading(f"model {model!r} is not ready", retry_after_s=2.0)
        return wire.ModelReady(name=model, ready=True)


def infer_route(inference: Inference) -> Route:
    async def infer(request: Request) -> Response:
        headers = request.headers
        try:
            body = await read_plain(headers, request.receive, limit=MAX_BODY_BYTES)
            hold(parsed_bytes(body))
            asked, inputs = await _apart(len(body), _read, body, headers.get(wire.HEADER_LENGTH))
            outputs = tuple(output.name for output in asked.outputs or ())
            wanted = InferRequest(
                id=new_request_id("infer"), model=request.path_params["model"], inputs=inputs, outputs=outputs
            )
            done = await while_connected(request.receive, inference.infer(wanted))
        except ClientGone:
            return Response(status_code=499)
        size = sum(len(output.data) for output in done.outputs)
        response: Response = await _apart(size, _written, asked, wanted.model, done)
        return response

    return Route("/v2/models/{model}/infer", infer, methods=["POST"], name="kserve_infer")


async def _apart(num_bytes: int, work: Any, *arguments: Any) -> Any:
    return work(*arguments) if num_bytes <= AT_ONCE_BYTES else await asyncio.to_thread(work, *arguments)


def _read(body: bytes, header_length: str | None) -> Any:
    """The request and its inputs. Raises BadRequest, BadParameter."""
    length = len(body)
    if header_length is not None:
        if not header_length.isascii() or not header_length.isdigit() or int(header_length[:12]) > len(body):
            raise BadRequest(f"{wire.HEADER_LENGTH}: no length within the body: {header_length[:40]!r}")
        length = int(header_length)
    try:
        data = from_json(body[:length], allow_inf_nan=False)
    except ValueError as error:
        which = "the body is" if header_length is None else f"{wire.HEADER_LENGTH}: so many bytes of the body are"
        raise BadRequest(f"{which} not JSON: {error}") from error
    asked = validate(wire.InferenceRequest, data)
    return asked, inputs_of(asked, body[length:])


def _written(asked: wire.InferenceRequest, model: str, done: Inferred) -> Response:
    every = asked.parameters is not None and asked.parameters.binary_data_output
    binary = {
        output.name: output.parameters.binary_data if output.parameters is not None else every
        for output in asked.outputs or ()
    }
    outputs = [(value, binary.get(value.name, every)) for value in done.outputs]
    answer = wire.InferenceResponse.model_construct(
        model_name=model, id=asked.id, outputs=[output_of(value, binary=raw) for value, raw in outputs]
    )
    head = to_json(answer.model_dump(exclude_none=True))
    timing = f"queue;dur={done.queue_s * 1000:.3f}, compute;dur={done.compute_s * 1000:.3f}"
    headers = {"server-timing": timing, "x-thaloom-batch-rows": str(done.batch_rows)}
    tail = b"".join(value.data for value, raw in outputs if raw)
    if not any(raw for _, raw in outputs):
        return Response(head, headers=headers, media_type="application/json")
    headers[wire.HEADER_LENGTH] = str(len(head))
    return Response(head + tail, headers=headers, media_type="application/octet-stream")


def _metadata(tensor: ModelTensor) -> wire.TensorMetadata:
    """Of a shape that the file leaves open altogether the protocol has no word: it is told as [-1]."""
    shape = [-1] if tensor.shape is None else list(tensor.shape)
    return wire.TensorMetadata(name=tensor.name, datatype=tensor.dtype, shape=shape)
