"""What a run has to do: new and changed documents, and nothing else."""

from __future__ import annotations

import pickle
import re
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fakes import files_of_at_most

from pipelines.core.errors import MmragError
from pipelines.core.types import store_key
from pipelines.ingest import ledger as ledgers
from pipelines.ingest import listed as listed_items
from pipelines.ingest.hashing import document_digest, document_stamp, hash_file
from pipelines.ingest.ledger import SCHEMA, Ledger
from pipelines.ingest.plan import Plan, make_plan, to_prune
from pipelines.ingest.sources import (
    Item,
    Listing,
    Rejected,
    SourceConfig,
    list_items,
    parquet,
    read_bytes,
)


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


def rows_of(*items: Item, inputs: tuple[str, ...] | None = None, **fields: Any) -> pa.Table:
    rows = [
        {
            "document_key": store_key(i.tenant, i.document_id),
            "document_id": i.document_id,
            "inputs": list(inputs or i.inputs),
            "digest": fields.get("digest") or document_digest(i, inputs or i.inputs),
            "fingerprint": "f1",
            "rejected": 0,
        }
        | fields
        for i in items
    ]
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def ledger_of(*items: Item, **fields: Any) -> Ledger:
    """Of these items' documents, in a home of its own."""
    home = Path(items[0].root) if items else Path()
    return Ledger(home / "homes" / uuid.uuid4().hex).changed(rows_of(*items, **fields))


def scoped_ledger(*items: Item) -> Ledger:
    """As `ledger_of`, each document in its item's scope."""
    return ledger_of(*items).changed(seen={store_key(i.tenant, i.document_id): (i.scope, "") for i in items})


def planned(tmp_path: Path, listed: list[Any], ledger: Ledger, fingerprint: str = "f1") -> tuple[Plan, list]:
    out = tmp_path / "items"
    plan = make_plan(Listing(iter(listed), {}), ledger, fingerprint, out)
    return plan, [
        row["document_id"] for path in sorted(out.glob("*")) for row in pq.read_table(path).to_pylist()
    ]


def test_a_new_corpus_is_all_to_do(tmp_path: Path, files: list[Path]) -> None:
    plan, ids = planned(tmp_path, [item(f) for f in files], ledger_of())
    assert (plan.new, plan.changed, plan.unchanged, ids) == (3, 0, 0, ["a", "b", "c"])


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
    ledger = ledger_of(known, digest="not compared", stamp=stamps["a"]).changed(
        rows_of(changed, digest="other", stamp="other")
    )
    assert planned(tmp_path, [known, changed], ledger)[1] == ["b"]


def test_a_file_that_was_only_touched_is_not(tmp_path: Path, files: list[Path]) -> None:
    items = [item(f) for f in files]
    ledger = ledger_of(*items)
    files[1].write_bytes(files[1].read_bytes())
    assert planned(tmp_path, items, ledger)[1] == []


def test_a_touched_file_is_read_once_and_known_by_its_stamp_then(tmp_path: Path, files: list[Path]) -> None:
    time.sleep(2.1)
    known = item(files[0])
    ledger = ledger_of(known, stamp="before it was touched")
    seen = planned(tmp_path, [known], ledger)[0].seen
    assert seen == {store_key("", "a"): (known.scope, document_stamp(known, known.inputs))}
    (row,) = ledger.changed(seen=seen).bucket(0).to_pylist()
    after = ledger_of(known).changed(pa.Table.from_pylist([row | {"digest": "not compared"}], schema=SCHEMA))
    plan, ids = planned(tmp_path, [known], after)
    assert (plan.unchanged, plan.seen, ids) == (1, {}, [])


