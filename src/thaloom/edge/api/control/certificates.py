"""The door's certificate. What it is, everybody may know who connects; what it shall be is the owner's to say."""

from __future__ import annotations

from fastapi import FastAPI

from thaloom.edge.api.control.gate import needs
from thaloom.edge.api.control.messages import same
from thaloom.edge.api.control.plane import ControlPlane
from thaloom.edge.wire import control as wire


def add_certificate_routes(app: FastAPI, plane: ControlPlane) -> None:
    gate = needs("admin", "node")

    @app.get(f"{wire.PREFIX}/certificate", tags=["certificate"], openapi_extra=needs("viewer", "read", open=True))
    async def certificate() -> wire.Certificate:
        return same(wire.Certificate, await plane.certificate())

    @app.post(f"{wire.PREFIX}/certificate/make", tags=["certificate"], openapi_extra=gate)
    async def make_certificate(body: wire.CertificateRequest) -> wire.Certificate:
        return same(wire.Certificate, await plane.make_certificate(body.names, body.days))

    @app.post(f"{wire.PREFIX}/certificate/renew", tags=["certificate"], openapi_extra=gate)
    async def renew_certificate(body: wire.CertificateRequest) -> wire.Certificate:
        return same(wire.Certificate, await plane.renew_certificate(body.names, body.days))

    @app.post(f"{wire.PREFIX}/certificate/import", tags=["certificate"], openapi_extra=gate)
    async def import_certificate(body: wire.ImportCertificateRequest) -> wire.Certificate:
        return same(wire.Certificate, await plane.import_certificate(body.certificate, body.key))
