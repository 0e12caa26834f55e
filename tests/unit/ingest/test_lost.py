"""Pictures that vanish all at once are taken for an accident: nothing of their documents is deleted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from fakes import image_part
from sink_runs import begun, document_row, entry, ids, ingest, ledger, part_rows, rows_of

from pipelines.core.index import Index
from pipelines.core.types import store_key
from pipelines.ingest import lost
from pipelines.ingest.ledger import Ledger
from pipelines.ingest.rows import refuse, table
from pipelines.ingest.sink import Finished, finish, recover, write_rows
from pipelines.ingest.sources import AWAY, FORBIDDEN, UNAVAILABLE

MANY = [f"d{n}" for n in range(4)]


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three documents are few: these may all lose their pictures."""
    monkeypatch.setattr(lost, "FEW_DOCUMENTS", len(MANY) - 1)


def without_picture(document: str, stage: str = "parse") -> list[dict[str, Any]]:
    image, *rest = rows_of(document, digest="d2")
    return [refuse(image, stage, "does not exist"), *rest]


def again(index: Index, *rows: list[dict[str, Any]], max_lost_fraction: float = 0.5) -> Finished:
    run = begun(index, *{row["document_id"]: None for batch in rows for row in batch}, name="run-2")
    write_rows(table(row for batch in rows for row in batch), index, run)
    return finish(index, run, ledger(index), max_lost_fraction=max_lost_fraction)[1]


def test_a_source_that_lost_all_of_its_pictures_keeps_them(index: Index) -> None:
    ingest(index, *map(rows_of, MANY))
    done = again(index, *map(without_picture, MANY))
    assert ids(index.visual()) == [f"{document}#img-0" for document in MANY]
    assert (done.documents, done.unfinished) == (0, len(MANY))
    assert "4 documents would lose pictures" in done.kept
    assert "--set ingest.max_pruned_fraction=1" in done.kept
    assert entry(index, MANY[0])["status"] == "unfinished"


def test_a_run_that_was_cut_short_before_its_end_keeps_them_too(index: Index) -> None:
    ingest(index, *map(rows_of, MANY))
    run = begun(index, *MANY, name="dead")
    write_rows(table(row for document in MANY for row in without_picture(document)), index, run)
    recover(index)
    assert len(ids(index.visual())) == len(MANY)


@pytest.mark.parametrize(
    ("going", "fraction"), [(MANY, 1.0), (MANY[:-1], 0.5), (MANY, 0.6)], ids=["asked", "few", "not most"]
)
def test_few_pictures_may_go_and_others_when_asked(index: Index, going: list[str], fraction: float) -> None:
    others = ["x", "y", "z"]  # 4 of 7 are 57 %
    ingest(index, *map(rows_of, [*MANY, *others]))
    done = again(index, *map(without_picture, going), max_lost_fraction=fraction)
    assert (done.kept, done.unfinished) == ("", 0)
    left = {*MANY, *others} - {*going}
    assert ids(index.visual()) == sorted(f"{document}#img-0" for document in left)


def test_of_documents_without_pictures_none_is_counted(index: Index) -> None:
    texts = [rows_of(f"text-{n}")[1:] for n in range(2 * len(MANY))]
    ingest(index, *map(rows_of, MANY), *([chunk, row | {"num_parts": 1}] for chunk, row in texts))
    assert again(index, *map(without_picture, MANY)).unfinished == len(MANY)


def test_one_picture_whose_whole_folder_is_missing_is_kept_where_it_was_known(index: Index) -> None:
    ingest(index, rows_of("known"))
    done = again(index, without_picture("known", AWAY), without_picture("new", AWAY))
    assert ids(index.visual()) == ["known#img-0"]
    assert (done.documents, done.unfinished) == (1, 1)
    assert entry(index, "new")["status"] == "partial"  # it may have been wrong from the start


