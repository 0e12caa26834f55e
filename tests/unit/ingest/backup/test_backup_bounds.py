"""No export is written that is too long for an import."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from exported import data, empty, files
from small_index import TYPES

from pipelines.core.errors import BadExport, UsageError
from pipelines.core.index import Index
from pipelines.core.readings import Reading, save_reading
from pipelines.core.types import Line
from pipelines.ingest import archive
from pipelines.ingest.backup import export_index, import_index
from pipelines.ingest.sources.pdf_child import _MAX_LINES, _MAX_PLACED_CHARS


def read(index: Index, text: str, lines: int = 1) -> None:
    """Of one of the pictures that have a preview."""
    [preview, *_] = sorted(index.previews.glob("*/*.jpg"))
    line = Line(text, (1003.1, 1004.2, 1100.3, 1200.4), 0.9876)
    save_reading(index.readings, preview.stem, Reading("a reader 1.2.3", (line,) * lines))


@pytest.mark.parametrize(
    ("lines", "chars"),
    [(_MAX_LINES, _MAX_PLACED_CHARS // _MAX_LINES), (1000, 4095)],
    ids=["a page of a PDF", "a picture"],
)
def test_the_longest_reading_comes_back(index: Index, tmp_path: Path, lines: int, chars: int) -> None:
    read(index, "𠮷" * chars, lines)
    export_index(index, str(tmp_path / "export"))
    other = empty(index)
    import_index(other, str(tmp_path / "export"))
    assert files(other.readings) == files(index.readings) != {}


def test_what_no_import_takes_is_not_exported(index: Index, export: Path) -> None:
    before = (export / "export.json").read_bytes()
    read(index, "x" * 2**24)
    with pytest.raises(
        BadExport, match=r"readings/000000.parquet: 16,777,\d+ bytes in column reading"
    ) as told:
        export_index(index, str(export))
    assert "no import takes" in str(told.value)
    assert "damaged" not in str(told.value)
    assert (export / "export.json").read_bytes() == before
    assert import_index(empty(index), str(export)).chunks == 8


def test_rows_that_are_long_together_are_in_row_groups_of_their_own(
    index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "_GROUP_BYTES", 2000)  # a chunk's vector has 256
    export_index(index, str(tmp_path / "export"))
    footer = pq.read_metadata(data(tmp_path / "export") / "text" / "000000.parquet")
    assert [footer.row_group(n).num_rows for n in range(footer.num_row_groups)] == [4, 4]
    assert import_index(empty(index), str(tmp_path / "export")).chunks == 8


def test_thousands_of_metadata_fields_come_back(index: Index, tmp_path: Path) -> None:
    index.with_metadata_types(TYPES | {f"a field of documents, {n:015}": "str" for n in range(25_000)})
    export_index(index, str(tmp_path / "export"))
    assert (tmp_path / "export" / "export.json").stat().st_size > 2**20
    other = empty(index)
    import_index(other, str(tmp_path / "export"))
    assert other.manifest() == index.manifest()


def test_a_longer_manifest_than_is_read_leaves_the_export_before(
    index: Index, export: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = files(export)
    length = len(before["export.json"])
    monkeypatch.setattr(archive, "_MAX_CONTENTS_BYTES", length)
    index.with_metadata_types(TYPES | {"one more": "str"})
    with pytest.raises(BadExport, match=rf"would have .* an import reads {length:,}: .* 4 metadata fields"):
        export_index(index, str(export))
    assert before.items() <= files(export).items()
    monkeypatch.setattr(archive, "_MAX_CONTENTS_BYTES", length - 1)
    with pytest.raises(UsageError, match=rf"export\.json has more than {length - 1:,} bytes"):
        import_index(empty(index), str(export))


def test_a_long_text_is_not_called_damage(index: Index, export: Path) -> None:
    path = data(export) / "text" / "000000.parquet"
    table = pq.read_table(path)
    rows = table.to_pylist()
    pq.write_table(type(table).from_pylist([rows[0] | {"text": "x" * 70_000}, *rows[1:]], table.schema), path)
    with pytest.raises(BadExport, match="70,000 bytes in column text; at most 65,535, which") as told:
        import_index(empty(index), str(export))
    assert "damaged" not in str(told.value)


def test_the_manifest_names_the_index(index: Index, export: Path) -> None:
    body = json.loads((export / "export.json").read_text())
    assert body["identity"] == (index.directory / "identity").read_text()
