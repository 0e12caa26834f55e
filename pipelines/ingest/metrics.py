"""What an ingest counts and times for Prometheus. Knows no Ray."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import pyarrow as pa

from pipelines.core.job_metrics import JobMetric, Record
from pipelines.ingest.rows import DOCUMENT
from pipelines.ingest.sources import Rejected

DOCUMENTS = JobMetric("mmrag_ingest_documents", "counter", "Documents worked through")
PARTS = JobMetric("mmrag_ingest_parts", "counter", "Images and chunks written to their stores", ("kind",))
REJECTED = JobMetric("mmrag_ingest_rejected", "counter", "What became a dead letter", ("stage",))
DOCUMENTS_WAITING = JobMetric(
    "mmrag_ingest_documents_waiting", "gauge", "Documents not yet read; while a run goes on"
)
ROWS_WAITING = JobMetric(
    "mmrag_ingest_rows_waiting", "gauge", "Parts and documents not yet written; while a run goes on"
)
ENCODE_SECONDS = JobMetric(
    "mmrag_ingest_encode_seconds", "histogram", "A batch of pictures and texts to vectors, if any was new"
)
UPSERT_SECONDS = JobMetric("mmrag_ingest_upsert_seconds", "histogram", "A batch into a store", ("store",))

METRICS = (DOCUMENTS, PARTS, REJECTED, DOCUMENTS_WAITING, ROWS_WAITING, ENCODE_SECONDS, UPSERT_SECONDS)


def count_rows(rows: pa.Table, record: Record) -> None:
    """Count rows that were acknowledged."""
    columns = (rows[name].to_pylist() for name in ("kind", "stage"))
    for (kind, stage), number in Counter(zip(*columns, strict=True)).items():
        if stage is not None:
            record(REJECTED, number, stage=stage)
        elif kind == DOCUMENT:
            record(DOCUMENTS, number)
        else:
            record(PARTS, number, kind=kind)


def count_refused(refused: Iterable[Rejected], record: Record) -> None:
    """Count what the listing refused, which never became a row."""
    for stage, number in Counter(one.stage for one in refused).items():
        record(REJECTED, number, stage=stage)