def test_a_picture_that_was_never_there_does_not_hold_its_document_back(index: Index) -> None:
    lacking = refuse(part_rows(image_part("a", 1)), AWAY, "does not exist")
    image, chunk, described = rows_of("a")
    rows = [image, lacking, chunk, described | {"num_parts": 3, "inputs": [image["source"]]}]
    ingest(index, rows)
    done = again(index, [*rows[:3], rows[3] | {"digest": "d2"}])
    assert (done.documents, done.unfinished) == (1, 0)


def test_what_did_not_answer_is_not_told_as_lost(index: Index) -> None:
    ingest(index, *map(rows_of, MANY))
    done = again(index, *(without_picture(document, UNAVAILABLE) for document in MANY))
    assert (done.kept, done.unfinished) == ("", len(MANY))


def test_pictures_that_may_not_be_read_any_more_go_however_many_they_are(index: Index) -> None:
    ingest(index, *map(rows_of, MANY))
    done = again(index, *(without_picture(document, FORBIDDEN) for document in MANY))
    assert ids(index.visual()) == []
    assert (done.kept, done.documents, done.unfinished) == ("", len(MANY), 0)


def read(folder: Path, *rows: list[dict[str, Any]]) -> Path:
    """As the job leaves what it has read of documents."""
    folder.mkdir()
    pq.write_table(table(row for batch in rows for row in batch), folder / "0.parquet")
    return folder


@pytest.mark.parametrize(("stage", "is_held"), [(AWAY, True), (UNAVAILABLE, True), ("parse", False)])
def test_what_is_left_of_a_document_does_not_take_the_place_of_what_is_away(
    index: Index, tmp_path: Path, stage: str, is_held: bool
) -> None:
    ingest(index, rows_of("known"))
    parts = read(tmp_path / "parts", without_picture("known", stage), without_picture("new", stage))
    keys = {store_key("", "known")} if is_held else set()
    assert lost.held(parts, ledger(index), 0.5) == keys
    assert lost.held(parts, ledger(index), 1) == (keys if stage == UNAVAILABLE else set())


def of_files(document: str, *files: str, away: str = "") -> list[dict[str, Any]]:
    """A document of the pictures in these files, of which one may be AWAY."""
    rows = [part_rows(image_part(document, n), source=file, address=file) for n, file in enumerate(files)]
    rows = [refuse(row, AWAY, "does not exist") if row["source"] == away else row for row in rows]
    inputs = [file for file in files if file != away]
    return [*rows, document_row(document, len(rows)) | {"inputs": inputs}]


def test_another_picture_does_not_stand_in_for_one_that_is_away(index: Index, tmp_path: Path) -> None:
    ingest(
        index,
        of_files("lost", "/a", "/b"),
        of_files("grown", "/b"),
        of_files("lacking", "/a", "/b", away="/a"),
    )
    names = ("lost", "grown", "lacking")
    now = [of_files(document, "/a", "/b", "/c", away="/a") for document in names]
    assert lost.held(read(tmp_path / "parts", *now), ledger(index), 0.5) == {store_key("", "lost")}
    done = again(index, *now)
    assert "1 documents would lose pictures" in done.kept
    assert [entry(index, document)["status"] for document in names] == ["unfinished", "partial", "partial"]
    left = {"lost": [0, 1, 2], "grown": [1, 2], "lacking": [1, 2]}
    assert ids(index.visual()) == sorted(f"{name}#img-{n}" for name, all_n in left.items() for n in all_n)


def test_a_rebuild_keeps_the_pictures_that_the_index_it_replaces_has(index: Index, tmp_path: Path) -> None:
    ingest(index, rows_of("known"))
    run = begun(index, "known", name="run-2")
    write_rows(table(without_picture("known", AWAY)), index, run)
    done = finish(index, run, Ledger(tmp_path / "half-made"), replaced=ledger(index))[1]
    assert done.unfinished == 1
    assert "1 documents would lose pictures" in done.kept
