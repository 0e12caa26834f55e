"""Record a job's metrics with Ray, whose agent on each node exports them to Prometheus. Knows no job.

A process hands its figures to the agent every 10 seconds and when it ends. Where there is no agent, nothing
happens.
"""

from __future__ import annotations

from functools import cache

from ray.util.metrics import Counter, Gauge, Histogram

from pipelines.core.job_metrics import SECONDS, JobMetric


def record(metric: JobMetric, value: float, /, **labels: str) -> None:
    """A `Record`, for processes of a running Ray."""
    match _recorder(metric):
        case Counter() as counter:
            counter.inc(value, labels)
        case Gauge() as gauge:
            gauge.set(value, labels)
        case Histogram() as histogram:
            histogram.observe(value, labels)


@cache
def _recorder(metric: JobMetric) -> Counter | Gauge | Histogram:
    match metric.kind:
        case "counter":
            return Counter(metric.name, metric.about, metric.labels)
        case "gauge":
            return Gauge(metric.name, metric.about, metric.labels)
        case "histogram":
            return Histogram(metric.name, metric.about, list(SECONDS), metric.labels)
