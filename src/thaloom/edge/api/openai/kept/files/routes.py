"""`/v1/files` and what is below it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import IO, Any
from urllib.parse import quote

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from thaloom.base.errors import BadParameter, BadRequest, ThaloomError
from thaloom.base.units import MIB
from thaloom.edge.api.entrance.visits import hold, key_of_request
from thaloom.edge.api.errors import to_json
from thaloom.edge.api.openai.kept.files.form import FileForm
from thaloom.edge.api.openai.kept.keeping import Incoming, Keeping
from thaloom.edge.api.openai.kept.responses.routes import page
from thaloom.edge.api.routes.body import ClientGone
from thaloom.edge.api.routes.fields import validate
from thaloom.edge.api.routes.methods import ByMethod, answering
from thaloom.edge.api.routes.queries import is_descending, whole_number
from thaloom.edge.wire.files import MAX_EXPIRY_S, PURPOSES, ExpiresAfter
from thaloom.kernel.state.types import KeptFile

SILENCE_DEADLINE_S = 30.0
"""Between two pieces of an upload."""
UPLOAD_DEADLINE_S = 3600.0
"""For all of it: a client that drips holds room on the disk for so long."""
PIECE_BYTES = MIB
"""Written and read at a time."""
MAX_FILENAME_CHARS = 255


class FileRoutes:
    def __init__(self, keeping: Keeping) -> None:
        self._keeping = keeping

    def routes(self) -> list[Route]:
        return [
            Route("/v1/files", ByMethod(GET=answering(self.list), POST=self.upload)),
            Route("/v1/files/{id}", ByMethod(GET=answering(self.get), DELETE=answering(self.delete))),
            Route("/v1/files/{id}/content", ByMethod(GET=answering(self.content))),
        ]

    async def list(self, request: Request) -> Response:
        purpose = request.query_params.get("purpose")
        found, has_more = await asyncio.to_thread(
            self._keeping.files.page,
            limit=whole_number(request, "limit", default=10_000, low=1, high=10_000),
            after=request.query_params.get("after"),
            descending=is_descending(request),
            purpose=purpose,
            holder=key_of_request(),
        )
        return _json(page([file_object(kept) for kept in found], has_more=has_more))

    async def get(self, request: Request) -> Response:
        file_id, holder = request.path_params["id"], key_of_request()
        return _json(file_object(await asyncio.to_thread(self._keeping.files.get, file_id, holder=holder)))

    async def delete(self, request: Request) -> Response:
        file_id = request.path_params["id"]
        await asyncio.to_thread(self._keeping.files.delete, file_id, holder=key_of_request())
        return _json({"id": file_id, "object": "file", "deleted": True})

    async def content(self, request: Request) -> Response:
        file_id, holder = request.path_params["id"], key_of_request()
        kept, file = await asyncio.to_thread(self._keeping.files.open, file_id, holder=holder)
        try:
            hold(min(kept.num_bytes, 2 * PIECE_BYTES))  # one that is written, and one that waits to be
        except ThaloomError:
            file.close()
            raise
        headers = {
            "content-length": str(kept.num_bytes),
            "content-disposition": f"attachment; filename*=UTF-8''{quote(kept.filename, safe='', errors='replace')}",
        }
        return StreamingResponse(_pieces(file), media_type="application/octet-stream", headers=headers)

    async def upload(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        form = FileForm(headers.get("content-type", ""))
        declared = headers.get("content-length", "")
        expected = int(declared) if declared.isdigit() and len(declared) < 16 else 0
        incoming: Incoming = await asyncio.to_thread(
            self._keeping.files.begin, expected_bytes=expected, holder=key_of_request()
        )
        with contextlib.suppress(ClientGone):
            try:
                kept = await _taken_in(form, incoming, receive)
            finally:
                await asyncio.to_thread(incoming.abort)
            await _json(file_object(kept))(scope, receive, send)


async def _taken_in(form: FileForm, incoming: Incoming, receive: Receive) -> KeptFile:
    """Raises BadRequest, BadParameter, TooLarge, QueueFull, DiskFull, ClientGone."""
    waiting = bytearray()
    held = 0
    try:
        async with asyncio.timeout(UPLOAD_DEADLINE_S):
            more = True
            while more:
                data, more = await _next_piece(receive)
                waiting += form.take(data)
                if len(waiting) > held:
                    hold(len(waiting) - held)
                    held = len(waiting)
                if len(waiting) >= PIECE_BYTES:
                    await asyncio.to_thread(incoming.write, bytes(waiting))
                    waiting.clear()
    except TimeoutError as error:
        raise BadRequest(
            f"the file did not arrive within {UPLOAD_DEADLINE_S:g} s, or nothing of it for {SILENCE_DEADLINE_S:g} s"
        ) from error
    form.end()
    purpose, expires_after_s = _wishes(form.fields)
    assert form.filename is not None, "a form that ends well has a file"
    await asyncio.to_thread(incoming.write, bytes(waiting))
    name = form.filename.encode(errors="replace").decode()[:MAX_FILENAME_CHARS]
    return await asyncio.to_thread(
        incoming.finish, filename=name or "file", purpose=purpose, expires_after_s=expires_after_s
    )


async def _next_piece(receive: Receive) -> tuple[bytes, bool]:
    async with asyncio.timeout(SILENCE_DEADLINE_S):
        message = await receive()
    if message["type"] == "http.disconnect":
        raise ClientGone
    return message.get("body", b""), message.get("more_body", False)


def _wishes(fields: dict[str, str]) -> tuple[str, float | None]:
    """(purpose, seconds until it expires). A batch's input expires after 30 days unless it is said otherwise, as the
    API has it. Raises BadParameter."""
    purpose = fields.get("purpose")
    if purpose not in PURPOSES:
        raise BadParameter(f"purpose must be one of {', '.join(PURPOSES)}", param="purpose")
    seconds = fields.get("expires_after[seconds]")
    if seconds is None and "expires_after[anchor]" not in fields:
        return purpose, float(MAX_EXPIRY_S) if purpose == "batch" else None
    number = (
        int(seconds) if seconds is not None and seconds.isascii() and seconds.isdigit() and len(seconds) < 10 else -1
    )
    asked = validate(
        ExpiresAfter, {"anchor": fields.get("expires_after[anchor]"), "seconds": number}, within="expires_after"
    )
    return purpose, float(asked.seconds)


async def _pieces(file: IO[bytes]) -> AsyncIterator[bytes]:
    try:
        while piece := await asyncio.to_thread(file.read, PIECE_BYTES):
            yield piece
    finally:
        file.close()


def file_object(kept: KeptFile) -> dict[str, Any]:
    return {
        "id": kept.id,
        "object": "file",
        "bytes": kept.num_bytes,
        "created_at": int(kept.created_at),
        "expires_at": None if kept.expires_at is None else int(kept.expires_at),
        "filename": kept.filename,
        "purpose": kept.purpose,
        "status": "processed",
        "status_details": None,
    }


def _json(data: Any) -> Response:
    return Response(to_json(data), media_type="application/json")
