"""Many questions from a file: Ray Data hands them to the deployments of `mmrag serve`, without HTTP.

A question that cannot be answered is a row with its `error`. Rows come out in the order of the file.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import ray
from ray import serve

from pipelines.core import filters
from pipelines.core.answer import Question
from pipelines.core.errors import MmragError
from pipelines.core.files import disk_errors, replaced
from pipelines.core.manifest import Manifest
from pipelines.core.picture_files import find_pictures, read_picture
from pipelines.core.retriever import Query
from pipelines.core.types import Answer
from pipelines.serve.app import NAME, deployed
from pipelines.serve.batch_lines import Asked, parse_line, read_lines
from pipelines.serve.deployments import Parts, ServedBackend
from pipelines.serve.handles import RemoteSearcher
from pipelines.serve.vllm import DEPLOYMENT

_BLOCK_ROWS, _AT_ONCE = 256, 32

Progress = Callable[[str, int, int], None]

SCHEMA = pa.schema(
    {
        "id": pa.string(),
        "query": pa.string(),
        "answer": pa.string(),
        "refused": pa.bool_(),
        "citations": pa.list_(pa.struct({"n": pa.int64(), "hit_id": pa.string()})),
        "boxes": pa.list_(
            pa.struct({"image": pa.string(), "xyxy": pa.list_(pa.float64()), "label": pa.string()})
        ),
        "hits": pa.list_(
            pa.struct(dict.fromkeys(("id", "kind", "text", "source", "image_uri"), pa.string()))
        ),
        "degraded": pa.list_(pa.string()),
        "dropped": pa.struct(dict.fromkeys(("citations", "boxes"), pa.int64())),
        "usage": pa.struct({"prompt_tokens": pa.int64(), "completion_tokens": pa.int64(), "cut": pa.bool_()}),
        "total_ms": pa.float64(),
        "error": pa.string(),
    }
)


@dataclass(frozen=True, slots=True)
class BatchSummary:
    questions: int
    refused: int
    failed: int


def answer_batch(parts: Parts, questions: Path, out: Path, progress: Progress) -> BatchSummary:
    """Answer every line of a JSONL file into one Parquet file. Raises UsageError for a file that cannot be
    read; `out` is written whole or not at all."""
    lines = read_lines(questions)
    blocks = [
        pa.table({"line": [number for number, _ in some], "text": [text for _, text in some]})
        for first in range(0, len(lines), _BLOCK_ROWS)
        if (some := lines[first : first + _BLOCK_ROWS])
    ]
    counts = {"refused": 0, "failed": 0}
    progress("loading the models", 0, 0)
    # It has no use for a gateway that retrieves.
    parts = replace(parts, serve=parts.serve.model_copy(update={"layout": "graph"}))
    with disk_errors(out), deployed(parts), replaced(out) as beside:
        context = ray.data.DataContext.get_current()
        context.execution_options.preserve_order = True
        context.enable_progress_bars = False
        answered = ray.data.from_arrow(blocks).map_batches(
            AnswerQuestions,
            fn_constructor_args=(parts, questions.absolute().parent),
            compute=ray.data.ActorPoolStrategy(size=1),
            batch_format="pyarrow",
            batch_size=_AT_ONCE,
            num_cpus=0.2,
        )
        done = 0
        with pq.ParquetWriter(beside, SCHEMA) as writer:
            for table in answered.iter_batches(batch_size=_AT_ONCE, batch_format="pyarrow"):
                assert isinstance(table, pa.Table)
                writer.write_table(table.cast(SCHEMA))
                done += len(table)
                counts["refused"] += sum(filter(None, table["refused"].to_pylist()))
                counts["failed"] += len(table) - table["error"].null_count
                progress("answering", done, len(lines))
    return BatchSummary(done, counts["refused"], counts["failed"])


class AnswerQuestions:
    """Table of lines -> table of answers; those of a batch are worked on side by side."""

    def __init__(self, parts: Parts, folder: Path) -> None:
        retriever, generator = (serve.get_deployment_handle(name, NAME) for name in ("retriever", DEPLOYMENT))
        self._backend = ServedBackend(parts, RemoteSearcher(retriever), generator)
        self._types = Manifest.load(parts.index_dir).metadata_types
        self._root = os.path.realpath(folder)
        self._loop = asyncio.new_event_loop()

    def __call__(self, batch: pa.Table) -> pa.Table:
        lines = list(zip(batch["line"].to_pylist(), batch["text"].to_pylist(), strict=True))
        return pa.Table.from_pylist(self._loop.run_until_complete(self._all(lines)), SCHEMA)

    async def _all(self, lines: Sequence[tuple[int, str]]) -> list[dict[str, Any]]:
        return await asyncio.gather(*(self._row(line, text) for line, text in lines))

    async def _row(self, line: int, text: str) -> dict[str, Any]:
        found: dict[str, Any] = {"id": str(line)}
        try:
            asked = parse_line(text)
            found |= {"id": asked.named(line), "query": asked.query}
            question = await asyncio.to_thread(self._question, asked)
            async for event in self._backend.answer(question):
                if isinstance(event, Answer):
                    found |= _outcome(event)
        except MmragError as exc:
            found["error"] = str(exc)
        return found

    def _question(self, asked: Asked) -> Question:
        where = filters.parse(asked.filter) if asked.filter else None
        if where is not None:
            filters.check(where, self._types)
        return Question(Query(asked.query, self._picture(asked.image), asked.mode, asked.k, where))

    def _picture(self, name: str | None) -> bytes | None:
        return None if name is None else read_picture(find_pictures([name], self._root)[0])


def _outcome(answer: Answer) -> dict[str, Any]:
    return {
        "answer": answer.answer,
        "refused": answer.refused,
        "citations": [asdict(one) for one in answer.citations],
        "boxes": [asdict(box) | {"image": str(box.image)} for box in answer.boxes],
        "hits": [
            {
                "id": hit.id,
                "kind": hit.kind,
                "text": hit.text,
                "source": hit.source,
                "image_uri": hit.image_uri,
            }
            for hit in answer.hits
        ],
        "degraded": list(answer.degraded),
        "dropped": dict(answer.dropped),
        "usage": asdict(answer.usage),
        "total_ms": answer.timings_ms["total"],
    }
