"""The control API, server side: `/thaloom/v1/*` over the node's unix socket.

It holds no state: every route asks the `ControlPlane` it was given (process one's syscalls) and puts the answer into
the words of edge.wire.control. Routes need no special headers, so the door can pass them on from TCP as they are.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import platform
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Protocol, TypeVar

from fastapi import Depends, FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException

from thaloom import __version__
from thaloom.base.air_gap import RefusedCall
from thaloom.base.errors import (
    BadParameter,
    BadRequest,
    Forbidden,
    InternalError,
    MethodNotAllowed,
    ThaloomError,
    UnknownPath,
)
from thaloom.base.ids import DeviceId, ServiceName
from thaloom.base.plugins import Absent
from thaloom.edge.wire import control as wire
from thaloom.hal.types import Device, Reading, WeightFormat
from thaloom.kernel.models.types import (
    HubModel,
    HubSettings,
    Manifest,
    ModelName,
    QuantiseWish,
    UnfinishedPull,
    Verification,
)
from thaloom.kernel.state.types import (
    AccessKey,
    Alias,
    KeyLimits,
    NodeStatus,
    PastEvent,
    ProcessStatus,
    ServiceSpec,
    ServiceStatus,
    Share,
)

A = TypeVar("A", bound=wire.Answer)
OnProgress = Callable[[str, int, int | None], None]
"""Called in the event loop with a stage, the bytes done and the bytes in all (None: not known yet)."""

_SILENCE_S = 2.0
"""A stream says something at least this often, so that a caller can tell slow from dead."""


class AliasPlane(Protocol):
    """Names that stand for services."""

    def list(self) -> Sequence[Alias]: ...
    def get(self, name: ServiceName) -> Alias: ...
    def remove(self, name: ServiceName) -> None: ...
    def send_home(self, name: ServiceName, revision: int, reason: str) -> Alias: ...


class ControlPlane(Protocol):
    """What the API asks of process one. Every method may raise a leaf of ThaloomError.

    Cancelling `pull`, `quantise` or `verify` ends the work and leaves nothing half-done behind; cancelling
    `pull_from_hub` only means that nobody waits.
    """

    async def status(self) -> NodeStatus: ...
    async def processes(self) -> Sequence[ProcessStatus]: ...
    async def devices(self) -> tuple[Sequence[tuple[Device, Reading | None]], Sequence[Absent]]: ...
    async def device(self, device: DeviceId) -> tuple[Device, Reading | None]: ...
    async def models(self) -> Sequence[Manifest]: ...
    async def model(self, name: ModelName) -> Manifest: ...
    def source(self, source: str) -> Path | HubModel:
        """Where the files of an import lie. Raises BadParameter: no absolute path, bundled model or hub's model."""
        ...

    async def pull(self, path: Path, name: ModelName | None, *, replace: bool, progress: OnProgress) -> Manifest: ...
    async def pull_from_hub(
        self,
        model: HubModel,
        settings: HubSettings,
        name: ModelName | None,
        *,
        replace: bool,
        read_through: bool,
        progress: OnProgress,
    ) -> Manifest: ...
    async def unfinished_pulls(self) -> Sequence[UnfinishedPull]: ...
    async def remove_pull(self, source: str) -> str: ...
    async def refused_calls(self) -> tuple[str | None, Sequence[RefusedCall]]: ...
    async def verify(self, name: ModelName, progress: OnProgress) -> Verification: ...
    async def quantise(self, wish: QuantiseWish, progress: OnProgress) -> Manifest: ...
    async def copy_model(self, name: ModelName, to: ModelName, *, replace: bool) -> Manifest: ...
    async def remove_model(self, name: ModelName) -> None: ...
    async def services(self) -> Sequence[ServiceStatus]: ...
    async def service(self, name: ServiceName) -> ServiceStatus: ...
    async def serve(self, spec: ServiceSpec) -> ServiceStatus: ...
    async def stop(self, name: ServiceName) -> None: ...

    @property
    def aliases(self) -> AliasPlane: ...
    async def put_alias(self, alias: Alias) -> Alias: ...

    async def logs(self, name: ServiceName, *, follow: bool, tail: int) -> AsyncIterator[bytes]:
        """The last lines, then (with `follow`) what comes, for as long as the service is wished."""
        ...

    async def keys(self) -> tuple[Sequence[AccessKey], bool]:
        """All keys, and whether the door requires one once there are any."""
        ...

    async def make_key(self, name: str, limits: KeyLimits, expires_in_s: float | None) -> tuple[AccessKey, str]:
        """A new key's record, and the key itself."""
        ...

    async def remove_key(self, name: str) -> None: ...

    async def events(self, limit: int) -> Sequence[PastEvent]: ...

    async def down(self) -> int:
        """Begin to stop the node; the pid of the process that ends last."""
        ...


