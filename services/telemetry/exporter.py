"""Prometheus: holds what metrics.py declares, and serves it as text."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import prometheus_client
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.core import Metric as Family
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector, CollectorRegistry

from services.core.errors import PortBusyError
from services.telemetry.metrics import BUILD, Kind, Metric

MAX_LABEL_VALUES = 200
"""Values that one label of one metric may take; what comes later is counted as `other`."""
OTHER = "other"


@dataclass(frozen=True, slots=True)
class Sample:
    """The value of a gauge or counter at this moment."""

    metric: Metric
    labels: tuple[str, ...]
    value: float


Source = Callable[[], Iterable[Sample]]


class Exporter:
    """The metrics of one process.

    Counters and histograms that are fed as things happen are changed with `count` and `observe`; what is only read
    when somebody asks comes from sources. Metrics without a sample are not shown.

    Args:
        process: what this process is: `frontdoor`, `worker` or `controller`.
    """

    def __init__(self, process: str) -> None:
        self._registry = CollectorRegistry()
        self._fed: dict[str, prometheus_client.Counter | prometheus_client.Histogram] = {}
        self._cap = LabelCap(MAX_LABEL_VALUES)
        self._sources = _Sources(self._cap)
        self._registry.register(self._sources)
        prometheus_client.ProcessCollector(registry=self._registry)
        version = importlib.metadata.version("triptych")
        self.add_source(lambda: [Sample(BUILD, (version, process), 1.0)])

    def add_source(self, source: Source) -> None:
        """Ask `source` for its samples at each scrape, in the scraper's thread."""
        self._sources.add(source)

    def count(self, metric: Metric, labels: tuple[str, ...], amount: float = 1.0) -> None:
        """Add to a counter."""
        if metric.name not in self._fed:
            self._fed[metric.name] = prometheus_client.Counter(
                metric.name, metric.help, metric.labels, registry=self._registry
            )
        counter = self._fed[metric.name]
        assert isinstance(counter, prometheus_client.Counter)
        counter.labels(*self._cap.apply(metric, labels)).inc(amount)

    def observe(self, metric: Metric, labels: tuple[str, ...], *values: float) -> None:
        """Put values into a histogram."""
        if metric.name not in self._fed:
            self._fed[metric.name] = prometheus_client.Histogram(
                metric.name, metric.help, metric.labels, buckets=metric.buckets, registry=self._registry
            )
        histogram = self._fed[metric.name]
        assert isinstance(histogram, prometheus_client.Histogram)
        child = histogram.labels(*self._cap.apply(metric, labels)) if metric.labels else histogram
        for value in values:
            child.observe(value)

    def text(self, accept: str | None = None) -> tuple[bytes, str]:
        """Everything as (body, content type): OpenMetrics for a client that accepts it, else Prometheus text."""
        encode, content_type = choose_encoder(accept or "")
        return encode(self._registry), content_type

    def serve(self, host: str, ports: tuple[int, int]) -> MetricsTarget:
        """Serve /metrics on the first free port of a range, (0, 0) for any, from a thread.

        Raises:
            PortBusyError: every port of the range is taken.
        """
        for port in range(ports[0], ports[1] + 1):
            try:
                server, _ = prometheus_client.start_http_server(port, addr=host, registry=self._registry)
            except OSError:
                continue
            return MetricsTarget(f"{host}:{server.server_port}", server.shutdown, server.server_close)
        raise PortBusyError(
            f"telemetry.metrics_ports = {list(ports)}: every port is taken; give a wider range or [0, 0]"
        )


@dataclass(frozen=True, slots=True)
class MetricsTarget:
    """A scrape target that is being served.

    Attributes:
        address: `host:port`.
    """

    address: str
    _shutdown: Callable[[], None]
    _server_close: Callable[[], None]

    def close(self) -> None:
        """End the server."""
        self._shutdown()
        self._server_close()


class LabelCap:
    """Bounds how many values a label takes, so that nobody can fill a Prometheus server by sending odd requests."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._seen: dict[tuple[str, int], set[str]] = {}

    def apply(self, metric: Metric, labels: tuple[str, ...]) -> tuple[str, ...]:
        """The labels, each value beyond the limit replaced by `other`."""
        return tuple(self._known(metric.name, place, value) for place, value in enumerate(labels))

    def _known(self, name: str, place: int, value: str) -> str:
        seen = self._seen.setdefault((name, place), set())
        if value not in seen:
            if len(seen) >= self._limit:
                return OTHER
            seen.add(value)
        return value


class _Sources(Collector):
    """Asks every source when the registry is scraped."""

    def __init__(self, cap: LabelCap) -> None:
        self._cap = cap
        self._sources: list[Source] = []

    def add(self, source: Source) -> None:
        self._sources.append(source)

    def describe(self) -> Iterable[Family]:
        """Nothing is known before a scrape."""
        return []

    def collect(self) -> Iterator[Family]:
        """One family a metric, samples of equal labels added up."""
        found: dict[Metric, dict[tuple[str, ...], float]] = {}
        for source in self._sources:
            for sample in source():
                values = found.setdefault(sample.metric, {})
                labels = self._cap.apply(sample.metric, sample.labels)
                values[labels] = values.get(labels, 0.0) + sample.value
        for metric, values in found.items():
            kind = GaugeMetricFamily if metric.kind is Kind.GAUGE else CounterMetricFamily
            family = kind(metric.name, metric.help, labels=metric.labels)
            for labels, value in values.items():
                family.add_metric(labels, value)
            yield family
