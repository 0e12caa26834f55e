"""What an index remembers beside its parts comes back, too."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from exported import data, empty, of_the_first_format, of_the_second_format
from small_index import PICTURES

from pipelines.core.errors import BadExport
from pipelines.core.index import Index
from pipelines.core.last_ingest import FILE as LAST_INGEST
from pipelines.core.last_ingest import keep, last_ingest, note_ingest
from pipelines.core.near_duplicates import FILE as REPORT
from pipelines.core.previews import preview_path
from pipelines.core.readings import Reading, reading_path, save_reading
from pipelines.core.retriever import Query, SearchConfig
from pipelines.core.types import store_key
from pipelines.ingest import history, refused
from pipelines.ingest.backup import export_index, import_index
from pipelines.ingest.captions import _save, caption_path
from pipelines.ingest.ledger import Ledger
from pipelines.ingest.near_duplicates import PICTURES as HASHES
from pipelines.ingest.near_duplicates import PICTURES_SCHEMA, Alike, remember, write_report
from pipelines.ingest.removal import delete_documents
from pipelines.ingest.status import index_status

SIGNS = {"rose": 0b0001, "sea": 0b0011, "leaf": 0xFF00, "copy": None}
RUN = {"run": "20260101T000000", "documents": 4, "unchanged": 0, "images": 4, "chunks": 8, "rejected": 2}


@pytest.fixture
def remembering(index: Index) -> Index:
    """The small index: two of its pictures look the same, something was refused, and it was ingested once."""
    parts = [part for found, _ in index.visual().scan() for part in found]
    names = ("document_key", "document_id", "tenant", "id", "content")
    rows = [
        {name: getattr(part, name) for name in names} | {"perceptual": SIGNS[part.document_id]}
        for part in parts
    ]
    hashes = pa.Table.from_pylist(rows, schema=PICTURES_SCHEMA)
    ledger = Ledger.load(index.home)
    remember(index.home, hashes, hashes["document_key"], ledger)
    write_report(index.home, ledger, 4)
    refused.keep(index.home, {"/s": 2})
    history.keep(index.directory, [RUN | {"elapsed_s": 1.5}])
    return index


def moved(index: Index, tmp_path: Path, change: Callable[[Path], None] = lambda export: None) -> Index:
    export_index(index, str(tmp_path / "export"))
    change(tmp_path / "export")
    other = empty(index)
    import_index(other, str(tmp_path / "export"))
    return other


def found(index: Index) -> list[str]:
    retriever = index.retriever(SearchConfig(near_duplicates="collapse"))
    return [hit.id for hit in retriever.search(Query("a picture", mode="auto")).hits if hit.kind == "image"]


def test_pictures_that_look_the_same_collapse_as_before(remembering: Index, tmp_path: Path) -> None:
    other = moved(remembering, tmp_path)
    assert found(other) == found(remembering)
    assert len({"rose#img-0", "sea#img-0"} & set(found(other))) == 1
    assert pq.read_table(other.home / HASHES) == pq.read_table(remembering.home / HASHES)


def test_a_damaged_report_collapses_nothing_and_is_left_out(
    remembering: Index, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (remembering.home / REPORT).write_bytes(b"PAR1")
    assert {"rose#img-0", "sea#img-0"} <= set(found(remembering))
    caplog.clear()
    other = moved(remembering, tmp_path)
    [told] = [record.getMessage() for record in caplog.records if REPORT in record.getMessage()]
    assert "is damaged" in told
    assert not (other.home / REPORT).exists()
    assert write_report(other.home, Ledger.load(other.home), 4) == Alike(same=0, near=1)


def test_the_next_report_is_that_of_the_first_index(remembering: Index, tmp_path: Path) -> None:
    other = moved(remembering, tmp_path)
    assert write_report(other.home, Ledger.load(other.home), 4) == write_report(
        remembering.home, Ledger.load(remembering.home), 4
    )


def test_status_tells_the_same(remembering: Index, tmp_path: Path) -> None:
    other = moved(remembering, tmp_path)
    expected = index_status(remembering)
    assert (expected["near_duplicates"], expected["dead_letters"]) == ({"same": 0, "near": 1}, 2)
    assert expected["last_runs"] == [RUN | {"elapsed_s": 1.5}]
    own = {name: expected[name] for name in ("index", "bytes")}
    assert index_status(other) | own == expected


def test_how_fresh_the_index_is_comes_back(remembering: Index, tmp_path: Path) -> None:
    """Else nothing tells that a scheduled ingest has failed since."""
    keep(remembering.directory, 1767225600.4)
    assert last_ingest(moved(remembering, tmp_path).directory) == 1767225600


def test_an_import_of_what_does_not_tell_it_makes_no_index_fresh(remembering: Index, tmp_path: Path) -> None:
    note_ingest(remembering.directory)
    export_index(remembering, str(tmp_path / "export"))
    of_the_second_format(tmp_path / "export")
    delete_documents(remembering, list(PICTURES))
    import_index(remembering, str(tmp_path / "export"))
    assert last_ingest(remembering.directory) is None


@pytest.mark.parametrize("told", ["nan", "inf", "-1", "yesterday"])
def test_a_damaged_time_costs_no_export(remembering: Index, tmp_path: Path, told: str) -> None:
    (remembering.directory / LAST_INGEST).write_text(told)
    assert last_ingest(moved(remembering, tmp_path).directory) is None


def test_an_export_tells_nothing_of_deleted_documents(remembering: Index, tmp_path: Path) -> None:
    delete_documents(remembering, ["sea"])  # which looks like the rose
    delete_documents(remembering, ["copy"])
    other = moved(remembering, tmp_path)
    told = pq.read_table(data(tmp_path / "export") / "near_duplicates" / "000000.parquet")
    assert told.to_pylist() == []
    assert pq.read_table(other.home / HASHES)["document_id"].to_pylist() == ["rose", "leaf"]
    assert index_status(other)["near_duplicates"] == {"same": 0, "near": 0}
    assert write_report(other.home, Ledger.load(other.home), 4) == Alike(0, 0)


def test_a_report_that_found_nothing_is_one(remembering: Index, tmp_path: Path) -> None:
    write_report(remembering.home, Ledger.load(remembering.home), 0)
    assert index_status(moved(remembering, tmp_path))["near_duplicates"] == {"same": 0, "near": 0}


@pytest.mark.parametrize(
    "earlier", [lambda export: None, of_the_second_format, of_the_first_format], ids=["3", "2", "1"]
)
def test_what_is_kept_of_a_picture_goes_with_it(
    remembering: Index, tmp_path: Path, earlier: Callable[[Path], None]
) -> None:
    content = {part.document_id: part.content for parts, _ in remembering.visual().scan() for part in parts}
    for picture in content.values():
        save_reading(remembering.readings, picture, Reading("r", ()))
    other = moved(remembering, tmp_path, earlier)
    for document in ("leaf", "rose"):
        _save(other.captions, content[document], "c", "asked for after the import")
        delete_documents(other, [document])
    kept = [
        path(root, content[document]).exists()
        for document in ("leaf", "rose")  # the copy has the rose's picture
        for path, root in (
            (preview_path, other.previews),
            (reading_path, other.readings),
            (caption_path, other.captions),
        )
    ]
    assert kept == [False] * 3 + [True] * 3


def test_an_export_of_an_earlier_version_says_what_it_lacks(remembering: Index, tmp_path: Path) -> None:
    export_index(remembering, str(tmp_path / "export"))
    of_the_second_format(tmp_path / "export")
    other = empty(remembering)
    lacks = import_index(other, str(tmp_path / "export")).lacks
    assert lacks == ("pictures", "near_duplicates", "refused", "last_runs")
    told = index_status(other)
    assert (told["near_duplicates"], told["dead_letters"], told["last_runs"]) == (None, 0, [])
    assert export_index(other, str(tmp_path / "again")).lacks == ()


def test_what_an_emptied_index_remembered_is_gone(remembering: Index, tmp_path: Path) -> None:
    export_index(remembering, str(tmp_path / "export"))
    of_the_second_format(tmp_path / "export")
    delete_documents(remembering, list(PICTURES))
    import_index(remembering, str(tmp_path / "export"))
    assert index_status(remembering)["near_duplicates"] is None
    assert pq.read_table(remembering.home / HASHES)["perceptual"].null_count == 4


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"content": "../../evil"}, r"'\.\./\.\./evil', which is no SHA-256"),
        ({"document_key": store_key("", "another")}, "stands under another document's key"),
        ({"tenant": None}, "a null in column tenant"),
    ],
)
def test_a_hostile_picture_is_one_clear_line(
    remembering: Index, tmp_path: Path, change: dict[str, Any], complaint: str
) -> None:
    export_index(remembering, str(tmp_path / "export"))
    path = data(tmp_path / "export") / "pictures" / "000000.parquet"
    first, *others = pq.read_table(path).to_pylist()
    pq.write_table(pa.Table.from_pylist([first | change, *others], schema=PICTURES_SCHEMA), path)
    with pytest.raises(BadExport, match=rf"pictures/000000\.parquet: .*{complaint}"):
        import_index(empty(remembering), str(tmp_path / "export"))


def test_a_damaged_list_of_runs_costs_no_export(remembering: Index, tmp_path: Path) -> None:
    history.keep(remembering.directory, [RUN | {"elapsed_s": "long"}])
    assert index_status(moved(remembering, tmp_path))["last_runs"] == []
