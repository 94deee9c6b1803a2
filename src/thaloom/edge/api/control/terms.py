"""On what terms a request is made: who makes it, under which id, for which plan, or only to see what it would do.

    ?dry_run=true                  the answer is the Plan, and nothing is done
    ?plan=DIGEST&until=SECONDS     only if what would be done now is exactly that plan, and not after that moment
    Idempotency-Key: ID            asked again, nothing is done again

Source: draft-ietf-httpapi-idempotency-key-header.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.datastructures import Headers, QueryParams

from thaloom.base.actions import LOCAL, TERMS, Approval, Caller, Planned, Terms
from thaloom.base.errors import BadParameter, Forbidden
from thaloom.edge.api.control.errors import error_response
from thaloom.edge.wire import control as wire

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

_DIGEST = re.compile("[0-9a-f]{64}")
_DOOR = Caller("program", "door")


def add_terms(app: FastAPI) -> None:
    async def planned(request: Request, plan: Exception) -> JSONResponse:  # noqa: ARG001 - Starlette's signature
        assert isinstance(plan, Planned)
        return JSONResponse(plan_message(plan).model_dump(), headers={wire.DRY_RUN: "true"})

    app.add_exception_handler(Planned, planned)
    app.add_middleware(_OnTerms)


def only_by_the_socket(request: Request) -> None:
    """The door says `Via` when it hands a request on. Raises Forbidden."""
    if "via" in request.headers:
        raise Forbidden("this is asked through the node's own socket only (the thaloom command)")


def plan_message(planned: Planned) -> wire.Plan:
    (plan,) = planned.plans
    record = plan.to_record()
    return wire.Plan(**record.pop("call"), **record, digest=plan.digest)


def terms_of(headers: Headers, query: QueryParams) -> Terms:
    """Raises BadParameter that names the wrong one."""
    return Terms(
        caller=_DOOR if "via" in headers else LOCAL,
        action=_unquoted(headers.get("idempotency-key")),
        approval=_approval(query.get("plan"), query.get("until")),
        dry_run=_flag(query.get("dry_run", "false")),
    )


class _OnTerms:
    """Sets the terms before anything else is done for the request."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            terms = terms_of(Headers(scope=scope), QueryParams(scope["query_string"]))
        except BadParameter as error:
            await error_response(error)(scope, receive, send)
            return
        TERMS.set(terms)  # every request runs in a context of its own
        await self._app(scope, receive, send)


def _unquoted(key: str | None) -> str | None:
    """The draft writes it as a string of structured fields, most clients as it is."""
    return key[1:-1] if key is not None and len(key) > 2 and key[0] == key[-1] == '"' else key


def _approval(digest: str | None, until: str | None) -> Approval | None:
    if digest is not None and not _DIGEST.fullmatch(digest):
        raise BadParameter("plan must be a digest of 64 hexadecimal digits", param="plan")
    try:
        moment = math.inf if until is None else float(until)
    except ValueError:
        moment = math.nan
    if math.isnan(moment):
        raise BadParameter(f"until must be seconds since the epoch, not {until!r}", param="until")
    if digest is None:
        return None
    return Approval(digest=digest, until=moment)


def _flag(text: str) -> bool:
    if text.lower() not in ("true", "false", "1", "0"):
        raise BadParameter(f"dry_run must be true or false, not {text!r}", param="dry_run")
    return text.lower() in ("true", "1")
