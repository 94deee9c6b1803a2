"""One path that does different things by HTTP method, and says of the others which it has."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from thaloom.base.errors import MethodNotAllowed


class ByMethod:
    """An ASGI application. HEAD is answered wherever GET is (RFC 9110, 9.1)."""

    def __init__(self, **methods: ASGIApp) -> None:
        self._methods = methods

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        handler = self._methods.get("GET" if scope["method"] == "HEAD" else scope["method"])
        if handler is None:
            allowed = ", ".join([*self._methods, *(["HEAD"] if "GET" in self._methods else [])])
            raise MethodNotAllowed(
                f"{scope['method']} is not served at {scope['path']} (served: {allowed})", allowed=allowed
            )
        await handler(scope, receive, send)


def answering(answer: Callable[[Request], Awaitable[Response]]) -> ASGIApp:
    """A function from request to answer, as an ASGI application."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        response = await answer(Request(scope, receive))
        await response(scope, receive, send)

    return app
