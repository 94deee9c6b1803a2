"""schemathesis reads the door's OpenAPI document and holds the door to it: every operation, every check it knows.

In process, over a Generation that serves a model of whatever name is asked for: else nearly every request would end in
a 404. The long run (`make schemathesis`) has more examples of each; SCHEMATHESIS_EXAMPLES says how many.
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance

from tests.contract.edge.scripted_door import Scripted
from thaloom.base.clock import SystemClock
from thaloom.base.events import ignore
from thaloom.edge.api.app import door_app

EXAMPLES = int(os.environ.get("SCHEMATHESIS_EXAMPLES", "6"))
UNSAYABLE = {
    "/v1/chat/completions": ("tool_choice.",),  # the name of a tool that is given
    "/v1/completions": ("n", "best_of"),  # not more than 128 answers, not fewer than are shown
    "/v1/embeddings": ("dimensions",),  # not more than the model has
    "/detokenize": ("tokens",),  # those the model has
}
"""By path: fields that a request which the schema allows may be refused for, for what no schema could say."""


class EveryName(str):
    """Is whatever it is compared with."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, str)

    def __hash__(self) -> int:
        return 0


DOOR = door_app(
    Scripted(names=(EveryName("tiny"),)), control_socket=Path("/nonexistent"), clock=SystemClock(), emit=ignore
)


async def app(scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
    """The door, under the name it has on this machine: the client in process calls it by another."""
    if scope["type"] == "http":
        others = [pair for pair in scope["headers"] if pair[0] != b"host"]
        scope = {**scope, "headers": [*others, (b"host", b"localhost")]}
    await DOOR(scope, receive, send)


SCHEMA = schemathesis.openapi.from_asgi("/openapi.json", app)


@SCHEMA.parametrize()
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
def test_the_door_does_what_its_document_says(case: Any) -> None:
    response = case.call()
    if case.meta.generation.mode is GenerationMode.POSITIVE and response.status_code == 400:
        error = response.json()["error"]
        assert (error["param"] or "").startswith(UNSAYABLE.get(case.operation.path, ())), error
        case.validate_response(response, excluded_checks=[positive_data_acceptance])
    else:
        case.validate_response(response)
