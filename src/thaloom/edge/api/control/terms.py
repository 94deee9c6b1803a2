"""On what terms a request is made: who makes it, under which id, for which plan, or only to see what it would do.

    ?dry_run=true                  the answer is the Plan, and nothing is done
    ?plan=DIGEST&until=SECONDS     only if what would be done now is exactly that plan, and not after that moment
    Idempotency-Key: ID            asked again, nothing is done again

Source: draft-ietf-httpapi-idempotency-key-header.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.datastructures import Headers, QueryParams

from thaloom.base.actions import TERMS, Approval, Caller, Planned, Terms
from thaloom.base.errors import BadParameter, RateLimited, ThaloomError, Unauthorized
from thaloom.edge.api.control.errors import error_response
from thaloom.edge.api.control.gate import Gatekeeper
from thaloom.edge.api.entrance.visits import shown_keys
from thaloom.edge.wire import control as wire

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

PeerOf = Callable[["Scope"], int | None]
_DIGEST = re.compile("[0-9a-f]{64}")
PEER = "peer"
"""In the place of a client's address: the user at the other end of a unix socket."""


def add_terms(app: FastAPI, gate: Gatekeeper, peer: PeerOf) -> None:
    async def planned(request: Request, plan: Exception) -> JSONResponse:  # noqa: ARG001 - Starlette's signature
        assert isinstance(plan, Planned)
        return JSONResponse(plan_message(plan).model_dump(), headers={wire.DRY_RUN: "true"})

    app.add_exception_handler(Planned, planned)
    app.add_middleware(_OnTerms, gate=gate, peer=peer)


def peer_uid_of(scope: Scope) -> int | None:
    """The user at the other end of the connection, as control.server writes it down; None: nobody knows."""
    client = scope.get("client")
    return client[1] if client is not None and client[0] == PEER else None


def plan_message(planned: Planned) -> wire.Plan:
    (plan,) = planned.plans
    record = plan.to_record()
    return wire.Plan(**record.pop("call"), **record, digest=plan.digest)


def terms_of(caller: Caller, headers: Headers, query: QueryParams) -> Terms:
    """Raises BadParameter that names the wrong one."""
    return Terms(
        caller=caller,
        action=_unquoted(headers.get("idempotency-key")),
        approval=_approval(query.get("plan"), query.get("until")),
        dry_run=_flag(query.get("dry_run", "false")),
    )


class _OnTerms:
    """Finds out who asks, and sets the terms, before anything else is done for the request."""

    def __init__(self, app: ASGIApp, gate: Gatekeeper, peer: PeerOf) -> None:
        self._app = app
        self._gate = gate
        self._peer = peer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        try:
            terms = terms_of(self._identify(scope, headers), headers, QueryParams(scope["query_string"]))
        except (BadParameter, Unauthorized, RateLimited) as error:
            await error_response(error)(scope, receive, send)
            return
        TERMS.set(terms)  # every request runs in a context of its own
        await self._app(scope, receive, send)

    def _identify(self, scope: Scope, headers: Headers) -> Caller:
        client = _client_of(headers.get("forwarded"))
        uid = self._peer(scope)
        try:
            return self._gate.identify(uid, shown=shown_keys(headers), by_door="via" in headers, client=client)
        except ThaloomError as error:
            who = f"address:{client}" if client is not None else f"uid:{uid}"
            self._gate.refused(who, f"{scope['method']} {wire.PREFIX}", error)
            raise


def _client_of(forwarded: str | None) -> str | None:
    """As the door writes it (RFC 7239): `for="127.0.0.1"`. What cannot be read is a client all the same."""
    if forwarded is None:
        return None
    match = re.fullmatch('for="([^"]*)"', forwarded)
    return "unknown" if match is None else match[1]


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
