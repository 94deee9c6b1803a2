"""The names that dashboards made for vLLM look for, beside our own: the same numbers, so nothing is counted twice.

vLLM renamed some of its metrics more than once (`gpu_cache_usage_perc` became `kv_cache_usage_perc`, and
`time_per_output_token_seconds` `inter_token_latency_seconds`); both names are here. Labels as there: `model_name`, and
`engine`, of which a service has one. Source: vLLM 0.32, 'Production Metrics'.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

PREFIX = "vllm:"
_LABELS = ("model_name", "engine")
_HISTOGRAMS = {
    "thaloom_time_to_first_token_seconds": ("time_to_first_token_seconds",),
    "thaloom_time_per_output_token_seconds": ("request_time_per_output_token_seconds",),
    "thaloom_inter_token_seconds": ("inter_token_latency_seconds", "time_per_output_token_seconds"),
    "thaloom_answer_seconds": ("e2e_request_latency_seconds",),
    "thaloom_queue_seconds": ("request_queue_time_seconds",),
    "thaloom_prefill_seconds": ("request_prefill_time_seconds",),
    "thaloom_decode_seconds": ("request_decode_time_seconds",),
}
_WORKER_GAUGES = {"running": "num_requests_running", "waiting": "num_requests_waiting"}
_WORKER_COUNTERS = {
    "prompt_tokens": "prompt_tokens_total",
    "generation_tokens": "completion_tokens_total",
    "num_preemptions": "preemptions_total",
    "prefix_cache_queries": "prompt_tokens_total",
    "prefix_cache_hits": "cached_tokens_total",
}
_FINISHED = {"tool_calls": "stop"}
"""A call of a tool ends, for vLLM, as any other answer does."""


def aliases(own: Iterable[Metric], records: Sequence[dict[str, Any]]) -> Iterator[Metric]:
    """`own`: what the door has collected; `records`: of the workers that answer."""
    for metric in own:
        for name in _HISTOGRAMS.get(metric.name, ()):
            yield _renamed(metric, name)
        if metric.name == "thaloom_answers":
            yield _request_success(metric)
    for field, name in _WORKER_GAUGES.items():
        gauge = GaugeMetricFamily(PREFIX + name, _same_as(f"thaloom_worker_{field}_requests"), labels=_LABELS)
        for record in records:
            gauge.add_metric(_labels(record["service"]), float(record[field]))
        yield gauge
    for name in ("kv_cache_usage_perc", "gpu_cache_usage_perc"):
        gauge = GaugeMetricFamily(PREFIX + name, "Share of the block pool that is held; 1 is all.", labels=_LABELS)
        for record in records:
            gauge.add_metric(_labels(record["service"]), record["used_blocks"] / max(1, record["num_blocks"]))
        yield gauge
    for name, field in _WORKER_COUNTERS.items():
        counter = CounterMetricFamily(PREFIX + name, _same_as(f"thaloom_worker_{field}"), labels=_LABELS)
        for record in records:
            counter.add_metric(_labels(record["service"]), float(record[field]))
        yield counter


def _renamed(metric: Metric, name: str) -> Metric:
    alias = Metric(PREFIX + name, _same_as(metric.name), metric.type)
    for sample in metric.samples:
        labels = dict(zip(_LABELS, _labels(sample.labels["model"]), strict=True))
        labels |= {label: value for label, value in sample.labels.items() if label == "le"}
        alias.add_sample(PREFIX + name + sample.name.removeprefix(metric.name), labels, sample.value)
    return alias


def _request_success(answers: Metric) -> Metric:
    ended: dict[tuple[str, str], float] = {}
    for sample in answers.samples:
        reason = _FINISHED.get(sample.labels["finish"], sample.labels["finish"])
        key = sample.labels["model"], reason
        ended[key] = ended.get(key, 0.0) + sample.value
    counter = CounterMetricFamily(
        PREFIX + "request_success", _same_as("thaloom_answers_total"), labels=(*_LABELS, "finished_reason")
    )
    for (model, reason), count in ended.items():
        counter.add_metric((*_labels(model), reason), count)
    return counter


def _labels(service: str) -> tuple[str, str]:
    return service, "0"


def _same_as(name: str) -> str:
    return f"As {name}."
