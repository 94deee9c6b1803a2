"""The hub's routes. `HF_ENDPOINT=http://127.0.0.1:7411`, and any client of Hugging Face's hub pulls from the store."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal
from urllib.parse import quote

from starlette.convertors import PathConvertor, register_url_convertor
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import Message, Receive, Scope, Send

from thaloom.base.errors import MethodNotAllowed, ThaloomError
from thaloom.base.events import Emit, Event, at_level
from thaloom.edge.api.errors import to_json
from thaloom.edge.api.routes.body import ClientGone

if TYPE_CHECKING:
    from thaloom.edge.api.hub.answers import HubAnswers
    from thaloom.edge.api.hub.shelf import Shelf, Upstream

What = Literal["models", "api", "file"]
OpenHub = Callable[[], "tuple[Shelf, Upstream]"]


@at_level("error")
@dataclass(frozen=True, slots=True, kw_only=True)
class HandingBroke(Event):
    """A file could not be handed out to its end: the store is damaged (`thaloom verify` names all that is)."""

    path: str
    code: str
    message: str


class _Whatever(PathConvertor):
    """As Starlette's `path`, and with line feeds, which a path may have: who asks so is answered in the hub's form."""

    regex = r"[\s\S]*"


register_url_convertor("whatever", _Whatever())


class HubRoutes:
    """`open_hub` gives the store and who fetches what is not in it. It is called with the first request, and what
    answers is loaded then: most doors hand out no models."""

    def __init__(self, open_hub: OpenHub, emit: Emit) -> None:
        self._open_hub = open_hub
        self._emit = emit
        self._answers: HubAnswers | None = None

    def routes(self) -> list[BaseRoute]:
        """For the end of a list of routes: the last of them takes any path with `/resolve/` in it."""
        return [
            Route("/api/models", _Answering(self, "models"), methods=["GET"]),
            Route("/api/models/{repo:whatever}/paths-info/{revision}", _Answering(self, "api"), methods=["POST"]),
            Route("/api/models/{rest:whatever}", _Answering(self, "api"), methods=["GET"]),
            Route("/{repo:whatever}/resolve/{rest:whatever}", _Answering(self, "file"), methods=["GET"]),
        ]

    async def answer(self, what: What, scope: Scope, receive: Receive, send: Send) -> None:
        """Errors in the form that clients of the hub read."""
        begun = False

        async def noting(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await getattr(await self._loaded(), what)(scope, receive, noting)
        except ClientGone:
            return
        except ThaloomError as error:
            if not begun:
                await refusal(error)(scope, receive, send)
                return
            # To return without the end of the answer breaks the connection: all that is left to say it is not whole.
            self._emit(HandingBroke(path=scope["path"], code=error.code, message=error.message))

    async def _loaded(self) -> HubAnswers:
        if self._answers is None:
            answers = await asyncio.to_thread(self._load)
            self._answers = self._answers or answers
        return self._answers

    def _load(self) -> HubAnswers:
        from thaloom.edge.api.hub.answers import HubAnswers

        return HubAnswers(*self._open_hub())


class _Answering:
    """An ASGI application: one of the hub's routes."""

    def __init__(self, routes: HubRoutes, what: What) -> None:
        self._routes = routes
        self._what: What = what

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._routes.answer(self._what, scope, receive, send)


def refusal(error: ThaloomError) -> Response:
    """Source: huggingface_hub 2.4.0, utils/_http.py, hf_raise_for_status: X-Error-Code and X-Error-Message."""
    message = " ".join(error.message.split())
    headers = {"x-error-message": quote(message[:500], safe=" !#$&'()*+,/:;=?@[]\"<>|{}~^`")}
    code = error.details.get("hub_code")
    if code is not None:
        headers["x-error-code"] = str(code)
    if isinstance(error, MethodNotAllowed):
        headers["allow"] = error.details.get("allowed", "")
    if error.retry_after_s is not None:
        headers["retry-after"] = str(max(1, math.ceil(error.retry_after_s)))
    body = {"error": error.message, "code": error.code}
    return Response(to_json(body), error.http_status, headers, media_type="application/json")
