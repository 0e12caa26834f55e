"""What /metrics tells: counts, times and figures, in a registry of each gateway replica. Names no caller."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from pipelines.core.types import Answer
from pipelines.serve.protection import Admission
from pipelines.serve.sample import Sample

CONTENT_TYPE: Final = CONTENT_TYPE_PLAIN_0_0_4
_SECONDS = (0.005, 0.01, 0.02, 0.04, 0.06, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
_SHARES = tuple(tenth / 10 for tenth in range(11))
_COSINES = tuple(twentieth / 20 for twentieth in range(21))
_COUNTS = (0, 1, 2, 3, 4, 5, 6, 8, 10, 15, 20, 30, 50)


class Metrics:
    def __init__(self, admission: Admission) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "mmrag_requests", "Requests answered", ("route", "status"), registry=self.registry
        )
        self._seconds = Histogram(
            "mmrag_request_seconds",
            "From the request's head to its last byte",
            ("route",),
            registry=self.registry,
            buckets=_SECONDS,
        )
        self._stages = Histogram(
            "mmrag_stage_seconds",
            "Stages of an answer",
            ("stage",),
            registry=self.registry,
            buckets=_SECONDS,
        )
        self._degraded = Counter(
            "mmrag_degraded", "Results that lacked a part", ("part",), registry=self.registry
        )
        self._refused = Counter(
            "mmrag_refused_answers", "Answers that the evidence did not hold", registry=self.registry
        )
        self._dropped = Counter(
            "mmrag_dropped", "Citations and boxes that pointed at nothing", ("kind",), registry=self.registry
        )
        self._tokens = Counter(
            "mmrag_tokens",
            "Tokens of prompts, with those of their pictures, and of what the model wrote",
            ("kind",),
            registry=self.registry,
        )
        self._cut = Counter(
            "mmrag_cut_answers", "Answers that ended at their most tokens", registry=self.registry
        )
        self._broken = Counter(
            "mmrag_broken_answers",
            "Streamed answers that failed after their first word; their status is 200",
            registry=self.registry,
        )
        self._shed = Counter(
            "mmrag_shed", "Requests refused to keep the others going", ("why",), registry=self.registry
        )
        self._sampled = Counter(
            "mmrag_sampled_answers",
            "Answers drawn to be measured: those that were, were skipped (too many at once), or failed",
            ("result",),
            registry=self.registry,
        )
        self._figures = Histogram(
            "mmrag_answer_figures",
            "Of measured answers: citation_recall and citation_precision, as `mmrag evaluate` has them",
            ("measure",),
            registry=self.registry,
            buckets=_SHARES,
        )
        self._statements = Counter(
            "mmrag_statements",
            "Statements of measured answers, by whether the evidence they cite supports them",
            ("verdict",),
            registry=self.registry,
        )
        self._evidence = Histogram(
            "mmrag_evidence_hits",
            "Pieces of evidence of measured answers",
            registry=self.registry,
            buckets=_COUNTS,
        )
        self._cosines = Histogram(
            "mmrag_best_cosine",
            "Of measured answers: the cosine of the question and the nearest piece of evidence",
            ("branch",),
            registry=self.registry,
            buckets=_COSINES,
        )
        self._ratings = Counter(
            "mmrag_ratings", "Thumbs of users, up and down", ("rating",), registry=self.registry
        )
        # Told before the first is counted: of a series that begins at 1, Prometheus' rate() misses that one.
        for why in ("busy", "deadline", "rate"):
            self._shed.labels(why)
        for rating in ("up", "down"):
            self._ratings.labels(rating)
        Gauge("mmrag_in_flight", "Requests worked on", registry=self.registry).set_function(
            lambda: admission.working
        )
        Gauge("mmrag_queued", "Requests that wait", registry=self.registry).set_function(
            lambda: admission.waiting
        )

    def families(self) -> list[Metric]:
        """Everything counted so far, as values that another process can read."""
        return list(self.registry.collect())

    def request(self, route: str, status: int, seconds: float) -> None:
        self._requests.labels(route, status).inc()
        self._seconds.labels(route).observe(seconds)

    def degraded(self, reasons: Sequence[str]) -> None:
        for reason in reasons:
            self._degraded.labels(reason.partition(":")[0][:40]).inc()

    def answer(self, answer: Answer) -> None:
        self.degraded(answer.degraded)
        for stage, milliseconds in answer.timings_ms.items():
            self._stages.labels(stage).observe(milliseconds / 1000)
        for kind, count in answer.dropped.items():
            self._dropped.labels(kind).inc(count)
        if answer.refused:
            self._refused.inc()
        self._tokens.labels("prompt").inc(answer.usage.prompt_tokens)
        self._tokens.labels("completion").inc(answer.usage.completion_tokens)
        if answer.usage.cut:
            self._cut.inc()

    def broken(self) -> None:
        self._broken.inc()

    def shed(self, why: str) -> None:
        self._shed.labels(why).inc()

    def sampled(self, result: str) -> None:
        self._sampled.labels(result).inc()

    def measured(self, sample: Sample) -> None:
        for measure, value in sample.figures.items():
            self._figures.labels(measure).observe(value)
        for verdict, count in sample.statements.items():
            self._statements.labels(verdict).inc(count)
        self._evidence.observe(len(sample.evidence))
        for branch, cosine in sample.best_cosine.items():
            self._cosines.labels(branch).observe(cosine)

    def rated(self, rating: str) -> None:
        self._ratings.labels(rating).inc()


def cache_lookups(hits: int, misses: int) -> Metric:
    """A retriever's family: how often a question's picture was known, ingested or asked about lately."""
    family = CounterMetricFamily(
        "mmrag_picture_cache_lookups", "Questions' pictures whose vector was looked up", labels=("result",)
    )
    family.add_metric(("hit",), hits)
    family.add_metric(("miss",), misses)
    return family


def ingested(at: float) -> Metric:
    """A retriever's family: how fresh its index is."""
    return GaugeMetricFamily(
        "mmrag_last_ingest_timestamp_seconds",
        "When the last ingest of the index that did not fail ended, in Unix time",
        value=at,
    )


def drift(questions: Mapping[str, float], index: Mapping[str, float]) -> list[Metric]:
    """A retriever's families: distances by branch and by collection, where there are any yet."""
    gauges = [
        GaugeMetricFamily(
            "mmrag_question_drift",
            "Squared Fréchet distance of the last window of questions' vectors from those in the index",
            labels=("branch",),
        ),
        GaugeMetricFamily(
            "mmrag_index_drift",
            "Squared Fréchet distance of the index's vectors from those when this replica first looked",
            labels=("collection",),
        ),
    ]
    for gauge, distances in zip(gauges, (questions, index), strict=True):
        for label, distance in distances.items():
            gauge.add_metric((label,), distance)
    return list[Metric](gauges)


class _Gathered(Collector):
    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def exposition(by_replica: Mapping[str, Sequence[Metric]]) -> bytes:
    """Prometheus's text of several replicas' families, each sample labelled with its replica ("": with none).

    A replica's counters then start at zero and end with it, which Prometheus's rate() and sum() expect.
    """
    families: dict[str, Metric] = {}
    for replica, own in by_replica.items():
        label = {"replica": replica} if replica else {}
        for family in own:
            whole = families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
            whole.samples += [one._replace(labels=one.labels | label) for one in family.samples]
    registry = CollectorRegistry()
    registry.register(_Gathered(families.values()))
    return generate_latest(registry)