def test_what_the_listing_told_of_a_file_is_not_asked_again(tmp_path: Path) -> None:
    far = Item("text", "a", "s3://b/a.txt", "s3://b", "s3://b", inputs=("s3://b/a.txt",), stamps=("3:1",))
    stamp = document_stamp(far, far.inputs, {far.inputs[0]: "3:1"})
    entry = rows_of(item(tmp_path / "a")).to_pylist()[0]
    entry |= {"inputs": list(far.inputs), "stamp": stamp, "digest": "", "scope": far.scope}
    ledger = Ledger(tmp_path / "home").changed(pa.Table.from_pylist([entry], schema=SCHEMA))
    assert planned(tmp_path, [far], ledger)[0].unchanged == 1  # where no store answers


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


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "shared.png").write_bytes(b"shared")
    return folder


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("rows.jsonl", '{"id": "a", "text": "A shared one", "image": "../outside/shared.png"}'),
        ("page.html", '<p>A shared one</p><img src="../outside/shared.png" width="90">'),
    ],
)
def test_a_picture_that_may_not_be_read_any_more_is_a_change(
    tmp_path: Path, outside: Path, name: str, text: str
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / name).write_text(text)
    source, allowed = str(tmp_path / "in" / name), SourceConfig(allowed_roots=(str(outside),))
    [known] = list_items([source], allowed)
    shown = dict.fromkeys([*known.inputs, str(outside / "shared.png")])  # parsing found it on the page
    ledger = ledger_of(known, inputs=tuple(shown))

    def changed(config: SourceConfig) -> int:
        return make_plan(list_items([source], config), ledger, "f1", config=config).changed

    assert changed(allowed) == 0
    assert changed(SourceConfig()) == 1


def test_a_picture_of_a_revoked_bucket_is_a_change_and_no_store_is_asked(tmp_path: Path) -> None:
    row = item(tmp_path / "m.jsonl", form="row", document_id="a", inputs=())
    ledger = ledger_of(row, inputs=("s3://b/a.png",), digest="not compared")
    config = SourceConfig(allowed_addresses=("s3://other/",))
    assert make_plan(Listing(iter([row]), {}), ledger, "f1", config=config).changed == 1


@pytest.mark.parametrize("change", [{"payload": b"{}"}, {"form": "row"}, {"tenant": "acme"}])
def test_another_row_form_or_tenant_is_a_change(
    tmp_path: Path, files: list[Path], change: dict[str, Any]
) -> None:
    ledger = ledger_of(item(files[0]))
    assert planned(tmp_path, [item(files[0], **change)], ledger)[1] == ["a"]


def test_a_text_whose_row_stands_in_another_file_now_is_a_change(tmp_path: Path, files: list[Path]) -> None:
    row = item(
        tmp_path / "old.jsonl", form="row", document_id="a", payload=b"{}", inputs=(), scope="/old.jsonl"
    )
    known = scoped_ledger(row)
    assert planned(tmp_path, [row], known)[0].unchanged == 1
    moved = replace(row, address="/new.jsonl", scope="/new.jsonl")
    assert planned(tmp_path, [moved], known)[0].changed == 1
    shown = item(files[0], scope="/old.jsonl")
    plan = planned(tmp_path, [replace(shown, scope="/new.jsonl")], scoped_ledger(shown))[0]
    assert (plan.changed, plan.unchanged) == (0, 1)


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


def test_of_two_items_of_one_document_the_first_stands(tmp_path: Path, files: list[Path]) -> None:
    first, second = item(files[0]), item(files[1], document_id="a")
    other_tenant = item(files[2], document_id="a", tenant="acme")
    plan, ids = planned(tmp_path, [first, second, other_tenant], ledger_of())
    assert (plan.new, ids) == (2, ["a", "a"])
    [bad] = plan.refused
    assert (bad.document_id, bad.source, bad.stage) == ("a", str(files[1]), "list")
    assert bad.reason == "the id 'a' occurs before in this run; the first one stands"


# Many items.


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """So many items that files are needed: more than 10, in 1, 4 or 8 buckets."""
    for module in (ledgers, listed_items):
        monkeypatch.setattr(module, "FEW_DOCUMENTS", 10)
        monkeypatch.setattr(module, "BUCKETS", (1, 4, 8))


def rows(*numbers: int, **fields: Any) -> list[Item]:
    return [Item("row", f"d{n:03d}", "/m.jsonl", "/m.jsonl", "/", b"%d" % n, **fields) for n in numbers]


