"""What the door measures of TLS."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from thaloom.edge.api.entrance.handshakes import Handshakes


class TlsMetrics(Collector):
    """There only where the door speaks TLS."""

    def __init__(self, handshakes: Handshakes, not_after: Callable[[], float]) -> None:
        self._handshakes = handshakes
        self._not_after = not_after

    def collect(self) -> Iterable[Metric]:
        until = "Until when the certificate holds, in seconds since the epoch."
        yield GaugeMetricFamily("thaloom_certificate_expiry_timestamp_seconds", until, self._not_after())
        under_way = "TLS handshakes under way."
        yield GaugeMetricFamily("thaloom_tls_handshakes", under_way, self._handshakes.num_under_way)
        failed = "Handshakes that did not end well: no TLS, an old version, given up, or late."
        yield CounterMetricFamily("thaloom_tls_failed_handshakes", failed, self._handshakes.failed)
        away = "Connections closed because too many handshakes were under way."
        yield CounterMetricFamily("thaloom_tls_turned_away", away, self._handshakes.turned_away)
