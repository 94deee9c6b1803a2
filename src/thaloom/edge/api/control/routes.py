"""The control API, server side: `/thaloom/v1/*` over the node's unix socket.

It holds no state: every route asks the `ControlPlane` it was given (process one's syscalls) and puts the answer into
the words of edge.wire.control. Routes need no special headers, so the door can pass them on from TCP as they are.
"""

from __future__ import annotations

import dataclasses
import platform
from typing import Annotated

from fastapi import FastAPI, Query
from fastapi.responses import StreamingResponse

from thaloom import __version__
from thaloom.base.ids import DeviceId, ServiceName
from thaloom.edge.api.control.actions import add_action_routes
from thaloom.edge.api.control.certificates import add_certificate_routes
from thaloom.edge.api.control.document import document_terms
from thaloom.edge.api.control.documents import add_document_routes
from thaloom.edge.api.control.encryption import add_encryption_routes
from thaloom.edge.api.control.errors import add_error_handlers
from thaloom.edge.api.control.gate import Gatekeeper, check_gate, close_gate, is_theirs, needs, own, theirs
from thaloom.edge.api.control.jobs import add_job_routes
from thaloom.edge.api.control.keys import add_key_routes
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
from thaloom.edge.api.control.sight import asked, is_for_it, narrowed, seen_model, seen_models, seen_services
from thaloom.edge.api.control.tenants import add_tenant_routes
from thaloom.edge.api.control.terms import PeerOf, add_terms, peer_uid_of
from thaloom.edge.wire import control as wire
from thaloom.kernel.models.types import (
    HubModel,
    HubSettings,
    ModelName,
    QuantiseWish,
)
from thaloom.kernel.state.types import (
    OUTSIDE,
    Alias,
    ServiceStatus,
    Share,
)


def control_app(plane: ControlPlane, gate: Gatekeeper, *, peer: PeerOf = peer_uid_of) -> FastAPI:
    """The ASGI application of the control API. `peer`: the user at the other end."""
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
    close_gate(app, gate)
    add_error_handlers(app)
    _add_node_routes(app, plane)
    _add_device_routes(app, plane)
    _add_model_routes(app, plane)
    add_encryption_routes(app, plane)
    add_certificate_routes(app, plane)
    _add_service_routes(app, plane)
    _add_alias_routes(app, plane)
    add_key_routes(app, plane)
    add_tenant_routes(app, plane)
    add_document_routes(app, plane)
    add_job_routes(app, plane)
    add_action_routes(app, plane)
    check_gate(app)
    add_terms(app, gate, peer)
    document_terms(app)
    return app


def _add_node_routes(app: FastAPI, plane: ControlPlane) -> None:
    @app.get(f"{wire.PREFIX}/version", tags=["node"], openapi_extra=needs("viewer", None, tenants=True, open=True))
    async def version() -> wire.Version:
        return wire.Version(version=__version__, api="v1", python=platform.python_version())

    @app.get(f"{wire.PREFIX}/status", tags=["node"], openapi_extra=needs("viewer", "read", open=True))
    async def status() -> wire.NodeStatus:
        return node_message(await plane.status())

    @app.get(f"{wire.PREFIX}/processes", tags=["node"], openapi_extra=needs("viewer", "read", open=True))
    async def processes() -> wire.Processes:
        return wire.Processes(processes=[same(wire.Process, process) for process in await plane.processes()])

    @app.get(f"{wire.PREFIX}/events", tags=["node"], openapi_extra=needs("viewer", "read", open=True))
    async def events(limit: Annotated[int, Query(ge=1, le=1000)] = 100) -> wire.Events:
        return wire.Events(events=[event_message(past) for past in await plane.events(limit)])

    @app.post(f"{wire.PREFIX}/down", status_code=202, tags=["node"], openapi_extra=needs("admin", "node", open=True))
    async def down() -> wire.GoingDown:
        return wire.GoingDown(pid=await plane.down())


def _add_device_routes(app: FastAPI, plane: ControlPlane) -> None:
    @app.get(f"{wire.PREFIX}/devices", tags=["devices"], openapi_extra=needs("viewer", "read", open=True))
    async def devices() -> wire.Devices:
        found, absent = await plane.devices()
        return wire.Devices(
            devices=[device_message(device, reading) for device, reading in found],
            absent=[same(wire.AbsentDriver, driver) for driver in absent],
        )

    @app.get(f"{wire.PREFIX}/devices/{{device}}", tags=["devices"], openapi_extra=needs("viewer", "read", open=True))
    async def device(device: str) -> wire.Device:
        return device_message(*await plane.device(DeviceId(device)))