def pickled(compare: Callable[[int], Plan], buckets: Iterable[int]) -> Iterator[Plan]:
    """As tasks elsewhere would, each tried twice."""
    sent = pickle.dumps(compare)
    for bucket in buckets:
        plan = pickle.loads(sent)(bucket)
        assert plan == pickle.loads(sent)(bucket)
        yield plan


@pytest.mark.parametrize("size", [100, 6000])
def test_where_a_full_disk_takes_no_more_of_a_long_listing_is_told(
    tmp_path: Path, few: None, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # where a dry run writes
    listing = Listing(iter(rows(*range(100))), {})
    with files_of_at_most(size), pytest.raises(MmragError) as told:
        make_plan(listing, ledger_of(), "f1")
    assert re.match(rf"{tmp_path}/\.listed-\w+.*: File too large; make room there", str(told.value))


@pytest.mark.parametrize("known", [0, 5, 35, 70])
def test_a_long_listing_is_compared_bucket_by_bucket(tmp_path: Path, few: None, known: int) -> None:
    old = rows(*range(known))
    ledger = Ledger(tmp_path / "kb").changed(rows_of(*old, scope="/m.jsonl")) if known else ledger_of()
    changed = [replace(i, payload=b"other") for i in old[::10]]
    listed = [
        *changed,
        *(i for i in old if int(i.payload) % 10 and int(i.payload) % 7),
        *rows(*range(70, 90)),
    ]
    again = replace(listed[-1], payload=b"again")
    found = Listing(iter([*listed, again]), {"/m.jsonl": False})
    plan = make_plan(found, ledger, "f1", tmp_path / "items", each=pickled)
    gone = [i for i in old if int(i.payload) % 10 and int(i.payload) % 7 == 0]
    assert (plan.new, plan.changed, plan.unchanged) == (20, len(changed), len(listed) - 20 - len(changed))
    assert sorted(plan.gone_keys) == sorted(store_key("", i.document_id) for i in gone)
    assert [bad.document_id for bad in plan.refused] == ["d089"]
    written = pq.read_table(tmp_path / "items").to_pylist()
    expected = [*changed, *rows(*range(70, 90))]  # in the order of the listing
    assert [(row["document_id"], row["payload"]) for row in written] == [
        (i.document_id, i.payload) for i in expected
    ]
    assert [row["place"] for row in written] == [n for n, i in enumerate(listed) if i in expected]
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "kb") == ["items"]


