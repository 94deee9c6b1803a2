"""`/v1/images/generations`, by models that are made for it."""

from __future__ import annotations

import asyncio
import base64
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from thaloom.base.clock import Clock
from thaloom.base.ids import new_request_id
from thaloom.edge.api.errors import to_json
from thaloom.edge.api.openai.unserved import refuse_unserved
from thaloom.edge.api.routes.body import ClientGone, read_object, while_connected
from thaloom.edge.api.routes.fields import validate
from thaloom.edge.wire.images import UNSERVED_IN_IMAGE, ImageRequest
from thaloom.work.runtime.types import Inference, PaintRequest, Pictures


class Painting:
    """A plain ASGI application."""

    def __init__(self, inference: Inference, clock: Clock) -> None:
        self._inference = inference
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            data = await read_object(scope, receive)
            refuse_unserved(data, UNSERVED_IN_IMAGE)
            painted = await while_connected(receive, self._inference.paint(_asked(validate(ImageRequest, data))))
        except ClientGone:
            return
        body = await asyncio.to_thread(_body, painted, int(self._clock.now()))
        await Response(body, 200, media_type="application/json")(scope, receive, send)


def _asked(fields: ImageRequest) -> PaintRequest:
    size = None
    if fields.size not in (None, "auto"):
        width, _, height = str(fields.size).partition("x")
        size = (int(width), int(height))
    return PaintRequest(
        id=new_request_id("image"), model=fields.model, prompt=fields.prompt, count=fields.n or 1, size=size,
        seed=fields.seed,
    )  # fmt: skip


def _body(painted: Pictures, now: int) -> bytes:
    images: list[Any] = [{"b64_json": base64.b64encode(image).decode()} for image in painted.images]
    size = f"{painted.width}x{painted.height}"
    return to_json({"created": now, "data": images, "output_format": "png", "size": size})
