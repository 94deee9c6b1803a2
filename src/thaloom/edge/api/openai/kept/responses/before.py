"""What was said in the responses that one builds upon."""

from __future__ import annotations

import asyncio

from thaloom.base.errors import BadParameter
from thaloom.edge.api.openai.kept.keeping import Keeping
from thaloom.edge.api.openai.kept.responses.items import Item

UNMADE = ("queued", "in_progress")


async def said_before(keeping: Keeping, response_id: str | None, *, holder: str | None) -> list[Item]:
    """All items, oldest first. Raises NotKept; BadParameter while one of them is still being made."""
    if response_id is None:
        return []
    chain = await asyncio.to_thread(keeping.responses.chain, response_id, holder=holder)
    for response in chain:
        if response.body["status"] in UNMADE:
            raise BadParameter(
                f"previous_response_id: {response.id!r} is {response.body['status']}; wait until it is made",
                param="previous_response_id",
            )
    return [item for response in chain for item in (*response.input, *response.body["output"])]
