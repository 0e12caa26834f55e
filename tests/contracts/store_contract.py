"""What every store promises, as test classes to inherit. Knows no store: a subclass brings `new_store`.

The filters' meaning is `filters.matches`; here every engine must agree with it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import pytest
from shelf import AWKWARD, EXPRESSIONS, SHELF, part, random_filters

from pipelines.core.errors import StoreError, StoreUnavailable
from pipelines.core.filters import Comparison, Filter, In, Not, matches, parse
from pipelines.core.stores import LexicalStore, Vectors, VectorStore
from pipelines.core.types import Found, Part, store_key

DIM = 8


class StoreContract:
    """What vector and lexical stores promise alike. `put` and `find` hide how they differ."""

    load_rows: ClassVar[int] = 5_000
    mixed_types: ClassVar[bool] = True  # whether one field may hold values of several types

    def new_store(self, server: Any) -> AbstractContextManager[Any]:
        raise NotImplementedError

    def unreachable(self) -> Any:
        """Open a store where nothing listens, or skip."""
        pytest.skip("nothing to reach")

    def put(self, store: Any, parts: Sequence[Part]) -> None:
        raise NotImplementedError

    def find(self, store: Any, k: int, where: Filter | None = None) -> list[Found]:
        raise NotImplementedError

    @pytest.fixture(scope="class")
    @classmethod
    def server(cls) -> Any:
        return None

    @pytest.fixture
    def store(self, server: Any) -> Iterator[Any]:
        with self.new_store(server) as store:
            yield store

    @pytest.fixture(scope="class")
    @classmethod
    def shelf(cls, server: Any) -> Iterator[Any]:
        with cls().new_store(server) as store:
            cls().put(store, SHELF)
            store.flush()
            yield store

    def ids(self, store: Any, where: Filter | None = None) -> set[str]:
        return {found.part.id for found in self.find(store, 1000, where)}

    def test_an_empty_store_counts_nothing_and_finds_nothing(self, store: Any) -> None:
        assert store.count() == 0
        assert self.find(store, 5) == []
        assert store.fetch([part("a").key]) == {}

    def test_a_part_comes_back_as_it_was_put(self, store: Any) -> None:
        whole = Part(
            id="手册#txt-0",
            kind="chunk",
            document_id="手册",
            source="corpus/手册 1.pdf",
            text='common: "quotes", \\ and\nlines; 孔距 32 mm 😀',
            content="ab" * 32,
            image_ids=("手册#img-0", "手册#img-1"),
            metadata={
                "i": 1,
                "f": 1.0,
                "g": 2.5,
                "t": True,
                "n": False,
                "s": "1",
                "u": "é甲\n",
                "big": 2**62,
            },
            tenant="租户",
        )
        self.put(store, [whole])
        store.flush()
        fetched = store.fetch([whole.key])[whole.key]
        assert fetched == whole
        assert {k: type(v) for k, v in fetched.metadata.items()} == {
            k: type(v) for k, v in whole.metadata.items()
        }
        assert [found.part for found in self.find(store, 5)] == [whole]

    def test_the_same_upsert_twice_changes_nothing(self, store: Any) -> None:
        for _ in range(2):
            self.put(store, [part("a"), part("b")])
            store.flush()
        assert store.count() == 2
        assert len(self.find(store, 10)) == 2

    def test_a_later_upsert_replaces(self, store: Any) -> None:
        self.put(store, [part("a", year=1)])
        self.put(store, [part("a", "common, newer", year=2)])
        store.flush()
        assert store.count() == 1
        assert self.ids(store, parse("year == 1")) == set()
        assert [found.part.text for found in self.find(store, 10, parse("year == 2"))] == ["common, newer"]

    def test_of_one_key_twice_in_a_batch_the_last_remains(self, store: Any) -> None:
        self.put(store, [part("a", year=1), part("b"), part("a", year=2)])
        store.flush()
        assert store.count() == 2
        assert store.fetch([part("a").key])[part("a").key].metadata == {"year": 2}

    def test_an_empty_batch_is_no_error(self, store: Any) -> None:
        self.put(store, [])
        store.delete([])
        store.delete_documents([])
        assert store.fetch([]) == {}
        assert store.count() == 0

    def test_tenants_with_equal_ids_never_meet(self, store: Any) -> None:
        mine, theirs = part("a", "common mine", tenant="mine"), part("a", "common theirs", tenant="theirs")
        self.put(store, [mine, theirs])
        store.flush()
        assert store.count() == 2
        assert [found.part for found in self.find(store, 10, parse('tenant == "mine"'))] == [mine]
        store.delete_documents([mine.document_key])
        store.flush()
        assert [found.part for found in self.find(store, 10)] == [theirs]

    def test_delete_removes_by_key_and_ignores_unknown_ones(self, store: Any) -> None:
        self.put(store, [part("a"), part("b"), part("c")])
        store.delete([part("a").key, part("nowhere").key])
        store.flush()
        assert store.count() == 2
        assert self.ids(store) == {"b#txt-0", "c#txt-0"}

    def test_delete_documents_removes_all_parts_but_those_to_keep(self, store: Any) -> None:
        parts = [
            Part(f"{doc}#txt-{n}", "chunk", doc, "s", f"common {n}")
            for doc in ("a", "b", "c")
            for n in range(3)
        ]
        self.put(store, parts)
        store.flush()
        gone = [store_key("", "a"), store_key("", "b"), store_key("", "nowhere")]
        store.delete_documents(gone, keep=[store_key("", "a#txt-1")])
        store.flush()
        assert self.ids(store) == {"a#txt-1", "c#txt-0", "c#txt-1", "c#txt-2"}
        assert store.count() == 4

    def test_a_deleted_part_can_come_back(self, store: Any) -> None:
        self.put(store, [part("a")])
        store.flush()
        store.delete([part("a").key])
        self.put(store, [part("a", year=2)])
        store.flush()
        assert self.ids(store, parse("year == 2")) == {"a#txt-0"}

    def test_fetch_and_count_see_what_was_not_flushed(self, store: Any) -> None:
        self.put(store, [part("a"), part("b")])
        assert store.count() == 2
        assert store.fetch([part("b").key, part("nowhere").key]) == {part("b").key: part("b")}
        store.delete([part("b").key])
        assert store.count() == 1
        assert store.fetch([part("b").key]) == {}

    def test_what_a_store_cannot_keep_is_refused_by_name(self, store: Any) -> None:
        for bad in (
            part("long", "字" * 30_000),
            part("nan", price=float("nan")),
            part("huge", n=2**63),
            part("half", text="\ud800"),
            Part("none#txt-0", "chunk", "none", "s", "common", metadata={"x": None}),  # type: ignore[dict-item]
        ):
            with pytest.raises(StoreError, match=bad.document_id):
                self.put(store, [part("good"), bad])
        assert store.count() == 0

    def test_k_bounds_the_answer(self, shelf: Any) -> None:
        assert len(self.find(shelf, 3)) == 3
        assert len(self.find(shelf, 1000)) == len(SHELF)
        assert len(self.find(shelf, 3, parse("year > 0"))) == 3
        with pytest.raises(StoreError):
            self.find(shelf, 0)

    def test_scores_fall(self, shelf: Any) -> None:
        scores = [found.score for found in self.find(shelf, 1000)]
        assert scores == sorted(scores, reverse=True)

    @pytest.mark.parametrize("text", EXPRESSIONS)
    def test_a_filter_means_what_matches_says(self, shelf: Any, text: str) -> None:
        where = parse(text) if len(text) <= 4096 else pytest.fail("too long")
        assert self.ids(shelf, where) == {p.id for p in SHELF if matches(where, p)}

    @pytest.mark.parametrize("name", AWKWARD)
    def test_any_string_can_be_compared(self, shelf: Any, name: str) -> None:
        for where in (
            Comparison("name", "==", name),
            Comparison("name", "!=", name),
            In("name", (name,), True),
        ):
            assert self.ids(shelf, where) == {p.id for p in SHELF if matches(where, p)}

    @pytest.mark.parametrize("field", ['a"]', "x\\", "it's", "甲", "metadata", "key"])
    def test_any_field_name_can_be_asked_for(self, shelf: Any, field: str) -> None:
        assert self.ids(shelf, Comparison(field, "==", "x")) == set()
        assert self.ids(shelf, Not(Comparison(field, "==", "x"))) == {p.id for p in SHELF}

    def test_random_filters_mean_what_matches_says(self, shelf: Any) -> None:
        for where in random_filters(60):
            assert self.ids(shelf, where) == {p.id for p in SHELF if matches(where, p)}, where

    def test_values_of_other_types_are_unequal(self, store: Any) -> None:
        if not self.mixed_types:
            pytest.skip("this store relies on filters.check")
        parts = [part("s", v="1"), part("i", v=1), part("b", v=True), part("f", v=1.0)]
        self.put(store, parts)
        store.flush()
        for value in ("1", 1, True):
            for op in ("==", "!="):
                where = Comparison("v", op, value)  # type: ignore[arg-type]
                assert self.ids(store, where) == {p.id for p in parts if matches(where, p)}

    def test_a_load_in_batches_counts_right(self, store: Any) -> None:
        parts = [part(f"d{n}", f"common number{n}", n=n, even=n % 2 == 0) for n in range(self.load_rows)]
        for start in range(0, len(parts), 1000):
            self.put(store, parts[start : start + 1000])
        store.flush()
        assert store.count() == self.load_rows
        assert len(self.find(store, 10, parse("n >= 990 and even == true"))) == min(
            10, (self.load_rows - 990) // 2
        )
        last = parts[-1].key
        assert store.fetch([last]) == {last: parts[-1]}

    def test_a_store_that_does_not_run_says_so_soon(self) -> None:
        started = time.monotonic()
        with pytest.raises(StoreUnavailable, match=r"127\.0\.0\.1.*running"):
            self.unreachable()
        assert time.monotonic() - started < 10


class VectorStoreContract(StoreContract):
    """What a VectorStore promises beside."""

    def put(self, store: VectorStore, parts: Sequence[Part]) -> None:
        store.upsert(parts, np.array([_vector(p.key) for p in parts], dtype=np.float32).reshape(-1, DIM))

    def find(self, store: VectorStore, k: int, where: Filter | None = None) -> list[Found]:
        return store.search(_vector("query"), k, where)

    def test_vectors_come_back_by_key_and_by_scan(self, store: Any) -> None:
        parts = [part(f"d{n}", f"common {n}", n=n) for n in range(40)]
        vectors = np.random.default_rng(0).normal(size=(len(parts), DIM)).astype(np.float32)
        store.upsert(parts, vectors)
        store.flush()
        wanted = dict(zip((one.key for one in parts), vectors, strict=True))
        found = store.vectors([parts[3].key, part("nowhere").key, parts[7].key])
        assert found.keys() == {parts[3].key, parts[7].key}
        for key, vector in found.items():
            np.testing.assert_array_equal(vector, wanted[key])
        scanned = [pair for batch, rows in store.scan() for pair in zip(batch, rows, strict=True)]
        assert sorted(one.key for one, _ in scanned) == sorted(wanted)
        for one, vector in scanned:
            assert one == parts[int(one.metadata["n"])]
            np.testing.assert_array_equal(vector, wanted[one.key])

    def test_an_empty_store_has_no_vectors(self, store: Any) -> None:
        assert store.vectors([]) == {}
        assert store.vectors([part("a").key]) == {}
        assert list(store.scan()) == []

    def test_the_nearest_by_inner_product_come_first(self, store: VectorStore) -> None:
        query = np.eye(DIM, dtype=np.float32)[0]
        vectors = np.zeros((4, DIM), np.float32)
        vectors[:, 0] = [0.2, 2.0, -1.0, 0.9]
        store.upsert([part(name) for name in "abcd"], vectors)
        store.flush()
        found = store.search(query, 3)
        assert [f.part.document_id for f in found] == ["b", "d", "a"]
        assert [f.score for f in found] == pytest.approx([2.0, 0.9, 0.2], abs=1e-6)

    def test_content_is_found_within_its_tenant_only(self, store: VectorStore) -> None:
        shown = [
            replace(part(name, tenant=tenant), content=content)
            for name, tenant, content in (("a", "", "c1"), ("b", "t1", "c1"), ("c", "t2", 'c"2'))
        ]
        self.put(store, shown)
        store.flush()
        asked = [("c1", ""), ("c1", "t1"), ("c1", "t2"), ('c"2', "t2"), ('c"2', ""), ("c3", "t1")]
        assert [store.has_content(*one) for one in asked] == [True, True, False, True, False, False]
        assert store.contents(["c1", 'c"2', "c3"]) == {"c1", 'c"2'}
        store.delete([shown[0].key, shown[2].key])
        store.flush()
        assert store.contents(["c1", 'c"2', "c3"]) == {"c1"}

    def test_a_selective_filter_still_fills_k(self, store: VectorStore) -> None:
        parts = [part(f"d{n}", rare=n % 100 == 0) for n in range(2_000)]
        self.put(store, parts)
        store.flush()
        query = _vector("query")
        best = sorted(parts[::100], key=lambda p: -float(_vector(p.key) @ query))[:10]
        assert [f.part for f in store.search(query, 10, parse("rare == true"))] == best

    def test_bad_vectors_are_refused_and_nothing_is_written(self, store: VectorStore) -> None:
        good = np.zeros((2, DIM), np.float32)
        bad: list[Vectors] = [good[:1], good[:, :4], good.copy(), good.copy()]
        bad[2][1, 3] = np.nan
        bad[3][0, 0] = np.inf
        for vectors in bad:
            with pytest.raises(StoreError):
                store.upsert([part("a"), part("b")], vectors)
        assert store.count() == 0

    def test_a_bad_query_vector_is_refused(self, store: VectorStore) -> None:
        with pytest.raises(StoreError):
            store.search(np.zeros(DIM - 1, np.float32), 3)
        with pytest.raises(StoreError):
            store.search(np.full(DIM, np.nan, np.float32), 3)


class LexicalStoreContract(StoreContract):
    """What a LexicalStore promises beside."""

    def put(self, store: LexicalStore, parts: Sequence[Part]) -> None:
        store.upsert(parts)

    def find(self, store: LexicalStore, k: int, where: Filter | None = None) -> list[Found]:
        return store.search("common", k, where)

    @pytest.fixture(scope="class")
    @classmethod
    def library(cls, server: Any) -> Iterator[LexicalStore]:
        texts = {
            "spacing": "安装说明：两个螺丝孔的孔距为32毫米，深度 5.5 mm。",
            "frame": "画框背面有一只猫的图案。",
            "drill": "Drill two holes into the wall, 32 mm apart.",
            "cable": "The cable is connected with a USB-C plug (ＵＳＢ). Studies show it works.",
            "noise": "Nothing of interest: flowers, rivers, mountains.",
        }
        with cls().new_store(server) as store:
            store.upsert([part(name, text) for name, text in texts.items()])
            store.flush()
            yield store

    @pytest.mark.parametrize(
        ("query", "first"),
        [
            ("孔距", "spacing"),
            ("螺丝孔的孔距是多少？", "spacing"),
            ("猫", "frame"),
            ("毫米", "spacing"),
            ("hole", "drill"),
            ("HOLES", "drill"),
            ("drill into the wall", "drill"),
            ("usb", "cable"),
            ("ＵＳＢ plug", "cable"),
            ("画框 frame", "frame"),
            ("孔距 spacing", "spacing"),
        ],
    )
    def test_a_question_finds_its_text(self, library: LexicalStore, query: str, first: str) -> None:
        assert library.search(query, 5)[0].part.document_id == first

    @pytest.mark.parametrize("query", ["", "   ", "？！…", '"', "()", "zebra", "斑马线"])
    def test_no_searchable_word_finds_nothing(self, library: LexicalStore, query: str) -> None:
        assert library.search(query, 5) == []

    @pytest.mark.parametrize(
        "query",
        [
            'text:hole AND "',
            "hole OR *",
            "+hole -wall",
            "hole~2 ^3",
            "hole {a TO b]",
            "\\hole/",
            'document_id:"x" hole',
            "/hole.*/",
        ],
    )
    def test_query_syntax_is_plain_text(self, library: LexicalStore, query: str) -> None:
        assert library.search(query, 5)[0].part.document_id == "drill"

    def test_more_of_the_words_score_higher(self, library: LexicalStore) -> None:
        found = library.search("drill holes 毫米", 5)
        assert [f.part.document_id for f in found] == ["drill", "spacing"]


def _vector(key: str) -> Vectors:
    vector = np.random.default_rng(list(key.encode())).normal(size=DIM)
    return (vector / np.linalg.norm(vector)).astype(np.float32)
