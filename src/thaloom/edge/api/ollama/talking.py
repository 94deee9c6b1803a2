"""`/api/generate` and `/api/chat`: the one generation route, behind what only this protocol does before it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from thaloom.base.clock import Clock
from thaloom.base.errors import BadParameter
from thaloom.base.ids import RequestId, new_request_id
from thaloom.edge.api.errors import to_json
from thaloom.edge.api.measures.metrics import DoorMetrics
from thaloom.edge.api.ollama import requests
from thaloom.edge.api.ollama.answers import OllamaForm, moment
from thaloom.edge.api.ollama.loading import Loading
from thaloom.edge.api.ollama.requests import OllamaWanted, Presence
from thaloom.edge.api.routes.body import ClientGone, read_object, while_connected
from thaloom.edge.api.routes.generation import GenerationRoute, Speaking
from thaloom.edge.wire import ollama as wire
from thaloom.work.runtime.types import GenerateRequest, Generation, ServedModel

Read = Callable[[dict[str, Any], RequestId], OllamaWanted | Presence]


class OllamaRoute:
    """An ASGI application: reads, has the model loaded, answers. A request with nothing to generate ends there."""

    def __init__(
        self, read: Read, loading: Loading, *, generation: Generation, clock: Clock, metrics: DoorMetrics
    ) -> None:
        self._read = read
        self._loading = loading
        self._generation = generation
        self._clock = clock
        speaking = Speaking(id_prefix="req", read=_never, form=_form, media_type=wire.NDJSON.encode())
        self._route = GenerationRoute(speaking, generation=generation, clock=clock, metrics=metrics)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            data = await read_object(scope, receive)
            try:
                wanted = self._read(data, new_request_id())
            except BadParameter as error:
                raise await self._loading.told_first(data, error) from error
            if isinstance(wanted, Presence):
                body = await while_connected(receive, self._present(wanted))
                await Response(to_json(body), media_type="application/json")(scope, receive, send)
            else:
                wanted = await while_connected(receive, self._loaded(wanted))
                async with self._loading.kept(wanted.model, wanted.keep_alive_s):
                    await self._route.answer(wanted, receive, send)
        except ClientGone:
            return

    async def _present(self, wanted: Presence) -> dict[str, Any]:
        if wanted.unload:
            await self._loading.unload(wanted.model)
        else:
            name, _ = await self._loading.ready(wanted.model)
            async with self._loading.kept(name, wanted.keep_alive_s):
                pass
        said = {"message": {"role": "assistant", "content": ""}} if wanted.kind == "chat" else {"response": ""}
        head = {"model": wanted.model, "created_at": moment(self._clock.now())}
        return head | said | {"done": True, "done_reason": "unload" if wanted.unload else "load"}

    async def _loaded(self, wanted: OllamaWanted) -> OllamaWanted:
        name, load_s = await self._loading.ready(wanted.model)
        request = dataclasses.replace(wanted.requests[0], model=name)
        if wanted.kind == "generate" and request.messages is not None:
            request = await self._as_it_is_spoken_to(request)
        return dataclasses.replace(wanted, model=name, requests=(request,), load_s=load_s)

    async def _as_it_is_spoken_to(self, request: GenerateRequest) -> GenerateRequest:
        """A model without a chat template goes on with the prompt itself, as in Ollama."""
        info = await self._generation.tokenizer_info(request.model)
        if info.chat_template is not None:
            return request
        prompt = "\n".join(message.content for message in request.messages or ())
        return dataclasses.replace(request, messages=None, prompt=prompt)


def _form(wanted: OllamaWanted, served: ServedModel | None, now: float) -> OllamaForm:  # noqa: ARG001
    return OllamaForm(wanted, now=now)


def _never(data: dict[str, Any], request_id: RequestId) -> OllamaWanted:  # noqa: ARG001
    raise AssertionError("requests of this protocol are read before they come here")


def talking(loading: Loading, *, generation: Generation, clock: Clock, metrics: DoorMetrics) -> dict[str, OllamaRoute]:
    """By path."""
    return {
        path: OllamaRoute(read, loading, generation=generation, clock=clock, metrics=metrics)
        for path, read in (("/api/chat", requests.chat), ("/api/generate", requests.generate))
    }
