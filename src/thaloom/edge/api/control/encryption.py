"""Encrypted models: which key opens them, and converting them. An admin's: what a key opens, and what is written in
plain, is the owner's to say."""

from __future__ import annotations

from fastapi import FastAPI
from fastapi.responses import StreamingResponse

from thaloom.edge.api.control.gate import needs
from thaloom.edge.api.control.messages import model_message, same
from thaloom.edge.api.control.plane import ControlPlane, OnProgress
from thaloom.edge.api.control.progress import followed
from thaloom.edge.wire import control as wire
from thaloom.kernel.models.types import ModelName


def add_encryption_routes(app: FastAPI, plane: ControlPlane) -> None:
    @app.get(f"{wire.PREFIX}/encryption", tags=["encryption"], openapi_extra=needs("viewer", "read", open=True))
    async def encryption() -> wire.Encryption:
        return same(wire.Encryption, await plane.encryption())

    @app.post(f"{wire.PREFIX}/encryption/key", tags=["encryption"], openapi_extra=needs("admin", "node"))
    async def make_master_key() -> wire.MasterKey:
        return wire.MasterKey(origin=await plane.make_master_key())

    @app.post(f"{wire.PREFIX}/encryption/rotate", tags=["encryption"], openapi_extra=needs("admin", "node"))
    async def rotate_master_key(body: wire.RotateRequest) -> wire.MasterKey:
        return wire.MasterKey(origin=await plane.rotate_master_key(body.passphrase, body.key_file))

    path = f"{wire.PREFIX}/models/{{name}}"

    @app.post(
        f"{path}/encrypt", tags=["encryption"], response_class=StreamingResponse, openapi_extra=needs("admin", "models")
    )
    async def encrypt(name: str, body: wire.ConvertRequest) -> StreamingResponse:
        return await _converted(plane, name, body, encrypted=True)

    @app.post(
        f"{path}/decrypt", tags=["encryption"], response_class=StreamingResponse, openapi_extra=needs("admin", "models")
    )
    async def decrypt(name: str, body: wire.ConvertRequest) -> StreamingResponse:
        return await _converted(plane, name, body, encrypted=False)


async def _converted(
    plane: ControlPlane, name: str, body: wire.ConvertRequest, *, encrypted: bool
) -> StreamingResponse:
    model = ModelName.parse(name)
    to = None if body.name is None else ModelName.parse(body.name)

    async def work(progress: OnProgress) -> wire.Answer:
        made = await plane.convert_model(model, to, encrypted=encrypted, replace=body.replace, progress=progress)
        return wire.PullDone(model=model_message(made))

    return await followed(work)
