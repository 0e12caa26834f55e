"""A rebuild beside the live index: begun, taken up, proved, swapped; where it fails, the index as it was."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import ShelvedIndex, chunk_part, image_part, shelved_index

from pipelines.core import patience
from pipelines.core.errors import MmragError, StoreUnavailable, UsageError
from pipelines.core.manifest import Manifest
from pipelines.core.previews import write_preview
from pipelines.core.types import Part, store_key
from pipelines.ingest.backup import export_index, import_index
from pipelines.ingest.ledger import Ledger
from pipelines.ingest.plan import make_plan
from pipelines.ingest.rebuild import begin, drop_replaced, swap
from pipelines.ingest.removal import delete_documents
from pipelines.ingest.rows import DOCUMENT, part_row, refuse, table
from pipelines.ingest.run import Run
from pipelines.ingest.sink import finish, recover, write_rows
from pipelines.ingest.sources import Item, Listing
from pipelines.ingest.status import index_status

LIVE = {"visual_knowledge", "text_knowledge", "lexical"}
NEXT = {"visual_knowledge_g1", "text_knowledge_g1", "lexical_g1"}
OTHER_SCALES = (2, 4, 8)


def held(document: str) -> str:
    """The content hash of a document's picture."""
    return hashlib.sha256(document.encode()).hexdigest()


def rows_of(document: str, text: str, dim: int, *, refused: int = 0) -> list[dict[str, Any]]:
    """A picture, a chunk and the document's own row; the first of them are `refused`."""
    image, chunk = image_part(document, content=held(document)), chunk_part(document, text)
    rows = [
        part_row(part, vector=np.eye(1, size, dtype=np.float32).tobytes(), encoded=True)
        for part, size in ((image, dim), (chunk, 64))
    ]
    rows = [refuse(row, "decode", "no picture") if n < refused else row for n, row in enumerate(rows)]
    own = part_row(Part(document, "chunk", document, f"/{document}"))
    extra = {"kind": DOCUMENT, "key": own["document_key"], "inputs": [], "digest": "d", "scope": "/s"}
    return [*rows, own | extra | {"num_parts": 2}]


def ingest(
    index: ShelvedIndex,
    texts: Mapping[str, str],
    *,
    cut_after: int | None = None,
    refused: Mapping[str, int] | None = None,
) -> Ledger:
    """What the job does, without Ray. With `cut_after`, it is killed after that many documents."""
    whole = index.building
    dim = index.met().space["dim"]
    ledger = recover(index)
    run = Run(index.home, f"run-{len(list(index.directory.rglob('*')))}", "f")
    run.begin()
    items = (Item("row", document, f"/s/{document}", "/s", "/s") for document in texts)
    plan = make_plan(Listing(items, {"/s": True}), ledger, "f", run.items, whole=whole)
    for n, (document, text) in enumerate(texts.items()):
        if n == cut_after:
            return ledger
        parts = rows_of(document, text, dim, refused=(refused or {}).get(document, 0))
        write_rows(table(parts), index, run)
    return finish(index, run, ledger, plan.refused, plan.gone_keys if whole else ())[0]


def rebuild(
    directory: Path,
    texts: Mapping[str, str],
    *,
    fraction: float = 0.5,
    scopes: Sequence[str] = ("/s",),
    **how: Any,
) -> int:
    scales = how.pop("scales", (2, 4))
    with shelved_index(directory, scales, writable=True, building=True) as index, index.write_lock():
        live = begin(index, scopes, fraction)
        drop_replaced(index)
        built = ingest(index, texts, **how)
        return -1 if how.get("cut_after") else swap(index, live, built, fraction)


@pytest.fixture
def kb(tmp_path: Path) -> Path:
    """A live index of three documents."""
    with shelved_index(tmp_path / "kb", writable=True) as index, index.write_lock():
        index.create()
        ingest(index, {"a": "old a", "b": "old b", "c": "old c"})
    return tmp_path / "kb"


def texts(directory: Path) -> dict[str, str]:
    """What a reader finds in the text store, once all three are known to hold the same documents."""
    with shelved_index(directory) as index:
        held = [store()._parts.values() for store in index.stores.values()]  # type: ignore[union-attr]
        assert {p.document_id for p in held[0]} == {p.document_id for p in held[1]}
        assert {p.id for p in held[1]} == {p.id for p in held[2]}
        return {part.document_id: part.text for part in held[1]}


def files(directory: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in directory.rglob("*") if p.is_file() and p.name != "writer.lock"}


# The swap.


