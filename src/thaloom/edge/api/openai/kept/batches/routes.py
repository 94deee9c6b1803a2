"""`/v1/batches` and what is below it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from thaloom.base.clock import Clock
from thaloom.base.errors import BadParameter, NotKept, WrongState
from thaloom.edge.api.entrance.visits import key_of_request
from thaloom.edge.api.errors import to_json
from thaloom.edge.api.openai.kept.keeping import Keeping
from thaloom.edge.api.openai.kept.responses.items import new_id
from thaloom.edge.api.openai.kept.responses.routes import page
from thaloom.edge.api.routes.body import ClientGone, read_object
from thaloom.edge.api.routes.fields import validate
from thaloom.edge.api.routes.methods import ByMethod, answering
from thaloom.edge.api.routes.queries import whole_number
from thaloom.edge.wire.files import COMPLETION_WINDOW_S, BatchRequest
from thaloom.kernel.state.types import KeptBatch

WINDOW = "24h"
_TIMES = (
    "created_at", "in_progress_at", "expires_at", "finalizing_at", "completed_at", "failed_at", "expired_at",
    "cancelling_at", "cancelled_at",
)  # fmt: skip


class BatchRoutes:
    """`kick` is called when there is something to do or to leave off: whoever works on batches looks at once."""

    def __init__(self, keeping: Keeping, clock: Clock, kick: Callable[[], None]) -> None:
        self._keeping = keeping
        self._clock = clock
        self._kick = kick

    def routes(self) -> list[Route]:
        return [
            Route("/v1/batches", ByMethod(GET=answering(self.list), POST=self.create)),
            Route("/v1/batches/{id}", ByMethod(GET=answering(self.get))),
            Route("/v1/batches/{id}/cancel", ByMethod(POST=answering(self.cancel))),
        ]

    async def create(self, scope: Scope, receive: Receive, send: Send) -> None:
        with contextlib.suppress(ClientGone):
            asked = validate(BatchRequest, await read_object(scope, receive))
            try:
                file = await asyncio.to_thread(self._keeping.files.get, asked.input_file_id, holder=key_of_request())
            except NotKept as error:
                raise NotKept(error.message, param="input_file_id") from error
            if file.purpose != "batch":
                raise BadParameter(
                    f"input_file_id: {file.id!r} was uploaded for {file.purpose!r}, not for 'batch'",
                    param="input_file_id",
                )
            now = self._clock.now()
            batch = KeptBatch(
                id=new_id("batch"),
                endpoint=asked.endpoint,
                input_file=file.id,
                key=key_of_request(),
                created_at=now,
                expires_at=now + COMPLETION_WINDOW_S[asked.completion_window],
                metadata=asked.metadata,
                output_expires_after_s=asked.output_expires_after.seconds if asked.output_expires_after else None,
            )
            await asyncio.to_thread(self._keeping.batches.create, batch)
            self._kick()
            await _json(batch_object(batch))(scope, receive, send)

    async def list(self, request: Request) -> Response:
        found, has_more = await asyncio.to_thread(
            self._keeping.batches.page,
            limit=whole_number(request, "limit", default=20, low=1, high=100),
            after=request.query_params.get("after"),
            holder=key_of_request(),
        )
        return _json(page([batch_object(batch) for batch in found], has_more=has_more))

    async def get(self, request: Request) -> Response:
        batch_id, holder = request.path_params["id"], key_of_request()
        return _json(batch_object(await asyncio.to_thread(self._keeping.batches.get, batch_id, holder=holder)))

    async def cancel(self, request: Request) -> Response:
        """A batch that is being cancelled is cancelled once; one that is over cannot be."""
        batch_id, holder = request.path_params["id"], key_of_request()
        batch = await asyncio.to_thread(
            self._keeping.batches.change,
            batch_id,
            when=("validating", "in_progress", "finalizing"),
            holder=holder,
            status="cancelling",
            cancelling_at=self._clock.now(),
        )
        if batch is None:
            batch = await asyncio.to_thread(self._keeping.batches.get, batch_id, holder=holder)
            if batch.status != "cancelling":
                raise WrongState(f"batch {batch_id!r} is {batch.status} and cannot be cancelled", param="batch_id")
        self._kick()
        return _json(batch_object(batch))


def batch_object(batch: KeptBatch) -> dict[str, Any]:
    problems = [
        {"code": problem.code, "message": problem.message, "param": problem.param, "line": problem.line}
        for problem in batch.problems
    ]
    times = {name: getattr(batch, name) for name in _TIMES}
    return {
        "id": batch.id,
        "object": "batch",
        "endpoint": batch.endpoint,
        "model": batch.model,
        "errors": {"object": "list", "data": problems} if problems else None,
        "input_file_id": batch.input_file,
        "completion_window": WINDOW,
        "status": batch.status,
        "output_file_id": batch.output_file,
        "error_file_id": batch.error_file,
        **{name: None if value is None else int(value) for name, value in times.items()},
        "request_counts": {"total": batch.total, "completed": batch.completed, "failed": batch.failed},
        "usage": None if batch.usage is None else _usage(batch.usage),
        "metadata": batch.metadata,
    }


def _usage(usage: dict[str, int]) -> dict[str, Any]:
    given, made = usage.get("input_tokens", 0), usage.get("output_tokens", 0)
    cached = usage.get("cached_tokens", 0)
    return {
        "input_tokens": given,
        "input_tokens_details": {"cached_tokens": cached, "cache_write_tokens": max(0, given - cached)},
        "output_tokens": made,
        "output_tokens_details": {"reasoning_tokens": usage.get("reasoning_tokens", 0)},
        "total_tokens": given + made,
    }


def _json(data: Any) -> Response:
    return Response(to_json(data), media_type="application/json")