def _add_model_routes(app: FastAPI, plane: ControlPlane) -> None:
    @app.get(f"{wire.PREFIX}/models", tags=["models"], openapi_extra=needs("viewer", "read", tenants=True, open=True))
    async def models() -> wire.Models:
        return wire.Models(models=[model_message(manifest) for manifest in await seen_models(plane)])

    @app.get(
        f"{wire.PREFIX}/models/{{name}}",
        tags=["models"],
        openapi_extra=needs("viewer", "read", tenants=True, open=True),
    )
    async def model(name: str) -> wire.Model:
        return model_message(await seen_model(plane, ModelName.parse(name)))

    @app.post(
        f"{wire.PREFIX}/models/pull",
        tags=["models"],
        response_class=StreamingResponse,
        openapi_extra=needs("operator", "models", open=True),
    )
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

    @app.get(f"{wire.PREFIX}/pulls", tags=["models"], openapi_extra=needs("viewer", "read", open=True))
    async def unfinished_pulls() -> wire.UnfinishedPulls:
        return wire.UnfinishedPulls(pulls=[same(wire.UnfinishedPull, pull) for pull in await plane.unfinished_pulls()])

    @app.delete(f"{wire.PREFIX}/pulls", tags=["models"], openapi_extra=needs("operator", "models", open=True))
    async def remove_pull(source: Annotated[str, Query(min_length=1)]) -> wire.Removed:
        return wire.Removed(name=await plane.remove_pull(source))

    @app.get(f"{wire.PREFIX}/outgoing", tags=["node"], openapi_extra=needs("viewer", "read", open=True))
    async def outgoing() -> wire.Outgoing:
        closed, refused = await plane.refused_calls()
        return wire.Outgoing(closed=closed, refused=[same(wire.RefusedCall, call) for call in refused])

    @app.post(
        f"{wire.PREFIX}/models/{{name}}/verify",
        tags=["models"],
        response_class=StreamingResponse,
        openapi_extra=needs("operator", "models", open=True),
    )
    async def verify(name: str) -> StreamingResponse:
        wanted = ModelName.parse(name)

        async def work(progress: OnProgress) -> wire.Answer:
            return wire.VerifyDone(verification=verification_message(await plane.verify(wanted, progress)))

        return await followed(work)

    @app.post(
        f"{wire.PREFIX}/models/{{name}}/quantise",
        tags=["models"],
        response_class=StreamingResponse,
        openapi_extra=needs("operator", "models", open=True),
    )
    async def quantise(name: str, body: wire.QuantiseRequest) -> StreamingResponse:
        model = ModelName.parse(name)
        made = ModelName.parse(body.name or quantised_name(model, body.to))
        wish = QuantiseWish(model=model, to=body.to, name=made, replace=body.replace, text=body.text)

        async def work(progress: OnProgress) -> wire.Answer:
            return wire.PullDone(model=model_message(await plane.quantise(wish, progress)))

        return await followed(work)

    @app.post(
        f"{wire.PREFIX}/models/{{name}}/copy", tags=["models"], openapi_extra=needs("operator", "models", open=True)
    )
    async def copy_model(name: str, body: wire.CopyRequest) -> wire.Model:
        copied = await plane.copy_model(ModelName.parse(name), ModelName.parse(body.name), replace=body.replace)
        return model_message(copied)

    @app.delete(f"{wire.PREFIX}/models/{{name}}", tags=["models"], openapi_extra=needs("operator", "models", open=True))
    async def remove_model(name: str) -> wire.Removed:
        wanted = ModelName.parse(name)
        await plane.remove_model(wanted)
        return wire.Removed(name=str(wanted))