def test_of_a_long_parquet_file_each_row_group_is_decoded_once_a_pass(
    tmp_path: Path, few: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = [{"bytes": b"%d" % n, "path": None} for n in range(80)]
    pq.write_table(pa.table({"image": held}), tmp_path / "m.parquet", row_group_size=10)
    listing = list_items([str(tmp_path / "m.parquet")], SourceConfig())
    assert make_plan(listing, ledger_of(), "f1", tmp_path / "items", each=pickled).new == 80
    decoded: list[int] = []
    begin = parquet._Pictures._go_to_group

    def counted(pictures: Any, row: int) -> None:
        decoded.append(row // 10)
        begin(pictures, row)

    monkeypatch.setattr(parquet._Pictures, "_go_to_group", counted)
    items = pq.read_table(tmp_path / "items").to_pylist()
    assert [read_bytes(item["inputs"][0], 100) for item in items] == [one["bytes"] for one in held]
    assert decoded == list(range(8))


def test_a_short_listing_is_compared_here_however_large_the_ledger_is(tmp_path: Path, few: None) -> None:
    ledger = Ledger(tmp_path / "kb").changed(rows_of(*rows(*range(70)), scope="/m.jsonl"))
    listed = [*rows(3, 4), *rows(99)]
    plan = make_plan(Listing(iter(listed), {"/m.jsonl": False}), ledger, "f1", each=None)  # type: ignore[arg-type]
    assert (ledger.buckets, plan.new, plan.unchanged, len(plan.gone_keys)) == (8, 1, 2, 68)


def test_a_file_that_comes_back_is_a_change(files: list[Path]) -> None:
    there = hash_file(str(files[0]))
    files[0].rename(files[0].with_suffix(".away"))
    gone = hash_file(str(files[0]))
    assert gone.startswith("unreadable: ")
    assert gone != there


# What is gone.


def listing(found: list[Any], *scopes: Path, folders: bool = True) -> Listing:
    return Listing(iter(found), {str(scope): folders for scope in scopes})


def planned_gone(listed: Listing, ledger: Ledger) -> dict[str, tuple[str, ...]]:
    return dict(make_plan(listed, ledger, "f1").gone)


def keys(*names: str) -> tuple[str, ...]:
    return tuple(store_key("", name) for name in names)


def test_a_document_that_its_source_holds_no_more_is_gone(tmp_path: Path, files: list[Path]) -> None:
    a, b, c = (item(f) for f in files)
    assert planned_gone(listing([a, c], tmp_path), scoped_ledger(a, b, c)) == {str(tmp_path): keys("b")}


def test_of_another_source_nothing_is_gone(tmp_path: Path, files: list[Path]) -> None:
    ledger = scoped_ledger(*(item(f) for f in files))
    assert planned_gone(listing([], tmp_path / "other"), ledger) == {}


def test_an_emptied_source_lost_everything(tmp_path: Path, files: list[Path]) -> None:
    ledger = scoped_ledger(*(item(f) for f in files))
    assert planned_gone(listing([], tmp_path), ledger) == {str(tmp_path): keys("a", "b", "c")}


def test_a_document_that_listing_refused_is_not_gone(tmp_path: Path, files: list[Path]) -> None:
    a, b, c = (item(f) for f in files)
    bad = Rejected("b", str(files[1]), "list", "links out")
    assert planned_gone(listing([a, bad, c], tmp_path), scoped_ledger(a, b, c)) == {}


def test_a_link_that_may_not_be_followed_any_more_hides_nothing(tmp_path: Path, outside: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").symlink_to(outside / "shared.png")
    source, allowed = str(tmp_path / "in"), SourceConfig(allowed_roots=(str(outside),))
    [known] = list_items([source], allowed)
    ledger = scoped_ledger(known)
    plan = make_plan(list_items([source], SourceConfig()), ledger, "f1")
    assert [bad.document_id for bad in plan.refused] == [known.document_id]
    assert plan.gone_keys == keys(known.document_id)
    (outside / "shared.png").unlink()
    assert make_plan(list_items([source], allowed), ledger, "f1", config=allowed).gone_keys == ()


def test_a_folder_that_cannot_be_listed_hides_its_documents(tmp_path: Path, files: list[Path]) -> None:
    hidden = item(tmp_path / "sub" / "h.png", scope=str(tmp_path))
    bad = Rejected("sub", str(tmp_path / "sub"), "list", "cannot be listed")
    ledger = scoped_ledger(hidden, item(files[0]))
    assert planned_gone(listing([bad], tmp_path), ledger) == {str(tmp_path): keys("a")}


def test_many_refusals_hide_no_documents_but_their_own(tmp_path: Path) -> None:
    known = [item(tmp_path / "sub" / f"{n}.png", scope=str(tmp_path)) for n in range(500)]
    refused = [Rejected(f"r{n}", f"{tmp_path}/r{n}.png", "list", "links out") for n in range(10_000)]
    gone = planned_gone(listing([*refused], tmp_path), scoped_ledger(*known))
    assert len(gone[str(tmp_path)]) == 500


def test_a_side_car_that_cannot_be_read_hides_the_document_that_it_names(tmp_path: Path) -> None:
    side_car = tmp_path / "a.json"
    named = item(
        tmp_path / "a.png",
        document_id="X",
        scope=str(tmp_path),
        inputs=(str(tmp_path / "a.png"), str(side_car)),
    )
    bad = Rejected("a.png", str(side_car), "list", "did not answer")
    assert planned_gone(listing([bad], tmp_path), scoped_ledger(named)) == {}


def test_a_row_that_cannot_be_read_could_be_any_of_its_manifest(
    tmp_path: Path, files: list[Path], caplog: pytest.LogCaptureFixture
) -> None:
    manifest = tmp_path / "m.jsonl"
    rows = [item(f, scope=str(manifest)) for f in files]
    broken = Rejected("m.jsonl:2", f"{manifest}:2", "list", "m.jsonl:2: is not JSON", str(manifest))
    named = Rejected(
        "new", f"{manifest}:2", "list", "m.jsonl:2: has neither text nor a picture", str(manifest)
    )
    ledger = scoped_ledger(*rows)
    plan = make_plan(listing([rows[0], broken], manifest, folders=False), ledger, "f1")
    assert (plan.gone, plan.unclear) == ({}, {str(manifest): 2})
    assert f"{manifest}: 2 of its documents are not listed any more, but are kept" in caplog.text
    assert f"cannot be read at {manifest}:2" in caplog.text
    all_there = make_plan(listing([*rows, broken], manifest, folders=False), ledger, "f1")
    assert (all_there.gone, all_there.unclear) == ({}, {})
    assert planned_gone(listing([rows[0], named], manifest, folders=False), ledger) == {
        str(manifest): keys("b", "c")
    }


def test_a_document_that_moved_to_another_source_belongs_there(tmp_path: Path, files: list[Path]) -> None:
    known = item(files[0], inputs=())
    moved = item(files[0], inputs=(), scope="/elsewhere")
    ledger = scoped_ledger(known)
    plan = make_plan(listing([moved], Path("/elsewhere")), ledger, "f1")
    assert plan.unchanged == 1
    assert {key: scope for key, (scope, _) in plan.seen.items()} == {keys("a")[0]: "/elsewhere"}
    assert planned_gone(listing([], tmp_path), ledger.changed(seen=plan.seen)) == {}


def test_many_at_once_look_like_an_accident(tmp_path: Path, files: list[Path]) -> None:
    known = [item(files[0], document_id=f"d{n}", inputs=()) for n in range(300)]
    ledger = scoped_ledger(*known)
    fewer = make_plan(listing(known[140:], tmp_path), ledger, "f1")
    assert len(to_prune(fewer, ledger, max_fraction=0.5)) == 140
    emptied = make_plan(listing([], tmp_path), ledger, "f1")
    with pytest.raises(MmragError, match="300 of its 300 documents"):
        to_prune(emptied, ledger, max_fraction=0.5)
    assert len(to_prune(emptied, ledger, max_fraction=1)) == 300


def test_many_small_sources_at_once_look_like_an_accident_too(tmp_path: Path, files: list[Path]) -> None:
    """As when what holds them all is not mounted; each alone could go."""
    known = [item(files[0], document_id=f"d{n}", inputs=(), scope=f"/s{n % 5}.tar") for n in range(150)]
    ledger = scoped_ledger(*known)
    scopes = [Path(f"/s{n}.tar") for n in range(5)]
    gone = make_plan(listing([], *scopes), ledger, "f1")
    with pytest.raises(MmragError, match="5 sources hold 150 of their 150 documents no more"):
        to_prune(gone, ledger, max_fraction=0.5)
    assert len(to_prune(gone, ledger, max_fraction=1)) == 150
    three = make_plan(listing([], *scopes[:3]), ledger, "f1")
    assert len(to_prune(three, ledger, max_fraction=0.5)) == 90
    some = make_plan(listing(known[110:], *scopes), ledger, "f1")  # 22 of the 30 of each
    assert len(to_prune(some, ledger, max_fraction=0.8)) == 110
    with pytest.raises(MmragError, match="5 sources hold 110 of their 150"):
        to_prune(some, ledger, max_fraction=0.7)


def test_what_was_refused_is_tried_again_when_asked(tmp_path: Path, files: list[Path]) -> None:
    good, bad = item(files[0]), item(files[1])
    ledger = ledger_of(good).changed(rows_of(bad, rejected=1))
    found = [good, bad]
    assert make_plan(listing(found, tmp_path), ledger, "f1").to_do == 0
    again = make_plan(listing(found, tmp_path), ledger, "f1", tmp_path / "items", retry_rejected=True)
    assert (again.new, again.changed, again.unchanged, again.known_rejected) == (0, 1, 1, 0)
    [row] = pq.read_table(tmp_path / "items").to_pylist()
    assert row["document_id"] == "b"
