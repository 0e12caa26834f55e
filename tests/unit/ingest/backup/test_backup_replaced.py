"""Whose export stands at an address, and two at once: a whole one of the right index stays."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from exported import cut_at, drop_a_chunk, empty, files, is_one_export, of_the_second_format
from fakes import memory_index
from small_index import PICTURES, fill

from pipelines.core.errors import BadExport, UsageError
from pipelines.core.files import sync
from pipelines.core.index import Index
from pipelines.ingest import archive
from pipelines.ingest.archive_form import DataSet
from pipelines.ingest.backup import export_index, import_index
from pipelines.ingest.removal import delete_documents


def another(tmp_path: Path) -> Index:
    """An index of one document."""
    other = memory_index(tmp_path / "another")
    fill(other, {"rose": PICTURES["rose"]})
    return other


def test_an_export_of_another_index_stands_unless_it_is_to_be_replaced(
    index: Index, export: Path, tmp_path: Path
) -> None:
    before, other = files(export), another(tmp_path)
    with pytest.raises(UsageError, match=r"of another index, .*/kb \([0-9a-f]{32}\), of 20.*--replace"):
        export_index(other, str(export))
    assert files(export) == before
    export_index(other, str(export), replace=True)
    assert is_one_export(export)
    assert import_index(empty(index), str(export)).chunks == 2
    export_index(other, str(export))


@pytest.mark.parametrize("earlier_version", [False, True])
def test_a_full_export_is_not_replaced_by_an_empty_one(
    index: Index, export: Path, earlier_version: bool
) -> None:
    if earlier_version:
        of_the_second_format(export)
    before = files(export)
    delete_documents(index, list(PICTURES))
    with pytest.raises(UsageError, match="12 pictures and texts, and this index has none"):
        export_index(index, str(export))
    assert files(export) == before
    export_index(index, str(export), replace=True)
    assert import_index(empty(index), str(export)).documents == 0
    export_index(index, str(export))  # an empty one by an empty one


def test_an_export_is_on_the_disk_before_the_one_that_it_replaces_goes(
    index: Index, export: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    [replaced] = export.glob("data-*")
    still_there: dict[Path, bool] = {}

    def noted(path: Path) -> None:
        sync(path)
        still_there[path] = replaced.exists()

    monkeypatch.setattr(archive, "sync", noted)
    export_index(index, str(export))
    assert not replaced.exists()
    assert all(still_there.values())
    assert {export, *export.rglob("*")} - {export / archive.CONTENTS} < set(still_there)
    assert export / archive.COMING in still_there  # which was moved there


def test_an_index_that_was_lost_and_made_anew_is_another(index: Index, export: Path) -> None:
    before = files(export)
    shutil.rmtree(index.directory)
    with pytest.raises(UsageError, match="another index"):
        export_index(memory_index(index.directory), str(export))
    assert files(export) == before


def test_an_export_of_another_index_that_goes_on_is_left_alone(index: Index, tmp_path: Path) -> None:
    """Or was cut short: from outside both look the same."""
    out, other = tmp_path / "out", another(tmp_path)
    with cut_at(archive.Archive, "_write_shard", 3):
        export_index(index, str(out))
    before = files(out)
    with pytest.raises(UsageError, match=r"of the index .*/kb .* has not ended.*--replace"):
        export_index(other, str(out))
    assert files(out) == before
    export_index(other, str(out), replace=True)
    assert is_one_export(out)
    assert import_index(empty(index), str(out)).chunks == 2


@pytest.mark.parametrize("is_first", [False, True])
def test_of_two_exports_at_once_the_second_stands_and_the_first_says_so(
    index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_first: bool
) -> None:
    out, other = str(tmp_path / "out"), another(tmp_path)
    if not is_first:
        export_index(index, out)
        drop_a_chunk(index)
    scan = index.text().scan

    def meanwhile() -> Iterator[Any]:
        monkeypatch.setattr(index.text(), "scan", scan)
        with cut_at(archive.Archive, "_write_shard", 2):  # it goes on
            export_index(other, out, replace=True)
        yield from scan()

    monkeypatch.setattr(index.text(), "scan", meanwhile)
    with pytest.raises(BadExport, match="another export was begun here meanwhile"):
        export_index(index, out)
    if is_first:
        with pytest.raises(UsageError, match="no whole export"):
            import_index(empty(index), out)
    else:
        assert import_index(empty(index), out).chunks == 8
    export_index(other, out, replace=True)
    assert is_one_export(Path(out))
    assert import_index(empty(index, "kb3"), out).chunks == 2


def test_an_export_whose_shards_were_taken_away_replaces_none(
    index: Index, export: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, drop = files(export), archive.Archive.write

    def dropping(self: archive.Archive, folder: str, data_set: DataSet, tables: Any) -> tuple[int, ...]:
        if data_set.name == "ledger":
            (export / folder / "visual" / "000000.parquet").unlink()
        return drop(self, folder, data_set, tables)

    monkeypatch.setattr(archive.Archive, "write", dropping)
    with pytest.raises(BadExport, match=r"visual/000000\.parquet: does not exist.*another export"):
        export_index(index, str(export))
    assert before.items() <= files(export).items()
    assert import_index(empty(index), str(export)).chunks == 8


def test_a_copy_of_an_index_takes_the_place_of_its_export(index: Index, export: Path, tmp_path: Path) -> None:
    """It has the name of the first, as for servers."""
    other = another(tmp_path)
    name = (index.directory / "identity").read_bytes()
    (other.directory / "identity").write_bytes(name)
    export_index(other, str(export))
    assert is_one_export(export)
