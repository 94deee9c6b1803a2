"""`/v1/responses` and what is below it."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from thaloom.base.clock import Clock
from thaloom.base.errors import NotKept, ThaloomError, WrongState
from thaloom.base.ids import RequestId
from thaloom.edge.api.entrance.visits import key_of_request
from thaloom.edge.api.errors import to_json
from thaloom.edge.api.measures.metrics import DoorMetrics
from thaloom.edge.api.openai.kept.keeping import Keeping
from thaloom.edge.api.openai.kept.responses.before import said_before
from thaloom.edge.api.openai.kept.responses.following import MAX_EVENT, Following
from thaloom.edge.api.openai.kept.responses.items import new_id
from thaloom.edge.api.openai.kept.responses.reading import (
    ResponseWanted,
    param_of,
    read,
    read_tokens,
    to_tokenize,
    wanted,
)
from thaloom.edge.api.openai.kept.responses.writing import ResponseForm, first_events, last_event
from thaloom.edge.api.openai.kept.turns import Turns
from thaloom.edge.api.routes.body import ClientGone, read_object
from thaloom.edge.api.routes.generation import GenerationRoute, Speaking, get_served
from thaloom.edge.api.routes.methods import ByMethod, answering
from thaloom.edge.api.routes.queries import is_descending, is_wished, whole_number
from thaloom.kernel.state.types import KeptResponse
from thaloom.work.runtime.types import Generation


class ResponsesRoute:
    """`POST /v1/responses`, a plain ASGI application: generated as all is, and kept before its last word is sent; or
    made in the background, where a stream only follows what is told of it."""

    def __init__(
        self,
        *,
        generation: Generation,
        keeping: Keeping,
        following: Following,
        turns: Turns,
        clock: Clock,
        metrics: DoorMetrics,
        kick: Callable[[], None],
    ) -> None:
        self._generation = generation
        self._keeping = keeping
        self._following = following
        self._turns = turns
        self._clock = clock
        self._metrics = metrics
        self._kick = kick

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            data = await read_object(scope, receive)
            asked = read(data)
            before = await said_before(self._keeping, asked.previous_response_id, holder=key_of_request())
            response = wanted(asked, RequestId(new_id("resp")), before=before)
            if asked.background and asked.stream:
                await self._queued(response, data)
                with self._turns.given_up():
                    await self._following.answer(response.id, -1, scope, receive, send)
            elif asked.background:
                await _json(await self._queued(response, data))(scope, receive, send)
            else:
                await self._answer(response, receive, send)
        except ClientGone:
            return  # as in GenerationRoute
        except ThaloomError as error:
            error.param = param_of(error)
            raise

    async def _queued(self, wanted: ResponseWanted, data: dict[str, Any]) -> dict[str, Any]:
        """The response as it is before anybody works on it. Raises ModelNotFound, DiskFull."""
        get_served(self._generation, wanted.model)
        body = ResponseForm(wanted, now=self._clock.now).body | {"status": "queued"}
        if wanted.stream and wanted.asked.seed is None:
            data["seed"] = secrets.randbits(63)  # made again, it is to be the same answer
        kept = KeptResponse(
            id=wanted.id,
            previous=wanted.asked.previous_response_id,
            created_at=self._clock.now(),
            input=wanted.items,
            body=body,
        )
        events = first_events(body) if wanted.stream else ()
        await asyncio.to_thread(self._keeping.responses.put, kept, request=data, holder=key_of_request(), events=events)
        self._kick()
        return body

    async def _answer(self, wanted: ResponseWanted, receive: Receive, send: Send) -> None:
        form = ResponseForm(wanted, now=self._clock.now)
        speaking: Speaking[ResponseWanted] = Speaking(id_prefix="resp", read=_read_alone, form=lambda *_: form)
        route = GenerationRoute(speaking, generation=self._generation, clock=self._clock, metrics=self._metrics)
        keeper = _Keeper(self._keeping, wanted, form, send) if wanted.store else None
        await route.answer(wanted, receive, send if keeper is None else keeper.send)


class _Keeper:
    """A `send` that keeps the response before it lets its last piece through: who has got it can ask for it again.

    One that cannot be kept though it should is an error: before anything is sent where that is possible, else as the
    stream's last event.
    """

    def __init__(self, keeping: Keeping, wanted: ResponseWanted, form: ResponseForm, send: Send) -> None:
        self._keeping = keeping
        self._wanted = wanted
        self._form = form
        self._send = send
        self._start: Message | None = None

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start" and not self._wanted.stream:
            self._start = message
            return
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            message = await self._kept(message)
        if self._start is not None:
            await self._send(self._start)
            self._start = None
        await self._send(message)

    async def _kept(self, message: Message) -> Message:
        """Raises ThaloomError where nothing is sent yet."""
        form = self._form
        response = KeptResponse(
            id=self._wanted.id,
            previous=self._wanted.asked.previous_response_id,
            created_at=form.body["created_at"],
            input=self._wanted.items,
            body=form.body,
        )
        try:
            await asyncio.to_thread(self._keeping.responses.put, response, holder=key_of_request())
        except ThaloomError as error:
            if not self._wanted.stream:
                raise
            if form.body["status"] != "failed":  # else its client knows already that there is nothing worth keeping
                return {**message, "body": form.error_event(error)}
        return message


class KeptResponseRoutes:
    """What can be asked about a response that is kept."""

    def __init__(
        self, generation: Generation, keeping: Keeping, following: Following, changed: Callable[[str], None]
    ) -> None:
        """`changed`: told of each response that is cancelled or deleted."""
        self._generation = generation
        self._keeping = keeping
        self._following = following
        self._changed = changed

    def routes(self) -> list[Route]:
        return [
            Route("/v1/responses/input_tokens", ByMethod(POST=self.input_tokens)),
            Route("/v1/responses/{id}", ByMethod(GET=self.get, DELETE=answering(self.delete))),
            Route("/v1/responses/{id}/input_items", ByMethod(GET=answering(self.input_items))),
            Route("/v1/responses/{id}/cancel", ByMethod(POST=answering(self.cancel))),
        ]

    async def get(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        after = whole_number(request, "starting_after", default=-1, low=0, high=MAX_EVENT)
        if is_wished(request, "stream"):
            with contextlib.suppress(ClientGone):
                await self._following.answer(request.path_params["id"], after, scope, receive, send)
        else:
            await _json((await self._kept(request)).body)(scope, receive, send)

    async def delete(self, request: Request) -> Response:
        response_id = request.path_params["id"]
        await asyncio.to_thread(self._keeping.responses.delete, response_id, holder=key_of_request())
        self._changed(response_id)
        return _json({"id": response_id, "object": "response", "deleted": True})

    async def input_items(self, request: Request) -> Response:
        limit = whole_number(request, "limit", default=20, low=1, high=100)
        kept = await self._kept(request)
        items = kept.input[::-1] if is_descending(request) else kept.input
        after = request.query_params.get("after")
        if after is not None:
            places = [place for place, item in enumerate(items) if item["id"] == after]
            if not places:
                raise NotKept(f"no item {after[:200]!r} is in the input of {kept.id!r}", param="after")
            items = items[places[0] + 1 :]
        return _json(page(items[:limit], has_more=len(items) > limit))

    async def cancel(self, request: Request) -> Response:
        """Of a response that is made already, nothing changes."""
        kept = await self._kept(request)
        if not kept.body["background"]:
            raise WrongState(
                f"response {kept.id!r} was not made in the background: closing its connection would have cancelled it",
                param="response_id",
            )
        kept = await asyncio.to_thread(
            self._keeping.responses.cancel, kept.id, holder=key_of_request(), ending=last_event
        )
        self._changed(kept.id)
        return _json(kept.body)

    async def input_tokens(self, scope: Scope, receive: Receive, send: Send) -> None:
        with contextlib.suppress(ClientGone):
            asked = read_tokens(await read_object(scope, receive))
            before = await said_before(self._keeping, asked.previous_response_id, holder=key_of_request())
            found = await self._generation.tokenize(to_tokenize(asked, before=before))
            response = _json({"object": "response.input_tokens", "input_tokens": len(found.tokens)})
            await response(scope, receive, send)

    async def _kept(self, request: Request) -> KeptResponse:
        response_id, holder = request.path_params["id"], key_of_request()
        return await asyncio.to_thread(self._keeping.responses.get, response_id, holder=holder)


def page(data: list[dict[str, Any]], *, has_more: bool) -> dict[str, Any]:
    """A page of a list, as all of OpenAI's lists have it."""
    return {
        "object": "list",
        "data": data,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
        "has_more": has_more,
    }


def _read_alone(data: dict[str, Any], request_id: RequestId) -> ResponseWanted:
    """A request that builds upon nothing."""
    return wanted(read(data), request_id)


def _json(data: Any) -> Response:
    return Response(to_json(data), media_type="application/json")
