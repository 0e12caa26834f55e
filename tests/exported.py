"""An index in memory stores, and what tests of its exports look at."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from fakes import chunk_part, memory_index
from small_index import ledger_row

from pipelines.core.index import Index
from pipelines.ingest.ledger import SCHEMA, Ledger

SHARDS = ("ledger", "previews", "text", "visual")


def empty(index: Index, name: str = "kb2") -> Index:
    """Another index, not yet made, of the same models."""
    other = memory_index(index.directory.parent / name, create=False)
    other.encoder, other.embedder = index.encoder, index.embedder
    return other


def data(export: Path) -> Path:
    """Where the shards of an export are."""
    folder: str = json.loads((export / "export.json").read_text())["folder"]
    return export / folder


@contextmanager
def cut_at(owner: object, name: str, call: int = 1) -> Iterator[None]:
    """Whoever calls a method for the n-th time meanwhile is killed there."""
    calls, original = itertools.count(1), getattr(owner, name)

    def killed(*args: Any) -> Any:
        if next(calls) == call:
            raise KeyboardInterrupt
        return original(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, killed)
        with pytest.raises(KeyboardInterrupt):
            yield


def drop_a_chunk(index: Index) -> None:
    """Of the rose, as an ingest of a changed document does."""
    for store in (index.text(), index.lexical()):
        store.delete([chunk_part("rose", "").key])
    rose = pa.Table.from_pylist([ledger_row("rose", chunks=1)], schema=SCHEMA)
    Ledger.load(index.directory).changed(rose)


def rows(index: Index) -> list[dict[str, Any]]:
    return [row for table in Ledger.load(index.directory).tables() for row in table.to_pylist()]


def files(directory: Path) -> dict[str, bytes]:
    return {str(p.relative_to(directory)): p.read_bytes() for p in directory.rglob("*") if p.is_file()}


def is_one_export(directory: Path) -> bool:
    """Nothing is there but the files of one."""
    shards = (f"{data(directory).name}/{name}/000000.parquet" for name in SHARDS)
    return sorted(files(directory)) == [*shards, "export.json"] and len(list(directory.iterdir())) == 2


def of_the_first_format(export: Path) -> None:
    """As earlier versions wrote it."""
    of_the_second_format(export)
    for shards in data(export).iterdir():
        shards.rename(export / shards.name)
    body = json.loads((export / "export.json").read_text())
    (export / body.pop("folder")).rmdir()
    (export / "export.json").write_text(json.dumps(body | {"format": 1}))


def of_the_second_format(export: Path) -> None:
    """As earlier versions wrote it: without what stands here, and without a word of whose it is."""
    body = json.loads((export / "export.json").read_text())
    for name in ("pictures", "near_duplicates"):
        shutil.rmtree(export / body["folder"] / name, ignore_errors=True)
        del body["shards"][name]
    for name in ("identity", "refused", "last_runs", "last_ingest"):
        del body[name]
    (export / "export.json").write_text(json.dumps(body | {"format": 2}))
