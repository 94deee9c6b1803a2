"""schemathesis reads the door's OpenAPI document and holds the door to it: every operation, every check it knows.

The door is on loopback, with a control server behind it and a store, over a Generation that serves a model of whatever
name is asked for: else nearly every request would end in a 404. The long run (`make schemathesis`) has more examples of
each; SCHEMATHESIS_EXAMPLES says how many.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance

from tests.contract.edge.scripted_door import Scripted
from tests.contract.edge.sdk_methods import node
from thaloom.door import openapi_document

EXAMPLES = int(os.environ.get("SCHEMATHESIS_EXAMPLES", "6"))
UNSAYABLE = {
    # the name of a tool that is given; that there are some; no name is twice; of many messages
    # or items, one is not empty; a budget if it is to be spent
    "/v1/chat/completions": ("tool_choice",),
    "/v1/responses": ("tool_choice", "tools", "input"),
    "/v1/responses/input_tokens": ("tool_choice", "tools", "input"),
    "/v1/messages": ("tool_choice", "messages", "thinking.budget_tokens"),
    "/v1/messages/count_tokens": ("tool_choice", "messages", "thinking.budget_tokens"),
    "/v1/completions": ("n", "best_of"),  # not more than 128 answers, not fewer than are shown
    "/v1/embeddings": ("dimensions",),  # not more than the model has
    "/api/embed": ("dimensions:",),
    # no window of last tokens, if there is a penalty to be counted in it
    "/api/generate": ("options.repeat_last_n:",),
    "/api/chat": ("options.repeat_last_n:",),
    # as many elements as the shape says, which fit into their type; as many bytes of JSON as there are
    "/v2/models/{model}/infer": ("inputs", "inference-header-content-length"),
    "/v1/images/generations": ("size",),  # the model's own
    "/v1/audio/transcriptions": ("timestamp_granularities",),  # with verbose_json only
    "/detokenize": ("tokens",),  # those the model has
    "/api/pull": ("model:",),  # what a source looks like, at each kind of hub
}
"""By path: fields that a request which the schema allows may be refused for, for what no schema could say."""
TWO_FORMS = "both say what form the answer has"
"""Each of several fields may say it, and no schema could say that only one does."""
FORMS = {"/v1/files", "/v1/audio/transcriptions"}
"""Sent as multipart, where whatever stands in a part's place is a file's content: none is of a wrong type."""


class EveryName(str):
    """Is whatever it is compared with."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, str)

    def __hash__(self) -> int:
        return 0


SCHEMA = schemathesis.openapi.from_dict(openapi_document())


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """Of a door in a loop of its own: the test's thread waits for answers."""
    found: list[str] = []
    up, enough = threading.Event(), threading.Event()

    async def serve(folder: Path) -> None:
        async with node(folder, generation=Scripted(names=(EveryName("tiny"),))) as (door, plane):
            plane.gate.set()
            found.append(door.url)
            up.set()
            await asyncio.to_thread(enough.wait)

    with tempfile.TemporaryDirectory(prefix="t", dir="/tmp") as folder:
        thread = threading.Thread(target=lambda: asyncio.run(serve(Path(folder))))
        thread.start()
        try:
            assert up.wait(30)
            yield found[0]
        finally:
            enough.set()
            thread.join()


@SCHEMA.parametrize()
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
def test_the_door_does_what_its_document_says(case: Any, url: str) -> None:
    response = case.call(base_url=url)
    if case.meta.generation.mode is GenerationMode.POSITIVE and response.status_code == 400:
        told = refused_field(response.json())
        is_unsayable = TWO_FORMS in response.text or told.startswith(UNSAYABLE.get(case.operation.path, ()))
        assert is_unsayable, response.text
        case.validate_response(response, excluded_checks=[positive_data_acceptance])
    else:
        # The check does not count a refusal for its size (a form of too many parts) among refusals.
        lenient = (case.operation.path in FORMS and response.status_code == 200) or response.status_code == 413
        case.validate_response(response, excluded_checks=[negative_data_rejection] if lenient else [])


SAID = {"model": "tiny", "max_tokens": 4, "messages": [{"role": "user", "content": "Hello"}], "stream": True}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", SAID),
        ("/v1/messages", SAID),
        ("/v1/completions", {"model": "tiny", "prompt": "Hello", "stream": True}),
        ("/v1/responses", {"model": "tiny", "input": "Hello", "stream": True}),
        ("/api/chat", SAID),
        ("/api/generate", {"model": "tiny", "prompt": "Hello", "stream": True}),
    ],
)
def test_each_event_of_a_stream_is_as_the_document_says(path: str, body: dict[str, Any], url: str) -> None:
    """Said apart: of the examples above it takes many until one is a request that is answered with a stream."""
    case = SCHEMA[path]["POST"].Case(body=body, media_type="application/json")
    response = case.call(base_url=url)
    assert response.status_code == 200
    assert response.headers["content-type"][0].startswith(("text/event-stream", "application/x-ndjson"))
    case.validate_response(response)


def refused_field(body: dict[str, Any]) -> str:
    """What a refusal is about, in each protocol's form; of Ollama's, which has but a text, the text."""
    error = body["error"]
    if isinstance(error, str):
        return error
    return error.get("param") or error.get("details", {}).get("param") or ""