def _add_service_routes(app: FastAPI, plane: ControlPlane) -> None:
    @app.get(
        f"{wire.PREFIX}/services", tags=["services"], openapi_extra=needs("viewer", "read", tenants=True, open=True)
    )
    async def services(
        limit: Annotated[int | None, Query(ge=1, le=10_000)] = None,
        after: Annotated[str | None, Query(description="by name, those after this one")] = None,
    ) -> wire.Services:
        page = await seen_services(plane, limit, None if after is None else own(after))
        following = None if page.next is None else theirs(page.next)
        return wire.Services(services=[_service(status) for status in page.items], total=page.total, next=following)

    @app.get(
        f"{wire.PREFIX}/services/{{name}}",
        tags=["services"],
        openapi_extra=needs("viewer", "read", tenants=True, open=True),
    )
    async def service(name: str) -> wire.Service:
        return _service(await plane.service(asked(name)))

    @app.put(
        f"{wire.PREFIX}/services/{{name}}",
        tags=["services"],
        openapi_extra=needs("operator", "services", tenants=True, open=True),
    )
    async def serve(name: str, body: wire.ServeRequest) -> wire.Service:
        spec = service_spec(asked(name), body)
        if narrowed() is not None and spec.engine not in OUTSIDE:
            await seen_model(plane, ModelName.parse(spec.model))
        return _service(await plane.serve(spec))

    @app.delete(
        f"{wire.PREFIX}/services/{{name}}",
        tags=["services"],
        openapi_extra=needs("operator", "services", tenants=True, open=True),
    )
    async def stop(name: str) -> wire.Removed:
        await plane.stop(asked(name))
        return wire.Removed(name=name)

    @app.post(
        f"{wire.PREFIX}/services/{{name}}/wake",
        status_code=202,
        tags=["services"],
        openapi_extra=needs("operator", "services", tenants=True, open=True),
    )
    async def wake(name: str) -> wire.Service:
        return _service(await plane.wake(asked(name)))

    @app.put(
        f"{wire.PREFIX}/services/{{name}}/keep-alive",
        tags=["services"],
        openapi_extra=needs("operator", "services", tenants=True, open=True),
    )
    async def keep_alive(name: str, body: wire.KeepAliveRequest) -> wire.Service:
        return _service(await plane.keep_alive(asked(name), body.seconds))

    @app.get(
        f"{wire.PREFIX}/services/{{name}}/logs",
        tags=["services"],
        response_class=StreamingResponse,
        openapi_extra=needs("operator", "services", tenants=True, open=True),
    )
    async def logs(
        name: str, follow: bool = False, tail: Annotated[int, Query(ge=0, le=wire.MAX_TAIL_LINES)] = 100
    ) -> StreamingResponse:
        lines = await plane.logs(asked(name), follow=follow, tail=tail)
        return StreamingResponse(lines, media_type="text/plain; charset=utf-8")


def _add_alias_routes(app: FastAPI, plane: ControlPlane) -> None:
    @app.get(f"{wire.PREFIX}/aliases", tags=["aliases"], openapi_extra=needs("viewer", "read", tenants=True, open=True))
    async def aliases() -> wire.Aliases:
        return wire.Aliases(
            aliases=[_alias(alias) for alias in plane.aliases.list() if is_theirs(alias.name) and is_for_it(alias.name)]
        )

    @app.get(
        f"{wire.PREFIX}/aliases/{{name}}",
        tags=["aliases"],
        openapi_extra=needs("viewer", "read", tenants=True, open=True),
    )
    async def alias(name: str) -> wire.Alias:
        return _alias(plane.aliases.get(asked(name)))

    @app.put(
        f"{wire.PREFIX}/aliases/{{name}}",
        tags=["aliases"],
        openapi_extra=needs("operator", "services", tenants=True, open=True),
    )
    async def put_alias(name: str, body: wire.AliasRequest) -> wire.Alias:
        shares = tuple(Share(service=asked(service), weight=weight) for service, weight in body.services.items())
        canary = None if body.canary is None else asked(body.canary)
        return _alias(await plane.put_alias(Alias(name=asked(name), shares=shares, canary=canary)))

    @app.delete(
        f"{wire.PREFIX}/aliases/{{name}}",
        tags=["aliases"],
        openapi_extra=needs("operator", "services", tenants=True, open=True),
    )
    async def remove_alias(name: str) -> wire.Removed:
        await plane.remove_alias(asked(name))
        return wire.Removed(name=name)

    @app.post(
        f"{wire.PREFIX}/aliases/{{name}}/return",
        tags=["aliases"],
        openapi_extra=needs("operator", "services", tenants=True, open=True),
    )
    async def return_canary(name: str, body: wire.CanaryReturn) -> wire.Alias:
        return _alias(await plane.return_canary(asked(name), body.revision, body.reason))


def _service(status: ServiceStatus) -> wire.Service:
    """By the name that the caller has for it."""
    spec = dataclasses.replace(status.spec, name=ServiceName(theirs(status.spec.name)))
    return service_message(dataclasses.replace(status, spec=spec))


def _alias(alias: Alias) -> wire.Alias:
    """By the names that the caller has for it and its services."""
    shares = [{"service": theirs(share.service), "weight": share.weight} for share in alias.shares]
    canary = None if alias.canary is None else theirs(alias.canary)
    return same(wire.Alias, alias, name=theirs(alias.name), shares=shares, canary=canary)
