"""What the door measures, and what workers say of themselves, for `/metrics`. Seconds, bytes, tokens, requests.

The door's numbers live here; a worker's are asked for at each scrape, so that they are never older than it says, and
a worker that does not answer is shown as not up and with no numbers at all.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString
from starlette.requests import Request
from starlette.responses import Response

from thaloom.base.errors import ThaloomError
from thaloom.edge.api.measures.metric_aliases import aliases
from thaloom.work.runtime.types import Done, Generation

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
_TOKEN_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
_WORKER_GAUGES = {
    "running": ("running_requests", "Requests that take part in the worker's steps."),
    "waiting": ("waiting_requests", "Requests in the worker's queue."),
    "num_blocks": ("kv_blocks", "Blocks of 16 tokens in the worker's pool."),
    "used_blocks": ("kv_blocks_used", "Blocks that running requests hold."),
    "cached_blocks": ("kv_blocks_cached", "Blocks that nobody holds and that a new request may find its prefix in."),
    "pinned_blocks": ("kv_blocks_pinned", "Blocks, held or cached, that are to stay until the time of a pin ends."),
    "weight_bytes": ("weight_bytes", "Bytes of the model's weights as the device holds them."),
    "kv_bytes": ("kv_bytes", "Bytes of the block pool."),
    "kv_committed_bytes": ("kv_committed_bytes", "Of these, bytes that have memory behind them now."),
    "kv_host_bytes": ("kv_host_bytes", "Bytes of host memory for keys and values that left the pool."),
    "kv_host_held_bytes": ("kv_host_held_bytes", "Of these, bytes that are taken."),
    "kv_disk_bytes": ("kv_disk_bytes", "Bytes of disk for keys and values that left that memory."),
    "kv_disk_held_bytes": ("kv_disk_held_bytes", "Of these, bytes that are taken."),
    "scratch_bytes": ("scratch_bytes", "Bytes for a step's intermediate results."),
    "num_threads": ("threads", "Threads the worker computes with."),
    "context_length": ("context_tokens", "Longest sequence the worker serves, in tokens."),
    "exact": ("exact", "1 if the same request gives the same tokens whatever else runs, bit for bit."),
}
_WORKER_COUNTERS = {
    "requests_total": ("requests", "Requests the worker took."),
    "cancelled_total": ("cancelled_requests", "Requests whose client went away, or had all it wanted."),
    "prompt_tokens_total": ("prompt_tokens", "Tokens of the prompts it took."),
    "cached_tokens_total": ("cached_prompt_tokens", "Prompt tokens found in the prefix cache."),
    "completion_tokens_total": ("completion_tokens", "Tokens it made."),
    "steps_total": ("steps", "Forward passes."),
    "step_seconds_total": ("step_seconds", "Seconds spent in forward passes."),
    "turn_wait_seconds_total": ("turn_wait_seconds", "Seconds steps waited while others had the device."),
    "missed_turns_total": ("missed_turns", "Steps that began beside others', for the device did not come free."),
    "drafted_tokens_total": ("drafted_tokens", "Guessed tokens that were verified."),
    "accepted_tokens_total": ("accepted_tokens", "Guessed tokens that were right."),
    "saved_tokens_total": ("saved_tokens", "Tokens whose keys and values left the pool and were kept."),
    "restored_tokens_total": ("restored_tokens", "Tokens whose keys and values came back instead of being computed."),
    "refused_pin_tokens_total": ("refused_pin_tokens", "Tokens that were to be pinned, and found no room."),
    "broken_pin_tokens_total": ("broken_pin_tokens", "Tokens that were pinned, and given away before their time."),
    "preemptions_total": ("preemptions", "Requests put back to the queue because blocks ran out."),
}
_WORKER_INFO = ("worker", "pid", "device", "driver", "model_digest", "degraded")
_WORKER_LABELS = ("service", "model")


class DoorMetrics:
    """The door's own counters and histograms, in a registry of their own."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a series of start times for each counter: noise
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        own: dict[str, Any] = {"registry": self.registry}
        self.requests = Counter(
            "thaloom_requests", "HTTP requests answered, by route and status.", ("route", "method", "status"), **own
        )
        self.request_seconds = Histogram(
            "thaloom_request_seconds", "From request to the end of its answer.", ("route",), buckets=_SECONDS, **own
        )
        self.open_requests = Gauge("thaloom_open_requests", "HTTP requests being answered.", ("route",), **own)
        self.errors = Counter("thaloom_errors", "Errors told to clients, by code.", ("code",), **own)
        self.cancelled = Counter("thaloom_cancelled_requests", "Requests whose client left early.", ("model",), **own)
        self.first_token_seconds = _seconds("time_to_first_token", "From request to the first token.", own)
        self.output_token_seconds = Histogram(
            "thaloom_time_per_output_token_seconds",
            "Mean time between two tokens of an answer.",
            ("model",),
            buckets=_TOKEN_SECONDS,
            **own,
        )
        self.inter_token_seconds = _TokenGaps()
        self.registry.register(self.inter_token_seconds)
        self.answers = Counter("thaloom_answers", "Answers that ended, by why.", ("model", "finish"), **own)
        self.answer_seconds = _seconds("answer", "From asking the model to the end of its answer.", own)
        self.queue_seconds = _seconds("queue", "In the worker's queue.", own)
        self.prefill_seconds = _seconds("prefill", "Reading the prompt.", own)
        self.decode_seconds = _seconds("decode", "Making the answer.", own)
        self.prompt_tokens = Counter("thaloom_prompt_tokens", "Tokens of prompts answered.", ("model",), **own)
        self.cached_tokens = Counter(
            "thaloom_cached_prompt_tokens", "Prompt tokens found in a prefix cache.", ("model",), **own
        )
        self.completion_tokens = Counter("thaloom_completion_tokens", "Tokens of answers.", ("model",), **own)

    def observe_answer(self, model: str, done: Done, duration_s: float) -> None:
        """An answer that came to its end, `duration_s` after the model was asked."""
        self.answers.labels(model, done.reason).inc()
        self.answer_seconds.labels(model).observe(duration_s)
        self.queue_seconds.labels(model).observe(done.queue_s)
        self.prefill_seconds.labels(model).observe(done.prefill_s)
        self.decode_seconds.labels(model).observe(done.decode_s)
        self.prompt_tokens.labels(model).inc(done.prompt_tokens)
        self.cached_tokens.labels(model).inc(done.cached_tokens)
        self.completion_tokens.labels(model).inc(done.completion_tokens)
        num_gaps = done.completion_tokens - 1
        if num_gaps > 0:
            self.output_token_seconds.labels(model).observe(done.decode_s / num_gaps)
            self.inter_token_seconds.observe(model, done.decode_s / num_gaps, num_gaps)