def control_app(plane: ControlPlane) -> FastAPI:
    """The ASGI application of the control API."""
    app = FastAPI(
        title="Thaloom control API",
        version=__version__,
        openapi_url=f"{wire.PREFIX}/openapi.json",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,  # to a host and port of the socket, which is not where the caller came in
        responses={"4XX": {"model": wire.ErrorReply}, "5XX": {"model": wire.ErrorReply}},
    )
    _add_error_handlers(app)
    _add_node_routes(app, plane)
    _add_device_routes(app, plane)
    _add_model_routes(app, plane)
    _add_service_routes(app, plane)
    _add_alias_routes(app, plane)
    _add_key_routes(app, plane)
    return app


def _add_node_routes(app: FastAPI, plane: ControlPlane) -> None:
    @app.get(f"{wire.PREFIX}/version", tags=["node"])
    async def version() -> wire.Version:
        return wire.Version(version=__version__, api="v1", python=platform.python_version())

    @app.get(f"{wire.PREFIX}/status", tags=["node"])
    async def status() -> wire.NodeStatus:
        return node_message(await plane.status())

    @app.get(f"{wire.PREFIX}/processes", tags=["node"])
    async def processes() -> wire.Processes:
        return wire.Processes(processes=[_same(wire.Process, process) for process in await plane.processes()])

    @app.get(f"{wire.PREFIX}/events", tags=["node"])
    async def events(limit: Annotated[int, Query(ge=1, le=1000)] = 100) -> wire.Events:
        return wire.Events(events=[event_message(past) for past in await plane.events(limit)])

    @app.post(f"{wire.PREFIX}/down", status_code=202, tags=["node"])
    async def down() -> wire.GoingDown:
        return wire.GoingDown(pid=await plane.down())


def _add_device_routes(app: FastAPI, plane: ControlPlane) -> None:
    @app.get(f"{wire.PREFIX}/devices", tags=["devices"])
    async def devices() -> wire.Devices:
        found, absent = await plane.devices()
        return wire.Devices(
            devices=[device_message(device, reading) for device, reading in found],
            absent=[_same(wire.AbsentDriver, driver) for driver in absent],
        )

    @app.get(f"{wire.PREFIX}/devices/{{device}}", tags=["devices"])
    async def device(device: str) -> wire.Device:
        return device_message(*await plane.device(DeviceId(device)))