def test_the_new_generation_is_read_after_the_swap_and_not_before(kb: Path) -> None:
    old = texts(kb)
    with shelved_index(kb, writable=True, building=True) as index, index.write_lock():
        live = begin(index, ["/s"], 0.5)
        built = ingest(index, {"a": "new a", "b": "new b", "d": "new d"})
        assert texts(kb) == old
        gone = swap(index, live, built, 0.5)
        assert index.names() == LIVE | NEXT
    assert texts(kb) == {"a": "new a", "b": "new b", "d": "new d"}
    assert gone == 1  # c
    manifest = Manifest.load(kb)
    assert (manifest.generation, manifest.replaces) == (1, 0)
    assert not (kb / "next.json").exists()


def test_other_models_write_the_new_generation(kb: Path) -> None:
    rebuild(kb, {"a": "a", "b": "b", "c": "c"}, scales=OTHER_SCALES)
    with shelved_index(kb, OTHER_SCALES) as index:
        assert index.check_spaces().space["scales"] == list(OTHER_SCALES)
        assert index.visual().dim == 9


def test_the_generation_before_is_kept_until_the_next_run(kb: Path) -> None:
    rebuild(kb, {"a": "a", "b": "b", "c": "c"})
    with shelved_index(kb, writable=True) as index, index.write_lock():
        index.create()
        drop_replaced(index)
        assert index.names() == NEXT
        assert Manifest.load(kb).replaces is None
        assert not (kb / "ledger").exists()
        assert not (kb / "runs").exists()
        drop_replaced(index)  # of nothing
    assert texts(kb) == {"a": "a", "b": "b", "c": "c"}


# What is kept of pictures.


def previews(directory: Path) -> set[str]:
    return {path.stem for path in (directory / "previews").glob("*/*")}


@pytest.fixture
def shown(tmp_path: Path) -> Path:
    """A live index of three documents whose pictures have previews."""
    with shelved_index(tmp_path / "shown", writable=True) as index, index.write_lock():
        index.create()
        for document in "abc":
            write_preview(index.previews, held(document), b"a JPEG")
        ingest(index, {"a": "old a", "b": "old b", "c": "old c"})
    return tmp_path / "shown"


def test_pictures_that_only_the_generation_before_had_go_with_it(shown: Path) -> None:
    rebuild(shown, {"a": "a", "b": "b"})
    assert previews(shown) == {held("a"), held("b"), held("c")}  # for readers that have it open
    with shelved_index(shown, writable=True) as index, index.write_lock():
        drop_replaced(index)
    assert previews(shown) == {held("a"), held("b")}


@pytest.mark.parametrize("cut_after", [1, 2])
def test_pictures_of_a_deleted_document_go_though_a_rebuild_was_cut_short_unless_it_has_them(
    shown: Path, cut_after: int
) -> None:
    rebuild(shown, {"a": "a", "b": "b", "c": "c"}, cut_after=cut_after)
    with shelved_index(shown, writable=True) as index:
        delete_documents(index, ["b"])
    assert previews(shown) == {held("a"), held("c")} | ({held("b")} if cut_after == 2 else set())
    assert (shown / "next.json").exists()


def test_a_next_generation_without_stores_has_no_pictures(shown: Path) -> None:
    with shelved_index(shown, writable=True, building=True) as index, index.write_lock():
        begin(index, ["/s"], 0.5)
    with shelved_index(shown, writable=True) as index:
        delete_documents(index, ["b"])
    assert previews(shown) == {held("a"), held("c")}
    rebuild(shown, {"a": "a", "c": "c"})
    with shelved_index(shown, writable=True) as index, index.write_lock():
        drop_replaced(index)
    assert previews(shown) == {held("a"), held("c")}


def test_pictures_go_too_when_rebuilds_follow_one_another(shown: Path) -> None:
    rebuild(shown, {"a": "a", "b": "b"})
    rebuild(shown, {"a": "a", "b": "b"})
    assert previews(shown) == {held("a"), held("b")}


def test_where_the_stores_were_lost_the_pictures_stay_and_the_index_is_made_anew(shown: Path) -> None:
    rebuild(shown, {"a": "a", "b": "b", "c": "c"})
    for key in [key for key in ShelvedIndex.shelf if key[0] == shown]:
        del ShelvedIndex.shelf[key]
    assert rebuild(shown, {"a": "a", "b": "b"}) == 1
    assert previews(shown) == {held("a"), held("b"), held("c")}
    assert texts(shown) == {"a": "a", "b": "b"}


def test_a_few_documents_may_lose_their_pictures(kb: Path) -> None:
    rebuild(kb, {"a": "a", "b": "b", "c": "c"}, refused={"a": 1, "b": 1})
    assert Manifest.load(kb).generation == 1