class _TokenGaps(Collector):
    """A histogram of the time between tokens, that counts an answer's mean once for each of its tokens: the library's
    own takes one observation at a time, and looking at the clock for every token would cost every token."""

    def __init__(self) -> None:
        self._of_model: dict[str, tuple[list[int], list[float]]] = {}
        """Counts by bucket, the last of them for what exceeds all; and the sum, alone in a list."""

    def observe(self, model: str, seconds: float, count: int) -> None:
        counts, total = self._of_model.setdefault(model, ([0] * (len(_TOKEN_SECONDS) + 1), [0.0]))
        counts[bisect_left(_TOKEN_SECONDS, seconds)] += count
        total[0] += seconds * count

    def collect(self) -> Iterable[Metric]:
        text = "Time between two tokens: of each answer the mean, once for every token."
        family = HistogramMetricFamily("thaloom_inter_token_seconds", text, labels=("model",))
        bounds = [*map(floatToGoString, _TOKEN_SECONDS), "+Inf"]
        for model, (counts, total) in self._of_model.items():
            buckets = list(zip(bounds, accumulate(counts), strict=True))
            family.add_metric((model,), buckets, total[0])
        return [family]


class MetricsPage:
    """`GET /metrics`; with `?names=own` without the aliases (aliases.py)."""

    def __init__(self, metrics: DoorMetrics, generation: Generation) -> None:
        self._metrics = metrics
        self._generation = generation

    async def __call__(self, request: Request) -> Response:
        own = list(self._metrics.registry.collect())
        answering: list[dict[str, Any]] = []
        try:
            records = await self._generation.worker_metrics()
            models = self._generation.models()
        except ThaloomError:
            page = [_routes_readable(False)]
        else:
            ready = GaugeMetricFamily("thaloom_service_ready", "1 if the service takes requests.", labels=("service",))
            text = "1 if the service is unloaded, for nobody asks it anything; a request starts it."
            idle = GaugeMetricFamily("thaloom_service_idle", text, labels=("service",))
            for model in models:
                ready.add_metric((model.name,), float(model.ready))
                idle.add_metric((model.name,), float(model.idle))
            page = [_routes_readable(True), ready, idle, *worker_families(records)]
            answering = [record for record in records if record["up"]]
        page.append(GaugeMetricFamily("thaloom_tasks", "Tasks of the door's event loop.", len(asyncio.all_tasks())))
        if request.query_params.get("names") != "own":
            page += aliases(own, answering)
        body = generate_latest(_Page([*own, *page]))
        return Response(body, media_type=CONTENT_TYPE_LATEST)