def _add_model_routes(app: FastAPI, plane: ControlPlane) -> None:
    @app.get(f"{wire.PREFIX}/models", tags=["models"])
    async def models() -> wire.Models:
        return wire.Models(models=[model_message(manifest) for manifest in await plane.models()])

    @app.get(f"{wire.PREFIX}/models/{{name}}", tags=["models"])
    async def model(name: str) -> wire.Model:
        return model_message(await plane.model(ModelName.parse(name)))

    @app.post(f"{wire.PREFIX}/models/pull", tags=["models"], response_class=StreamingResponse)
    async def pull(body: wire.PullRequest) -> StreamingResponse:
        found = plane.source(body.source)
        name = None if body.name is None else ModelName.parse(body.name)
        settings = HubSettings(**body.hub.model_dump())

        async def work(progress: OnProgress) -> wire.Answer:
            if isinstance(found, HubModel):
                model = await plane.pull_from_hub(
                    found, settings, name, replace=body.replace, read_through=body.read_through, progress=progress
                )
            else:
                model = await plane.pull(found, name, replace=body.replace, progress=progress)
            return wire.PullDone(model=model_message(model))

        return await _ndjson(work)

    @app.get(f"{wire.PREFIX}/pulls", tags=["models"])
    async def unfinished_pulls() -> wire.UnfinishedPulls:
        return wire.UnfinishedPulls(pulls=[_same(wire.UnfinishedPull, pull) for pull in await plane.unfinished_pulls()])

    @app.delete(f"{wire.PREFIX}/pulls", tags=["models"])
    async def remove_pull(source: Annotated[str, Query(min_length=1)]) -> wire.Removed:
        return wire.Removed(name=await plane.remove_pull(source))

    @app.get(f"{wire.PREFIX}/outgoing", tags=["node"])
    async def outgoing() -> wire.Outgoing:
        closed, refused = await plane.refused_calls()
        return wire.Outgoing(closed=closed, refused=[_same(wire.RefusedCall, call) for call in refused])

    @app.post(f"{wire.PREFIX}/models/{{name}}/verify", tags=["models"], response_class=StreamingResponse)
    async def verify(name: str) -> StreamingResponse:
        wanted = ModelName.parse(name)

        async def work(progress: OnProgress) -> wire.Answer:
            return wire.VerifyDone(verification=verification_message(await plane.verify(wanted, progress)))

        return await _ndjson(work)

    @app.post(f"{wire.PREFIX}/models/{{name}}/quantise", tags=["models"], response_class=StreamingResponse)
    async def quantise(name: str, body: wire.QuantiseRequest) -> StreamingResponse:
        model = ModelName.parse(name)
        made = ModelName.parse(body.name or quantised_name(model, body.to))
        wish = QuantiseWish(model=model, to=body.to, name=made, replace=body.replace, text=body.text)

        async def work(progress: OnProgress) -> wire.Answer:
            return wire.PullDone(model=model_message(await plane.quantise(wish, progress)))

        return await _ndjson(work)

    @app.post(f"{wire.PREFIX}/models/{{name}}/copy", tags=["models"])
    async def copy_model(name: str, body: wire.CopyRequest) -> wire.Model:
        copied = await plane.copy_model(ModelName.parse(name), ModelName.parse(body.name), replace=body.replace)
        return model_message(copied)

    @app.delete(f"{wire.PREFIX}/models/{{name}}", tags=["models"])
    async def remove_model(name: str) -> wire.Removed:
        wanted = ModelName.parse(name)
        await plane.remove_model(wanted)
        return wire.Removed(name=str(wanted))


def _add_service_routes(app: FastAPI, plane: ControlPlane) -> None:
    @app.get(f"{wire.PREFIX}/services", tags=["services"])
    async def services() -> wire.Services:
        return wire.Services(services=[service_message(status) for status in await plane.services()])

    @app.get(f"{wire.PREFIX}/services/{{name}}", tags=["services"])
    async def service(name: str) -> wire.Service:
        return service_message(await plane.service(ServiceName(name)))

    @app.put(f"{wire.PREFIX}/services/{{name}}", tags=["services"])
    async def serve(name: str, body: wire.ServeRequest) -> wire.Service:
        return service_message(await plane.serve(service_spec(name, body)))

    @app.delete(f"{wire.PREFIX}/services/{{name}}", tags=["services"])
    async def stop(name: str) -> wire.Removed:
        await plane.stop(ServiceName(name))
        return wire.Removed(name=name)

    @app.get(f"{wire.PREFIX}/services/{{name}}/logs", tags=["services"], response_class=StreamingResponse)
    async def logs(
        name: str, follow: bool = False, tail: Annotated[int, Query(ge=0, le=wire.MAX_TAIL_LINES)] = 100
    ) -> StreamingResponse:
        lines = await plane.logs(ServiceName(name), follow=follow, tail=tail)
        return StreamingResponse(lines, media_type="text/plain; charset=utf-8")


