"""Two places that make one id, ingested in two runs: neither takes the place of the other unasked."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.core.types import store_key
from pipelines.ingest.hashing import document_digest
from pipelines.ingest.ledger import SCHEMA, Ledger
from pipelines.ingest.namesakes import Namesakes
from pipelines.ingest.plan import Plan, make_plan
from pipelines.ingest.sources import Item, SourceConfig, files, list_items


def pictures(root: Path) -> Path:
    """A folder."""
    root.mkdir(parents=True)
    for name in "ab":
        (root / f"{name}.png").write_bytes(str(root / name).encode())
    return root


def row(root: Path) -> Path:
    """A row without an id."""
    root.mkdir(parents=True)
    (root / "a.png").write_bytes(str(root).encode())
    (root / "m.jsonl").write_text(f'{{"text": "{root.parent.name}", "image": "./a.png"}}\n')
    return root / "m.jsonl"


def cells(root: Path) -> Path:
    """A Parquet that holds its picture."""
    root.mkdir(parents=True)
    held = [{"bytes": str(root).encode(), "path": None}]
    pq.write_table(pa.table({"image": held}), root / "m.parquet")
    return root / "m.parquet"


def shard(root: Path) -> Path:
    """A tar of one text."""
    root.mkdir(parents=True)
    with tarfile.open(root / "0.tar", "w") as tar:
        body = str(root).encode()
        member = tarfile.TarInfo("01.txt")
        member.size = len(body)
        tar.addfile(member, io.BytesIO(body))
    return root / "0.tar"


def ingested(ledger: Ledger, source: Path) -> Ledger:
    entries = [
        {
            "document_key": store_key(item.tenant, item.document_id),
            "document_id": item.document_id,
            "scope": item.scope,
            "inputs": list(item.inputs),
            "stamp": "",
            "digest": document_digest(item, item.inputs),
            "fingerprint": "f1",
            "rejected": 0,
        }
        for item in list_items([str(source)], SourceConfig())
        if isinstance(item, Item)
    ]
    return ledger.changed(pa.Table.from_pylist(entries, schema=SCHEMA))


def planned(ledger: Ledger, *sources: Path) -> Plan:
    return make_plan(list_items([str(s) for s in sources], SourceConfig()), ledger, "f1")


@pytest.mark.parametrize("make", [pictures, row, cells, shard])
def test_of_two_sources_that_make_one_id_the_one_that_the_index_has_stands(tmp_path: Path, make) -> None:  # type: ignore[no-untyped-def]
    old, new = make(tmp_path / "2023" / "scans"), make(tmp_path / "2024" / "scans")
    ledger = ingested(Ledger(tmp_path / "kb"), old)
    plan = planned(ledger, new)
    assert (plan.to_do, plan.unchanged, plan.seen, len(plan.refused)) == (0, 0, {}, len(ledger))
    assert f"of {tmp_path}/2023/scans/" in plan.refused[0].reason
    both = planned(ledger, new, old)
    assert (both.to_do, both.unchanged, len(both.refused)) == (0, len(ledger), len(ledger))
    (tmp_path / "2023").rename(tmp_path / "away")
    plan = planned(ledger, new)
    assert (plan.changed, plan.refused) == (len(ledger), ())


def test_a_document_that_moved_alone_goes_on(tmp_path: Path) -> None:
    old, new = pictures(tmp_path / "2023" / "scans"), pictures(tmp_path / "2024" / "scans")
    ledger = ingested(Ledger(tmp_path / "kb"), old)
    (old / "a.png").unlink()
    plan = planned(ledger, new)
    assert (plan.changed, [bad.document_id for bad in plan.refused]) == (1, ["scans/b.png"])


def test_a_file_that_another_source_lists_too_is_the_same_document(tmp_path: Path) -> None:
    folder = pictures(tmp_path / "scans")
    ledger = ingested(Ledger(tmp_path / "kb"), folder)
    plan = planned(ledger, folder / "a.png")
    assert (plan.unchanged, plan.refused) == (1, ())


def test_one_folder_under_two_names_is_one(tmp_path: Path) -> None:
    old, link = pictures(tmp_path / "2023" / "scans"), tmp_path / "links"
    ledger = ingested(Ledger(tmp_path / "kb"), old)
    link.symlink_to(tmp_path / "2023")
    assert (
        Namesakes(SourceConfig()).of(
            Item("picture", "scans/a.png", f"{link}/scans/a.png", f"{link}/scans", f"{link}/scans"), str(old)
        )
        == ""
    )
    assert planned(ledger, link / "scans").refused == ()


def test_an_id_that_somebody_gave_is_replaced_as_he_says(tmp_path: Path) -> None:
    old, new = pictures(tmp_path / "2023" / "scans"), tmp_path / "2024" / "scans"
    ledger = ingested(Ledger(tmp_path / "kb"), old)
    new.mkdir(parents=True)
    (new / "m.jsonl").write_text('{"id": "scans/a.png", "text": "Anew."}\n')
    plan = planned(ledger, new / "m.jsonl")
    assert (plan.changed, plan.refused) == (1, ())
    (new / "c.png").write_bytes(b"c")
    (new / "c.json").write_text('{"id": "scans/b.png"}')
    plan = planned(ledger, new)
    assert (plan.changed, plan.refused) == (1, ())


def test_a_source_is_looked_for_once_and_one_that_may_not_be_read_is_not_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def is_there(address: str) -> bool:
        asked.append(address)
        return False

    monkeypatch.setattr(files, "is_there", is_there)
    namesakes = Namesakes(SourceConfig())
    for name in ("scans/a.png", "scans/b.png"):
        item = Item("picture", name, f"/new/{name}", "/new/scans", "/new/scans")
        assert [namesakes.of(item, scope) for scope in ("/old/scans", "s3://old/scans")] == ["", ""]
    assert asked == ["/old/scans"]


def test_a_store_that_may_be_read_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "is_there", lambda address: True)
    item = Item("picture", "scans/a.png", "s3://new/scans/a.png", "s3://new/scans", "s3://new/scans")
    namesakes = Namesakes(SourceConfig(allowed_addresses=("s3://old/scans/", "s3://new/scans/")))
    assert namesakes.of(item, "s3://old/scans") == "s3://old/scans/a.png"