def worker_families(records: Sequence[dict[str, Any]]) -> Iterator[Metric]:
    """Every worker's numbers as metrics, labelled by service and model."""
    answering = [record for record in records if record["up"]]
    for record in answering:
        record["used_blocks"] = record["num_blocks"] - record["free_blocks"]  # free ones may be cached
    up = GaugeMetricFamily("thaloom_worker_up", "1 if the service's worker answers.", labels=_WORKER_LABELS)
    for record in records:
        up.add_metric(_labels(record), float(record["up"]))
    yield up
    info = InfoMetricFamily("thaloom_worker", "What each worker is and runs on.", labels=_WORKER_LABELS)
    for record in answering:
        info.add_metric(_labels(record), {name: str(record[name] or "") for name in _WORKER_INFO})
    yield info
    degraded = GaugeMetricFamily(
        "thaloom_worker_degraded", "1 if the worker runs worse than wished; thaloom_worker_info says why.",
        labels=_WORKER_LABELS,
    )  # fmt: skip
    for record in answering:
        degraded.add_metric(_labels(record), float(record["degraded"] is not None))
    yield degraded
    for field, (name, text) in _WORKER_GAUGES.items():
        gauge = GaugeMetricFamily(f"thaloom_worker_{name}", text, labels=_WORKER_LABELS)
        for record in answering:
            gauge.add_metric(_labels(record), float(record[field]))
        yield gauge
    for field, (name, text) in _WORKER_COUNTERS.items():
        counter = CounterMetricFamily(f"thaloom_worker_{name}", text, labels=_WORKER_LABELS)
        for record in answering:
            counter.add_metric(_labels(record), float(record[field]))
        yield counter


class _Page(Collector):
    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def _seconds(name: str, text: str, own: dict[str, Any]) -> Histogram:
    return Histogram(f"thaloom_{name}_seconds", text, ("model",), buckets=_SECONDS, **own)


def _routes_readable(readable: bool) -> Metric:
    return GaugeMetricFamily("thaloom_routes_readable", "1 if the door knows where models are served.", readable)


def _labels(record: dict[str, Any]) -> tuple[str, ...]:
    return tuple(str(record[name]) for name in _WORKER_LABELS)