def _add_alias_routes(app: FastAPI, plane: ControlPlane) -> None:
    @app.get(f"{wire.PREFIX}/aliases", tags=["aliases"])
    async def aliases() -> wire.Aliases:
        return wire.Aliases(aliases=[_same(wire.Alias, alias) for alias in plane.aliases.list()])

    @app.get(f"{wire.PREFIX}/aliases/{{name}}", tags=["aliases"])
    async def alias(name: str) -> wire.Alias:
        return _same(wire.Alias, plane.aliases.get(ServiceName(name)))

    @app.put(f"{wire.PREFIX}/aliases/{{name}}", tags=["aliases"])
    async def put_alias(name: str, body: wire.AliasRequest) -> wire.Alias:
        shares = tuple(Share(service=ServiceName(service), weight=weight) for service, weight in body.services.items())
        canary = None if body.canary is None else ServiceName(body.canary)
        return _same(wire.Alias, await plane.put_alias(Alias(name=ServiceName(name), shares=shares, canary=canary)))

    @app.delete(f"{wire.PREFIX}/aliases/{{name}}", tags=["aliases"])
    async def remove_alias(name: str) -> wire.Removed:
        plane.aliases.remove(ServiceName(name))
        return wire.Removed(name=name)

    @app.post(f"{wire.PREFIX}/aliases/{{name}}/return", tags=["aliases"])
    async def return_canary(name: str, body: wire.CanaryReturn) -> wire.Alias:
        return _same(wire.Alias, plane.aliases.send_home(ServiceName(name), body.revision, body.reason))


def _add_key_routes(app: FastAPI, plane: ControlPlane) -> None:
    """Only through the socket, which the node's owner alone can open: whoever reaches the door over TCP could else make
    a key for himself, or lock everybody out."""

    @app.get(f"{wire.PREFIX}/keys", tags=["keys"], dependencies=[Depends(not_through_the_door)])
    async def keys() -> wire.Keys:
        found, required = await plane.keys()
        return wire.Keys(keys=[_same(wire.Key, key) for key in found], required=required)

    @app.post(f"{wire.PREFIX}/keys", tags=["keys"], dependencies=[Depends(not_through_the_door)])
    async def make_key(body: wire.KeyRequest) -> wire.NewKey:
        fields = body.model_dump(exclude={"name", "expires_in_s"})
        limits = KeyLimits(**fields | {"models": None if body.models is None else tuple(body.models)})
        key, secret = await plane.make_key(body.name, limits, body.expires_in_s)
        return wire.NewKey(key=_same(wire.Key, key), secret=secret)

    @app.delete(f"{wire.PREFIX}/keys/{{name}}", tags=["keys"], dependencies=[Depends(not_through_the_door)])
    async def remove_key(name: str) -> wire.Removed:
        await plane.remove_key(name)
        return wire.Removed(name=name)


def not_through_the_door(request: Request) -> None:
    """The door says `Via` when it hands a request on. Raises Forbidden."""
    if "via" in request.headers:
        raise Forbidden("keys are managed through the node's own socket only (thaloom token)")


async def _ndjson(work: Callable[[OnProgress], Awaitable[wire.Answer]]) -> StreamingResponse:
    """Run `work` and stream its progress. What fails before the first word is an ordinary error answer."""
    stream = _lines(work)
    first = await anext(stream)

    async def rest() -> AsyncIterator[str]:
        async with contextlib.aclosing(stream):
            yield first
            async for line in stream:
                yield line

    return StreamingResponse(rest(), media_type=wire.NDJSON)


async def _lines(work: Callable[[OnProgress], Awaitable[wire.Answer]]) -> AsyncGenerator[str, None]:
    """One JSON line per step of progress, at least one each 2 s, and a last one. Closing it cancels the work."""
    latest = wire.Progress(stage="starting", done_bytes=0, total_bytes=None)
    news = asyncio.Event()

    def progress(stage: str, done_bytes: int, total_bytes: int | None) -> None:
        nonlocal latest
        latest = wire.Progress(stage=stage, done_bytes=done_bytes, total_bytes=total_bytes)
        news.set()

    async def run() -> wire.Answer:
        try:
            return await work(progress)
        finally:
            news.set()

    task = asyncio.ensure_future(run())
    spoken = False
    try:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_SILENCE_S):
                    await news.wait()
            news.clear()
            if task.done():
                break
            spoken = True
            yield _line(latest)
        try:
            last: wire.Answer = await task
        except ThaloomError as error:
            if not spoken:
                raise
            last = wire.StreamError(error=error_body(error))
        except Exception as error:  # noqa: BLE001 - the stream must end in words; the event and the status tell of it
            last = wire.StreamError(error=error_body(InternalError(f"{type(error).__name__}: {error}")))
        yield _line(last)
    finally:
        if not task.done():
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, ThaloomError):
                await task


def _line(message: wire.Answer) -> str:
    return message.model_dump_json() + "\n"


