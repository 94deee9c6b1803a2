"""The words of OpenTelemetry's conventions for generative AI that our traces use: here and nowhere else.

They are still in development and have been renamed more than once (`gen_ai.system` became `gen_ai.provider.name`).
Those of the worker's times are in no convention yet and carry our own prefix.
Source: OpenTelemetry semantic conventions for generative AI, as of opentelemetry-semantic-conventions 0.66.
"""

from __future__ import annotations

from typing import Any

from thaloom.edge.api.entrance.access_log import AnswerServed, RequestServed

OPERATION_NAME = "gen_ai.operation.name"
PROVIDER_NAME = "gen_ai.provider.name"
REQUEST_MODEL = "gen_ai.request.model"
RESPONSE_MODEL = "gen_ai.response.model"
FINISH_REASONS = "gen_ai.response.finish_reasons"
INPUT_TOKENS = "gen_ai.usage.input_tokens"
OUTPUT_TOKENS = "gen_ai.usage.output_tokens"
CACHED_TOKENS = "gen_ai.usage.cache_read.input_tokens"
METHOD = "http.request.method"
STATUS = "http.response.status_code"
PATH = "url.path"
ERROR = "error.type"
OUR_REQUEST = "thaloom.request.id"
OUR_KEY = "thaloom.key.name"
OUR_QUEUE_S = "thaloom.queue.seconds"
OUR_PREFILL_S = "thaloom.prefill.seconds"
OUR_DECODE_S = "thaloom.decode.seconds"
OUR_DEGRADED = "thaloom.degraded"

_OPERATIONS = (
    ("/v1/embeddings", "embeddings"),
    ("/api/embed", "embeddings"),
    ("/v1/completions", "text_completion"),
    ("/api/generate", "text_completion"),
    ("/v1/rerank", "retrieval"),
    ("/rerank", "retrieval"),
)
"""By the beginning of a path; all else that asks a model is a chat."""


def operation(path: str) -> str:
    return next((name for start, name in _OPERATIONS if path.startswith(start)), "chat")


def span_name(served: RequestServed) -> str:
    if isinstance(served, AnswerServed):
        return f"{operation(served.path)} {served.model}"
    return served.method


def attributes(served: RequestServed) -> dict[str, Any]:
    """Of the span of one request, once it is over. Nothing of what was said: neither prompt nor answer."""
    facts: dict[str, Any] = {
        METHOD: served.method,
        PATH: served.path,
        STATUS: served.status,
        OUR_REQUEST: served.request,
    }
    if served.key is not None:
        facts[OUR_KEY] = served.key
    if served.status >= 500:
        facts[ERROR] = str(served.status)
    if isinstance(served, AnswerServed):
        facts |= {
            OPERATION_NAME: operation(served.path),
            PROVIDER_NAME: "thaloom",
            REQUEST_MODEL: served.model,
            RESPONSE_MODEL: served.model,
            FINISH_REASONS: list(served.finish),
            INPUT_TOKENS: served.prompt_tokens,
            OUTPUT_TOKENS: served.completion_tokens,
            CACHED_TOKENS: served.cached_tokens,
            OUR_QUEUE_S: served.queue_ms / 1000,
            OUR_PREFILL_S: served.prefill_ms / 1000,
            OUR_DECODE_S: served.decode_ms / 1000,
        }
        if served.degraded:
            facts[OUR_DEGRADED] = list(served.degraded)
    return facts
