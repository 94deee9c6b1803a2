"""The control API, server side: `/thaloom/v1/*` over the node's unix socket.

It holds no state: every route asks the `ControlPlane` it was given (process one's syscalls) and puts the answer into
the words of edge.wire.control. Routes need no special headers, so the door can pass them on from TCP as they are.
"""

from __future__ import annotations

import platform
from typing import Annotated

from fastapi import Depends, FastAPI, Query
from fastapi.responses import StreamingResponse

from thaloom import __version__
from thaloom.base.ids import DeviceId, ServiceName
from thaloom.edge.api.control.actions import add_action_routes
from thaloom.edge.api.control.document import document_terms
from thaloom.edge.api.control.documents import add_document_routes
from thaloom.edge.api.control.encryption import add_encryption_routes
from thaloom.edge.api.control.errors import add_error_handlers
from thaloom.edge.api.control.jobs import add_job_routes
from thaloom.edge.api.control.messages import (
    device_message,
    event_message,
    model_message,
    node_message,
    quantised_name,
    same,
    service_message,
    service_spec,
    verification_message,
)
from thaloom.edge.api.control.plane import ControlPlane, OnProgress
from thaloom.edge.api.control.progress import followed
from thaloom.edge.api.control.terms import add_terms, only_by_the_socket
from thaloom.edge.wire import control as wire
from thaloom.kernel.models.types import (
    HubModel,
    HubSettings,
    ModelName,
    QuantiseWish,
)
from thaloom.kernel.state.types import (
    Alias,
    KeyLimits,
    Share,
)