def test_rebuilds_follow_one_another(kb: Path) -> None:
    for n in range(1, 4):
        rebuild(kb, {"a": f"a{n}", "b": f"b{n}"})
        assert texts(kb) == {"a": f"a{n}", "b": f"b{n}"}
        assert Manifest.load(kb).generation == n
    assert sorted(path.name for path in (kb / "generations").iterdir()) == ["2", "3"]


def test_what_comes_after_the_swap_goes_into_the_new_generation(kb: Path) -> None:
    rebuild(kb, {"a": "a", "b": "b"})
    with shelved_index(kb, writable=True) as index, index.write_lock():
        ingest(index, {"e": "e"})
        assert len(Ledger.load(index.home)) == 3
    assert texts(kb) == {"a": "a", "b": "b", "e": "e"}


def test_dead_letters_of_a_rebuild_lie_where_all_do(kb: Path) -> None:
    rebuild(kb, {"a": "a", "b": "b", "c": "c"}, refused={"c": 2})
    assert texts(kb) == {"a": "a", "b": "b"}
    assert len(list((kb / "rejected").glob("*.parquet"))) == 1


# Cut short.


def test_a_killed_rebuild_leaves_the_index_as_it_was_and_is_taken_up(kb: Path) -> None:
    old, before = texts(kb), files(kb)
    rebuild(kb, {"a": "new a", "b": "new b", "c": "new c"}, cut_after=2)
    assert texts(kb) == old
    assert before.items() <= files(kb).items()
    with shelved_index(kb, writable=True, building=True) as index, index.write_lock():
        begin(index, ["/s"], 0.5)
        taken_up = recover(index)
        assert sorted(row["status"] for table in taken_up.tables() for row in table.to_pylist()) == [
            "complete",
            "complete",
            "unfinished",
        ]
    rebuild(kb, {"a": "new a", "b": "new b", "c": "new c"})
    assert texts(kb) == {"a": "new a", "b": "new b", "c": "new c"}


def test_what_a_killed_rebuild_held_and_no_source_holds_now_is_not_swapped_in(kb: Path) -> None:
    rebuild(kb, {"a": "a", "x": "x", "y": "y"}, cut_after=2)
    rebuild(kb, {"a": "a", "b": "b"})
    assert texts(kb) == {"a": "a", "b": "b"}


def test_other_models_begin_anew(kb: Path) -> None:
    rebuild(kb, {"a": "a", "b": "b", "c": "c"}, cut_after=2)
    with shelved_index(kb, OTHER_SCALES, writable=True, building=True) as index, index.write_lock():
        begin(index, ["/s"], 0.5)
        assert len(recover(index)) == 0
        assert index.names() == LIVE
    rebuild(kb, {"a": "a", "b": "b"}, scales=OTHER_SCALES)
    assert texts(kb) == {"a": "a", "b": "b"}


def test_an_ordinary_run_leaves_a_half_made_rebuild_alone(kb: Path) -> None:
    rebuild(kb, {"a": "new a", "b": "new b"}, cut_after=1)
    with shelved_index(kb, writable=True) as index, index.write_lock():
        index.create()
        drop_replaced(index)
        ingest(index, {"e": "e"})
    assert texts(kb) == {"a": "old a", "b": "old b", "c": "old c", "e": "e"}
    assert (kb / "next.json").exists()


# Refused.


def test_counts_that_disagree_swap_nothing_and_begin_anew(kb: Path) -> None:
    old = texts(kb)
    with shelved_index(kb, writable=True, building=True) as index, index.write_lock():
        live = begin(index, ["/s"], 0.5)
        built = ingest(index, {"a": "new a", "b": "new b"})
        index.visual().delete([image_part("a").key])
        with pytest.raises(MmragError, match=r"visual 1 parts, not 2\), and nothing was swapped"):
            swap(index, live, built, 0.5)
    assert texts(kb) == old
    rebuild(kb, {"a": "new a", "b": "new b"})
    assert texts(kb) == {"a": "new a", "b": "new b"}