# -- from the words of the rooms to the words of the wire


def quantised_name(model: ModelName, to: WeightFormat) -> str:
    """Where nobody says how it shall be called."""
    return f"{model.name}-{to}" if model.tag == "latest" else f"{model.name}-{to}:{model.tag}"


def service_spec(name: str, body: wire.ServeRequest) -> ServiceSpec:
    fields = body.model_dump() | {"model": str(ModelName.parse(body.model))}
    return ServiceSpec(name=ServiceName(name), **fields)


def service_message(status: ServiceStatus) -> wire.Service:
    return _same(wire.Service, status, name=status.spec.name)


def node_message(status: NodeStatus) -> wire.NodeStatus:
    return _same(wire.NodeStatus, status, services=[service_message(service) for service in status.services])


def device_message(device: Device, reading: Reading | None) -> wire.Device:
    return _same(
        wire.Device,
        device,
        dtypes=sorted(device.dtypes),
        reading=None if reading is None else _same(wire.Reading, reading),
    )


def model_message(manifest: Manifest) -> wire.Model:
    return _same(wire.Model, manifest, name=str(manifest.name), total_bytes=manifest.total_bytes)


def verification_message(verification: Verification) -> wire.Verification:
    return _same(wire.Verification, verification, name=str(verification.name), sound=verification.sound)


def event_message(past: PastEvent) -> wire.Event:
    event = past.event
    return wire.Event(time=past.time, level=event.level, name=event.name, fields=event.fields())


def error_body(error: ThaloomError) -> wire.ErrorBody:
    return wire.ErrorBody(**error.to_dict(), help_page=error.help_page)


def _same(kind: type[A], fact: Any, **changed: Any) -> A:
    """The message with the fields of the dataclass `fact`; those that differ are given."""
    return kind.model_validate(dataclasses.asdict(fact) | changed)


# -- errors


def _add_error_handlers(app: FastAPI) -> None:
    async def refused(request: Request, error: Exception) -> JSONResponse:  # noqa: ARG001 - Starlette's signature
        assert isinstance(error, ThaloomError)
        return error_response(error)

    async def malformed(request: Request, error: Exception) -> JSONResponse:  # noqa: ARG001
        assert isinstance(error, RequestValidationError)
        return error_response(parameter_error(error.errors()))

    async def unknown(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        return error_response(route_error(error, request))

    async def broken(request: Request, error: Exception) -> JSONResponse:  # noqa: ARG001
        return error_response(InternalError(f"{type(error).__name__}: {error}"))

    app.add_exception_handler(ThaloomError, refused)
    app.add_exception_handler(RequestValidationError, malformed)
    app.add_exception_handler(HTTPException, unknown)
    app.add_exception_handler(Exception, broken)


def error_response(error: ThaloomError) -> JSONResponse:
    headers = {} if error.retry_after_s is None else {"Retry-After": str(max(1, round(error.retry_after_s)))}
    if isinstance(error, MethodNotAllowed):
        headers["Allow"] = error.details["allowed"]
    reply = wire.ErrorReply(error=error_body(error))
    return JSONResponse(reply.model_dump(), status_code=error.http_status, headers=headers)


def parameter_error(faults: Sequence[Any]) -> ThaloomError:
    """The first fault pydantic found, by the name of its field."""
    fault = faults[0]
    place = ".".join(str(part) for part in fault["loc"] if part not in ("body", "query", "path"))
    if fault["type"] == "json_invalid":
        return BadRequest(f"not JSON: {fault.get('ctx', {}).get('error', fault['msg'])}")
    if fault["type"] == "extra_forbidden":
        return BadParameter(f"unknown field {place!r}", param=place)
    if not place:
        return BadRequest("the body must be a JSON object, sent with Content-Type: application/json")
    return BadParameter(f"{place}: {fault['msg']}", param=place)


def route_error(error: HTTPException, request: Request) -> ThaloomError:
    if error.status_code == 404:
        return UnknownPath(f"no such path: {request.url.path}")
    if error.status_code == 405:
        allowed = Headers(error.headers or {}).get("allow", "")
        return MethodNotAllowed(f"{request.method} is not possible on {request.url.path}", allowed=allowed)
    return BadRequest(f"refused with status {error.status_code}: {error.detail}")
