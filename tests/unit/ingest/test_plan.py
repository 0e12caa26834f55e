"""What a run has to do: new and changed documents, and nothing else."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.core.types import store_key
from pipelines.ingest.hashing import document_digest, document_stamp, hash_file
from pipelines.ingest.ledger import SCHEMA, Ledger
from pipelines.ingest.plan import Plan, make_plan
from pipelines.ingest.sources import Item, Rejected


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    made = [tmp_path / f"{name}.png" for name in "abc"]
    for file in made:
        file.write_bytes(file.name.encode())
    return made


def item(file: Path, **fields: Any) -> Item:
    defaults = {"form": "picture", "document_id": file.stem, "inputs": (str(file),)}
    places = {"address": str(file), "scope": str(file.parent), "root": str(file.parent)}
    return Item(**defaults | places | fields)


def ledger_of(*items: Item, inputs: tuple[str, ...] | None = None, **fields: Any) -> Ledger:
    rows = [
        {
            "document_key": store_key(i.tenant, i.document_id),
            "inputs": list(inputs or i.inputs),
            "digest": document_digest(i, inputs or i.inputs),
            "fingerprint": "f1",
            "rejected": 0,
        }
        | fields
        for i in items
    ]
    return Ledger(pa.Table.from_pylist(rows, schema=SCHEMA))


def planned(tmp_path: Path, listed: list[Any], ledger: Ledger, fingerprint: str = "f1") -> tuple[Plan, list]:
    out = tmp_path / "items"
    plan = make_plan(iter(listed), ledger, fingerprint, out)
    return plan, [
        row["document_id"] for path in sorted(out.iterdir()) for row in pq.read_table(path).to_pylist()
    ]


def test_a_new_corpus_is_all_to_do(tmp_path: Path, files: list[Path]) -> None:
    plan, ids = planned(tmp_path, [item(f) for f in files], ledger_of())
    assert (plan.to_do, plan.unchanged, ids) == (3, 0, ["a", "b", "c"])


def test_a_known_corpus_is_not(tmp_path: Path, files: list[Path]) -> None:
    items = [item(f) for f in files]
    plan, ids = planned(tmp_path, items, ledger_of(*items, rejected=2))
    assert (plan.to_do, plan.unchanged, plan.known_rejected, ids) == (0, 3, 6, [])


def test_a_file_whose_bytes_changed_is_to_do(tmp_path: Path, files: list[Path]) -> None:
    items = [item(f) for f in files]
    ledger = ledger_of(*items)
    files[1].write_bytes(b"other bytes")
    assert planned(tmp_path, items, ledger)[1] == ["b"]


def test_a_trusted_stamp_spares_the_hash(tmp_path: Path, files: list[Path]) -> None:
    time.sleep(2.1)  # fresh files have no stamp
    known, changed = item(files[0]), item(files[1])
    stamps = {i.document_id: document_stamp(i, i.inputs) for i in (known, changed)}
    ledger = ledger_of(known, digest="not compared", stamp=stamps["a"]).updated(
        ledger_of(changed, digest="other", stamp="other")._rows
    )
    assert planned(tmp_path, [known, changed], ledger)[1] == ["b"]


def test_a_file_that_was_only_touched_is_not(tmp_path: Path, files: list[Path]) -> None:
    items = [item(f) for f in files]
    ledger = ledger_of(*items)
    files[1].write_bytes(files[1].read_bytes())
    assert planned(tmp_path, items, ledger)[1] == []


def test_a_picture_that_the_page_shows_is_an_input_of_the_page(tmp_path: Path, files: list[Path]) -> None:
    page, *shown = files
    listed = item(page, form="html")
    ledger = ledger_of(listed, inputs=tuple(map(str, files)))  # parsing found the other two
    assert planned(tmp_path, [listed], ledger)[1] == []
    shown[1].unlink()
    assert planned(tmp_path, [listed], ledger)[1] == ["a"]


def test_a_new_side_car_is_a_change(tmp_path: Path, files: list[Path]) -> None:
    ledger = ledger_of(item(files[0]))
    with_side_car = item(files[0], inputs=(str(files[0]), str(files[1])))
    assert planned(tmp_path, [with_side_car], ledger)[1] == ["a"]


@pytest.mark.parametrize("change", [{"payload": b"{}"}, {"form": "row"}, {"tenant": "acme"}])
def test_another_row_form_or_tenant_is_a_change(
    tmp_path: Path, files: list[Path], change: dict[str, Any]
) -> None:
    ledger = ledger_of(item(files[0]))
    assert planned(tmp_path, [item(files[0], **change)], ledger)[1] == ["a"]


def test_another_fingerprint_makes_everything_to_do(tmp_path: Path, files: list[Path]) -> None:
    items = [item(f) for f in files]
    assert planned(tmp_path, items, ledger_of(*items), "f2")[1] == ["a", "b", "c"]


def test_a_document_that_was_cut_short_is_to_do(tmp_path: Path, files: list[Path]) -> None:
    items = [item(files[0])]
    assert planned(tmp_path, items, ledger_of(*items, digest="", status="unfinished"))[1] == ["a"]


def test_what_listing_refused_is_handed_on(tmp_path: Path, files: list[Path]) -> None:
    bad = Rejected("x", "/x", "list", "links out")
    plan, ids = planned(tmp_path, [bad, item(files[0])], ledger_of())
    assert plan.refused == (bad,)
    assert ids == ["a"]


def test_many_items_are_written_in_several_whole_files(tmp_path: Path, files: list[Path]) -> None:
    items = [item(files[0], document_id=f"d{n:04d}", inputs=()) for n in range(2500)]
    plan, ids = planned(tmp_path, items, ledger_of())
    assert plan.to_do == 2500
    assert ids == [f"d{n:04d}" for n in range(2500)]
    assert sorted(p.name for p in (tmp_path / "items").iterdir()) == [f"00000{n}.parquet" for n in range(3)]


def test_a_file_that_comes_back_is_a_change(files: list[Path]) -> None:
    there = hash_file(str(files[0]))
    files[0].rename(files[0].with_suffix(".away"))
    gone = hash_file(str(files[0]))
    assert gone.startswith("unreadable: ")
    assert gone != there
