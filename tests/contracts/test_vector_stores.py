"""The vector contract on the fake, on milvus-lite, and on a Milvus server; then what is Milvus's own."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from command_lines import commands
from doc_blocks import DOCS, blocks
from fakes import picture
from memory_stores import MemoryVectorStore
from pydantic import ValidationError
from pymilvus import MilvusException
from pymilvus.exceptions import ParamError
from pymilvus.grpc_gen.common_pb2 import NotReadyServe
from servers import free_port
from shelf import part
from shell import mmrag
from small_index import answers, filled, of_packaged_models, opened
from store_contract import DIM, VectorStoreContract

from pipelines.core.errors import OtherIndex, StoreError, StoreUnavailable
from pipelines.core.identity import FILE as IDENTITY
from pipelines.core.store_places import VISUAL
from pipelines.core.stores import config, milvus
from pipelines.core.stores.config import (
    BUILD_PARAMETERS,
    LARGE_ROWS,
    ElasticConfig,
    MilvusConfig,
    StoresConfig,
    parameters,
)
from pipelines.core.stores.embedded import attach, stop
from pipelines.core.stores.milvus import MilvusStore
from pipelines.core.stores.milvus_errors import translated
from pipelines.core.stores.records import MAX_JSON_BYTES
from pipelines.ingest.backup import export_index, import_index

_NUMBER = itertools.count()


@contextmanager
def fresh_collection(uri: str) -> Iterator[MilvusStore]:
    with MilvusStore.open(MilvusConfig(uri=uri), f"c{next(_NUMBER)}", DIM) as store:
        yield store
        store._client.drop_collection(store._collection)


class TestMemory(VectorStoreContract):
    def new_store(self, server: object) -> MemoryVectorStore:
        return MemoryVectorStore(DIM)


class _Milvus(VectorStoreContract):
    mixed_types = False
    new_store = staticmethod(fresh_collection)

    def test_vectors_of_more_than_one_answer_come_back(
        self, server: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(milvus, "_KEYS_A_REQUEST", 7)
        with fresh_collection(server) as store:
            self.test_vectors_come_back_by_key_and_by_scan(store)
            assert len(store.vectors([part(f"d{n}").key for n in range(40)])) == 40

    def unreachable(self) -> MilvusStore:
        return MilvusStore.open(MilvusConfig(uri=f"http://127.0.0.1:{free_port()}"), "c", DIM)

    def test_k_is_bounded(self, server: str) -> None:
        with fresh_collection(server) as store:
            store.upsert([part("a")], np.ones((1, DIM), np.float32))
            store.flush()
            assert len(store.search(np.ones(DIM, np.float32), milvus.MAX_K)) == 1
            with pytest.raises(StoreError, match="answers 1 to"):
                store.search(np.ones(DIM, np.float32), milvus.MAX_K + 1)

    def test_another_dimension_is_refused(self, server: str) -> None:
        with fresh_collection(server) as store, pytest.raises(StoreError, match="8 dimensions, not 16"):
            MilvusStore.open(MilvusConfig(uri=server), store._collection, 16)

    def test_another_index_is_refused(self, server: str) -> None:
        with fresh_collection(server) as store, pytest.raises(StoreError, match="set index_type"):
            MilvusStore.open(MilvusConfig(uri=server, index_type="IVF_FLAT"), store._collection, DIM)

    def test_a_missing_collection_is_not_made_unasked(self, server: str) -> None:
        with pytest.raises(StoreError, match="mmrag ingest"):
            MilvusStore.open(MilvusConfig(uri=server), "nowhere", DIM, create=False)

    def test_whether_a_collection_is_there_is_told_without_making_it(self, server: str) -> None:
        with fresh_collection(server) as store:
            assert MilvusStore.exists(MilvusConfig(uri=server), store._collection)
        assert not MilvusStore.exists(MilvusConfig(uri=server), store._collection)

    def test_a_dropped_collection_is_gone_and_no_other(self, server: str) -> None:
        config = MilvusConfig(uri=server)
        with fresh_collection(server) as store:
            self.put(store, [part("a")])
            store.flush()
            later = f"{store._collection}_g1"
            with MilvusStore.open(config, later, DIM) as other:
                self.put(other, [part("a"), part("b")])
                other.flush()
            for _ in range(2):
                MilvusStore.drop(config, later)
                assert not MilvusStore.exists(config, later)
            assert store.count() == 1
            with MilvusStore.open(config, later, 2 * DIM) as again:  # of another encoder
                assert again.count() == 0
            MilvusStore.drop(config, later)

    def test_a_collection_of_no_known_index_is_taken_as_it_is(self, server: str) -> None:
        config = MilvusConfig(uri=server)
        with fresh_collection(server) as store:
            MilvusStore.open(config, store._collection, DIM, owner="/kb (1)").close()
            MilvusStore.drop(config, store._collection, "/kb (1)")
            assert not MilvusStore.exists(config, store._collection)

    def test_a_second_client_sees_what_was_flushed(self, server: str) -> None:
        with fresh_collection(server) as store:
            self.put(store, [part("a")])
            store.flush()
            with MilvusStore.open(MilvusConfig(uri=server), store._collection, DIM, create=False) as other:
                assert len(self.find(other, 5)) == 1

    def test_a_graph_is_searched_by_what_it_holds(self, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
        graph, name = MilvusConfig(uri=server, index_type="HNSW"), f"c{next(_NUMBER)}"
        small, large = (parameters("HNSW", rows)[1]["ef"] for rows in (20, LARGE_ROWS))
        with MilvusStore.open(graph, name, DIM) as store:
            self.put(store, [part(f"d{n}") for n in range(20)])
            store.flush()
        with MilvusStore.open(graph, name, DIM) as store:
            assert store._search_params(5)["ef"] == small
        monkeypatch.setattr(config, "LARGE_ROWS", 20)
        with MilvusStore.open(graph, name, DIM) as store:
            assert store._search_params(5)["ef"] == large
            store._client.drop_collection(name)

    def test_a_load_larger_than_a_message_is_split(self, server: str) -> None:
        rows, dim = 4_500, 4_096  # 70 MiB, more than a message of Milvus may have
        with MilvusStore.open(MilvusConfig(uri=server), f"c{next(_NUMBER)}", dim) as store:
            store.upsert([part(f"d{n}") for n in range(rows)], np.ones((rows, dim), np.float32))
            assert store.count() == rows
            store._client.drop_collection(store._collection)


@pytest.mark.slow
class TestMilvusLite(_Milvus):
    @pytest.fixture(scope="class")
    @classmethod
    def server(cls, milvus_lite_uri: str) -> str:
        return milvus_lite_uri


@pytest.mark.slow
class TestMilvusServer(_Milvus):
    @pytest.fixture(scope="class")
    @classmethod
    def server(cls, milvus_uri: str) -> str:
        return milvus_uri

    def test_the_bound_of_k_is_the_servers_own(self, server: str) -> None:
        with fresh_collection(server) as store, pytest.raises(MilvusException, match=str(milvus.MAX_K)):
            store._client.search(store._collection, [[1.0] * DIM], limit=milvus.MAX_K + 1)

    def test_anothers_collection_is_neither_opened_nor_dropped_nor_taken_for_ours(self, server: str) -> None:
        config, name = MilvusConfig(uri=server), f"c{next(_NUMBER)}"
        with MilvusStore.open(config, name, DIM, owner="/知识 (1)") as store:
            self.put(store, [part("a")])
            for stranger in ("/kb (2)", ""):
                with pytest.raises(OtherIndex, match=r"belongs to the index /知识 \(1\)"):
                    MilvusStore.open(config, name, DIM, owner=stranger)
                with pytest.raises(OtherIndex, match=r"set another stores\.milvus\.prefix"):
                    MilvusStore.drop(config, name, stranger)
                with pytest.raises(OtherIndex, match=r"set another stores\.milvus\.prefix"):
                    MilvusStore.exists(config, name, stranger)
            MilvusStore.open(config, name, DIM, owner="/知识 (1)").close()
            assert MilvusStore.exists(config, name, "/知识 (1)")
            assert store.count() == 1
        MilvusStore.drop(config, name, "/知识 (1)")
        assert not MilvusStore.exists(config, name)

    def test_metadata_of_as_many_bytes_as_we_allow_are_stored(self, server: str) -> None:
        with fresh_collection(server) as store:
            largest = part("a", **{f"{n:04x}": 1 for n in range(MAX_JSON_BYTES // 11)})
            self.put(store, [largest])
            assert store.fetch([largest.key]) == {largest.key: largest}

    def test_a_graph_is_built_for_what_is_expected(self, server: str) -> None:
        """milvus-lite does not tell what it built."""
        graph, large = MilvusConfig(uri=server, index_type="HNSW"), parameters("HNSW", LARGE_ROWS)[0]
        for rows, wanted in ((0, parameters("HNSW", 0)[0]), (LARGE_ROWS, large)):
            with MilvusStore.open(graph, f"c{next(_NUMBER)}", DIM, expected_rows=rows) as store:
                built = store._client.describe_index(store._collection, "vector")
                store._client.drop_collection(store._collection)
            assert {key: int(built[key]) for key in wanted} == wanted


@pytest.mark.parametrize(
    "settings",
    [
        {"index_type": "HNSW", "build": {"M": 1}},
        {"index_type": "HNSW", "search": {"nprobe": 8}},
        {"index_type": "FLAT", "build": {"M": 16}},
        {"index_type": "auto", "build": {"M": 16}},
        {"index_type": "DISKANN"},
        {"prefix": "has-dash"},
        {"uri": "index.db"},
        {"urk": "x"},
    ],
)
def test_wrong_settings_fail_before_anything_is_created(settings: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        MilvusConfig.model_validate({"uri": "http://127.0.0.1:19530"} | settings)


def test_a_graph_of_a_million_is_built_and_searched_with_more() -> None:
    small, large = parameters("HNSW", 999_999), parameters("HNSW", 1_000_000)
    for name, bounds in BUILD_PARAMETERS["HNSW"].items():
        assert bounds[0] <= small[0][name] < large[0][name] <= bounds[1]
    assert small[1]["ef"] < large[1]["ef"]
    assert parameters("FLAT", 10**9) == ({}, {})


def test_a_token_is_not_shown() -> None:
    assert "sesame" not in repr(MilvusConfig(uri="http://h:1", token="sesame"))  # type: ignore[arg-type]


@pytest.mark.slow
def test_an_index_moved_to_other_embedded_stores_answers_as_it_did(tmp_path: Path) -> None:
    with filled(tmp_path / "kb") as source, opened(tmp_path / "kb2") as other:
        export_index(source, str(tmp_path / "out"))
        import_index(other, str(tmp_path / "out"))
        assert answers(other) == answers(source)


@pytest.mark.slow
def test_an_export_makes_no_collection_where_one_was_lost(tmp_path: Path) -> None:
    def server() -> MilvusConfig:
        return MilvusConfig(uri=attach(tmp_path / "kb" / "vectors" / VISUAL))

    with filled(tmp_path / "kb"):
        MilvusStore.drop(server(), VISUAL)
    with opened(tmp_path / "kb") as index:
        with pytest.raises(StoreError, match=f"no collection {VISUAL}.*Nothing was exported"):
            export_index(index, str(tmp_path / "out"))
        assert not MilvusStore.exists(server(), VISUAL)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (MilvusException(503, "channel not available"), StoreUnavailable),
        (MilvusException(8, "request is rejected by rate limiter"), StoreUnavailable),
        (MilvusException(9, "quota exceeded[reason=memory quota exceeded]"), StoreUnavailable),
        (MilvusException(1, "service not ready", NotReadyServe), StoreUnavailable),
        (MilvusException(103, "collection not fully loaded"), StoreUnavailable),
        (MilvusException(106, "collection on recovering"), StoreUnavailable),
        (MilvusException(601, "segment not loaded", retriable=True), StoreUnavailable),
        (MilvusException(1100, "invalid parameter"), StoreError),
        (MilvusException(message="what pymilvus finds itself has code 1"), StoreError),
        (ParamError(message="no such parameter"), StoreError),
    ],
)
def test_what_passes_is_waited_for_and_a_bad_request_is_not(
    error: MilvusException, raised: type[Exception]
) -> None:
    with pytest.raises(StoreError) as caught, translated("http://127.0.0.1:1", "upsert"):
        raise error
    assert type(caught.value) is raised


@pytest.mark.slow
def test_an_index_moved_to_servers_answers_as_it_did(
    tmp_path: Path, milvus_uri: str, elastic_url: str
) -> None:
    servers = StoresConfig(
        milvus=MilvusConfig(uri=milvus_uri, prefix="moved_"), elastic=ElasticConfig(url=elastic_url)
    )
    with filled(tmp_path / "kb") as source, opened(tmp_path / "kb2", servers) as other:
        export_index(source, str(tmp_path / "out"))
        import_index(other, str(tmp_path / "out"))
        assert answers(other) == answers(source)
        export_index(other, str(tmp_path / "again"))
    for name in ("visual", "text"):
        before, after = (
            sorted(pq.read_table(folder / name).to_pylist(), key=lambda row: row["id"])
            for export in ("out", "again")
            for folder in (tmp_path / export).glob("data-*")
        )
        assert before == after


@pytest.mark.slow
def test_a_default_index_moves_to_servers_as_the_page_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, milvus_uri: str, elastic_url: str
) -> None:
    """With its settings and commands, but for the addresses."""
    monkeypatch.chdir(tmp_path)
    of_packaged_models(Path("kb"), [("rose", picture("red"), "a red rose", "")])
    found = blocks(DOCS / "how-to" / "scale-out.md")
    [at] = [n for n, block in enumerate(found) if "mmrag import" in block.text]
    settings = found[at - 1].text
    for address, server in zip(re.findall(r"https?://\S+", settings), (milvus_uri, elastic_url), strict=True):
        settings = settings.replace(address, server)
    Path("servers.yaml").write_text(settings)
    for program, *words in commands(found[at].text.replace("s3://backups/kb", "out")):
        assert program == "mmrag"
        moved = mmrag(*words)
        assert moved.status == 0, moved.err
    query = ("search", "a red rose", "--json")
    before, after = (
        mmrag(*query, "--index", "kb"),
        mmrag(*query, "--index", "kb-server", "--config", "servers.yaml"),
    )
    ids = [[hit["id"] for hit in json.loads(answer.out)["hits"]] for answer in (before, after)]
    assert ids[0] == ids[1] != []
    assert not Path("kb-server/vectors").exists()
    for server in Path("kb/vectors").glob("*"):
        stop(server)


@pytest.mark.slow
def test_two_indices_of_one_prefix_do_not_touch_each_other(
    tmp_path: Path, milvus_uri: str, elastic_url: str
) -> None:
    servers = StoresConfig(
        milvus=MilvusConfig(uri=milvus_uri, prefix="shared_"),
        elastic=ElasticConfig(url=elastic_url, prefix="shared-"),
    )
    with filled(tmp_path / "kb") as source:
        export_index(source, str(tmp_path / "out"))
    with opened(tmp_path / "one", servers) as one:
        import_index(one, str(tmp_path / "out"))
        expected = answers(one)
    with opened(tmp_path / "two", servers) as two, two.write_lock():
        two.create()
        for store in two.stores.values():
            with pytest.raises(OtherIndex, match=r"belongs to the index .*/one \(.*, not to .*/two \("):
                store()
        with pytest.raises(OtherIndex):
            two.drop(0)
    with opened(tmp_path / "three", servers) as three, pytest.raises(OtherIndex):
        import_index(three, str(tmp_path / "out"))
    with opened(tmp_path / "one", servers) as one:
        assert answers(one) == expected
        (tmp_path / "one" / IDENTITY).unlink()  # as after `rm -r` and a new ingest
        with one.write_lock(), pytest.raises(OtherIndex, match="if that index is no more"):
            one.drop(0)