def control_app(plane: ControlPlane) -> FastAPI:
    """The ASGI application of the control API."""
    wire.complete()
    app = FastAPI(
        title="Thaloom control API",
        version=__version__,
        openapi_url=f"{wire.PREFIX}/openapi.json",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,  # to a host and port of the socket, which is not where the caller came in
        responses={"4XX": {"model": wire.ErrorReply}, "5XX": {"model": wire.ErrorReply}},
    )
    add_error_handlers(app)
    _add_node_routes(app, plane)
    _add_device_routes(app, plane)
    _add_model_routes(app, plane)
    add_encryption_routes(app, plane, only_by_the_socket)
    _add_service_routes(app, plane)
    _add_alias_routes(app, plane)
    add_document_routes(app, plane)
    add_job_routes(app, plane)
    _add_key_routes(app, plane)
    add_action_routes(app, plane)
    add_terms(app)
    document_terms(app)
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
        return wire.Processes(processes=[same(wire.Process, process) for process in await plane.processes()])

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
            absent=[same(wire.AbsentDriver, driver) for driver in absent],
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
                    found,
                    settings,
                    name,
                    replace=body.replace,
                    read_through=body.read_through,
                    encrypt=body.encrypt,
                    progress=progress,
                )
            else:
                model = await plane.pull(found, name, replace=body.replace, encrypt=body.encrypt, progress=progress)
            return wire.PullDone(model=model_message(model))

        return await followed(work)

    @app.get(f"{wire.PREFIX}/pulls", tags=["models"])
    async def unfinished_pulls() -> wire.UnfinishedPulls:
        return wire.UnfinishedPulls(pulls=[same(wire.UnfinishedPull, pull) for pull in await plane.unfinished_pulls()])

    @app.delete(f"{wire.PREFIX}/pulls", tags=["models"])
    async def remove_pull(source: Annotated[str, Query(min_length=1)]) -> wire.Removed:
        return wire.Removed(name=await plane.remove_pull(source))

    @app.get(f"{wire.PREFIX}/outgoing", tags=["node"])
    async def outgoing() -> wire.Outgoing:
        closed, refused = await plane.refused_calls()
        return wire.Outgoing(closed=closed, refused=[same(wire.RefusedCall, call) for call in refused])

    @app.post(f"{wire.PREFIX}/models/{{name}}/verify", tags=["models"], response_class=StreamingResponse)
    async def verify(name: str) -> StreamingResponse:
        wanted = ModelName.parse(name)

        async def work(progress: OnProgress) -> wire.Answer:
            return wire.VerifyDone(verification=verification_message(await plane.verify(wanted, progress)))

        return await followed(work)

    @app.post(f"{wire.PREFIX}/models/{{name}}/quantise", tags=["models"], response_class=StreamingResponse)
    async def quantise(name: str, body: wire.QuantiseRequest) -> StreamingResponse:
        model = ModelName.parse(name)
        made = ModelName.parse(body.name or quantised_name(model, body.to))
        wish = QuantiseWish(model=model, to=body.to, name=made, replace=body.replace, text=body.text)

        async def work(progress: OnProgress) -> wire.Answer:
            return wire.PullDone(model=model_message(await plane.quantise(wish, progress)))

        return await followed(work)

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
    async def services(
        limit: Annotated[int | None, Query(ge=1, le=10_000)] = None,
        after: Annotated[str | None, Query(description="by name, those after this one")] = None,
    ) -> wire.Services:
        page = await plane.services(limit=limit, after=after)
        return wire.Services(
            services=[service_message(status) for status in page.items], total=page.total, next=page.next
        )

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
        return wire.Aliases(aliases=[same(wire.Alias, alias) for alias in plane.aliases.list()])

    @app.get(f"{wire.PREFIX}/aliases/{{name}}", tags=["aliases"])
    async def alias(name: str) -> wire.Alias:
        return same(wire.Alias, plane.aliases.get(ServiceName(name)))

    @app.put(f"{wire.PREFIX}/aliases/{{name}}", tags=["aliases"])
    async def put_alias(name: str, body: wire.AliasRequest) -> wire.Alias:
        shares = tuple(Share(service=ServiceName(service), weight=weight) for service, weight in body.services.items())
        canary = None if body.canary is None else ServiceName(body.canary)
        return same(wire.Alias, await plane.put_alias(Alias(name=ServiceName(name), shares=shares, canary=canary)))

    @app.delete(f"{wire.PREFIX}/aliases/{{name}}", tags=["aliases"])
    async def remove_alias(name: str) -> wire.Removed:
        await plane.remove_alias(ServiceName(name))
        return wire.Removed(name=name)

    @app.post(f"{wire.PREFIX}/aliases/{{name}}/return", tags=["aliases"])
    async def return_canary(name: str, body: wire.CanaryReturn) -> wire.Alias:
        return same(wire.Alias, await plane.return_canary(ServiceName(name), body.revision, body.reason))


def _add_key_routes(app: FastAPI, plane: ControlPlane) -> None:
    """Only through the socket, which the node's owner alone can open: whoever reaches the door over TCP could else make
    a key for himself, or lock everybody out."""

    @app.get(f"{wire.PREFIX}/keys", tags=["keys"], dependencies=[Depends(only_by_the_socket)])
    async def keys() -> wire.Keys:
        found, required = await plane.keys()
        return wire.Keys(keys=[same(wire.Key, key) for key in found], required=required)

    @app.post(f"{wire.PREFIX}/keys", tags=["keys"], dependencies=[Depends(only_by_the_socket)])
    async def make_key(body: wire.KeyRequest) -> wire.NewKey:
        fields = body.model_dump(exclude={"name", "expires_in_s"})
        limits = KeyLimits(**fields | {"models": None if body.models is None else tuple(body.models)})
        key, secret = await plane.make_key(body.name, limits, body.expires_in_s)
        return wire.NewKey(key=same(wire.Key, key), secret=secret)

    @app.delete(f"{wire.PREFIX}/keys/{{name}}", tags=["keys"], dependencies=[Depends(only_by_the_socket)])
    async def remove_key(name: str) -> wire.Removed:
        await plane.remove_key(name)
        return wire.Removed(name=name)