@pytest.mark.parametrize("method", ["flush", "count"])
def test_a_store_that_starts_again_is_waited_for_by_a_swap(
    kb: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    waits: list[float] = []
    monkeypatch.setattr(patience.time, "sleep", waits.append)
    with shelved_index(kb, writable=True, building=True) as index, index.write_lock():
        live = begin(index, ["/s"], 0.5)
        built = ingest(index, {"a": "new a", "b": "new b", "c": "new c"})
        store, failures = index.lexical(), [StoreUnavailable("gone")]
        original = getattr(store, method)

        def flaky() -> Any:
            if failures:
                raise failures.pop()
            return original()

        monkeypatch.setattr(store, method, flaky)
        swap(index, live, built, 0.5, patience_s=60)
    assert waits == [0.5]
    assert texts(kb) == {"a": "new a", "b": "new b", "c": "new c"}


@pytest.mark.parametrize("held", [{"a": "a"}, {}])
def test_a_rebuild_that_lost_most_documents_is_refused_and_may_be_allowed(
    kb: Path, held: dict[str, str]
) -> None:
    old = texts(kb)
    with pytest.raises(MmragError, match=r"lost \d of the 3 documents of the index.*max_pruned_fraction=1"):
        rebuild(kb, held)
    assert texts(kb) == old
    assert rebuild(kb, held, fraction=1.0) == 3 - len(held)
    assert texts(kb) == held


@pytest.mark.parametrize(("parts", "what"), [(2, "documents"), (1, "documents with pictures")])
def test_documents_of_which_all_or_all_pictures_are_refused_now_count_as_lost(
    kb: Path, parts: int, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.ingest.rebuild.FEW_DOCUMENTS", 1)
    with pytest.raises(MmragError, match=f"lost 2 of the 3 {what} of /s"):
        rebuild(kb, {"a": "a", "b": "b", "c": "c"}, refused={"a": parts, "b": parts})
    assert texts(kb)["a"] == "old a"


def test_a_source_that_is_not_named_is_listed_and_nothing_is_begun(kb: Path) -> None:
    with pytest.raises(UsageError, match=r"lose the documents of: /s; name them too"):
        rebuild(kb, {"a": "a"}, scopes=["/elsewhere"])
    assert not (kb / "next.json").exists()
    rebuild(kb, {"a": "a"}, scopes=["/elsewhere"], fraction=1.0)
    assert texts(kb) == {"a": "a"}


def test_there_is_nothing_to_rebuild_where_there_is_no_index(tmp_path: Path) -> None:
    with (
        shelved_index(tmp_path, writable=True, building=True) as index,
        pytest.raises(UsageError, match="no index"),
    ):
        begin(index, ["/s"], 0.5)
    assert not (tmp_path / "next.json").exists()


# What else is done with an index.


def test_a_document_is_deleted_from_the_generation_that_is_read(kb: Path) -> None:
    rebuild(kb, {"a": "a", "b": "b"})
    with shelved_index(kb, writable=True) as index:
        assert delete_documents(index, ["a", "c"]) == (1, ["c"])
    assert texts(kb) == {"b": "b"}


def test_an_export_is_of_the_generation_that_is_read_and_an_import_makes_the_first(kb: Path) -> None:
    rebuild(kb, {"a": "new a", "b": "new b"})
    with shelved_index(kb, writable=True) as index:
        export_index(index, str(kb.parent / "out"))
    with shelved_index(kb.parent / "kb2", writable=True) as other:
        import_index(other, str(kb.parent / "out"))
    assert texts(kb.parent / "kb2") == {"a": "new a", "b": "new b"}
    assert Manifest.load(kb.parent / "kb2").generation == 0


def test_an_import_looks_into_the_generation_that_is_read(kb: Path) -> None:
    rebuild(kb, {"a": "new a", "b": "new b"})
    with shelved_index(kb, writable=True) as index:
        export_index(index, str(kb.parent / "out"))
        with pytest.raises(UsageError, match="holds 2 documents"):
            import_index(index, str(kb.parent / "out"))
        delete_documents(index, ["a", "b"])
        import_index(index, str(kb.parent / "out"))
    assert texts(kb) == {"a": "new a", "b": "new b"}
    manifest = Manifest.load(kb)
    assert (manifest.generation, manifest.replaces) == (1, 0)


# Told.


def test_status_tells_the_generation_and_a_half_made_one(kb: Path) -> None:
    with shelved_index(kb) as index:
        assert [index_status(index)[key] for key in ("generation", "kept_generation", "rebuild")] == [
            0,
            None,
            None,
        ]
    rebuild(kb, {"a": "a", "b": "b"})
    rebuild(kb, {"a": "a", "b": "b"}, cut_after=1)
    with shelved_index(kb) as index:
        status = index_status(index)
        assert (status["generation"], status["kept_generation"]) == (1, None)
        assert status["stores"] == status["expected"] == {"visual": 2, "text": 2, "lexical": 2}
        assert (status["rebuild"]["generation"], status["rebuild"]["acknowledged_rows"]) == (2, 3)


def test_an_earlier_version_refuses_a_later_generation(kb: Path) -> None:
    assert json.loads((kb / "index.json").read_text())["format"] == 1
    rebuild(kb, {"a": "a", "b": "b"})
    assert json.loads((kb / "index.json").read_text())["format"] == 2
    assert Ledger.load(kb / "generations" / "1").get(store_key("", "a")) is not None
