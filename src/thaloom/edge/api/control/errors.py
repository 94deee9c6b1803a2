"""What went wrong, in the control API's own form."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException

from thaloom.base.errors import BadParameter, BadRequest, InternalError, MethodNotAllowed, ThaloomError, UnknownPath
from thaloom.edge.api.control.messages import error_body
from thaloom.edge.wire import control as wire


def add_error_handlers(app: FastAPI) -> None:
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
        headers["Allow"] = error.details.get("allowed", "")
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
