"""The lexical contract on the fake, tantivy and Elasticsearch; then what is each one's own."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from memory_stores import MemoryLexicalStore
from pydantic import ValidationError
from servers import free_port, python
from shelf import part
from store_contract import LexicalStoreContract

from pipelines.core.errors import OtherIndex, StoreError, StoreLocked
from pipelines.core.stores.config import ElasticConfig
from pipelines.core.stores.elastic import ElasticStore
from pipelines.core.stores.tantivy import TantivyStore

_NUMBER = itertools.count()


class TestMemory(LexicalStoreContract):
    load_rows = 2_000

    def new_store(self, server: object) -> MemoryLexicalStore:
        return MemoryLexicalStore()


class TestTantivy(LexicalStoreContract):
    @contextmanager
    def new_store(self, server: object) -> Iterator[TantivyStore]:
        with (
            tempfile.TemporaryDirectory() as directory,
            TantivyStore.open(Path(directory) / "lexical", writable=True) as store,
        ):
            yield store

    def test_a_reader_sees_what_was_flushed_and_no_more(self, tmp_path: Path) -> None:
        with TantivyStore.open(tmp_path / "x", writable=True) as writer:
            writer.upsert([part("a")])
            writer.flush()
            reader = TantivyStore.open(tmp_path / "x", writable=False)
            writer.upsert([part("b")])
            assert self.ids(reader) == {"a#txt-0"}
            writer.flush()
            assert self.ids(reader) == {"a#txt-0", "b#txt-0"}
        with TantivyStore.open(tmp_path / "x", writable=True) as again:
            assert again.count() == 2

    def test_a_second_writer_is_refused(self, tmp_path: Path) -> None:
        first = TantivyStore.open(tmp_path / "x", writable=True)
        first.upsert([part("a")])
        second = TantivyStore.open(tmp_path / "x", writable=True)
        with pytest.raises(StoreLocked, match="another process is writing"):
            second.upsert([part("b")])
        first.close()
        second.upsert([part("b")])
        assert second.count() == 2
        second.close()

    @pytest.mark.parametrize("written", ["commit", "flush", "count"])
    def test_what_was_written_leaves_the_lock_to_others(self, tmp_path: Path, written: str) -> None:
        with (
            TantivyStore.open(tmp_path / "x", writable=True) as first,
            TantivyStore.open(tmp_path / "x", writable=True) as second,
        ):
            for name, store in (("a", first), ("b", second), ("c", first)):
                store.upsert([part(name)])
                getattr(store, written)()
            assert self.ids(first) == {"a#txt-0", "b#txt-0", "c#txt-0"}

    def test_a_killed_writer_loses_nothing_that_was_flushed(self, tmp_path: Path) -> None:
        code = (
            "import os, signal, sys; from pathlib import Path\n"
            "from pipelines.core.stores.tantivy import TantivyStore\n"
            "from pipelines.core.types import Part\n"
            f"store = TantivyStore.open(Path({str(tmp_path / 'x')!r}), writable=True)\n"
            "store.upsert([Part('a#txt-0', 'chunk', 'a', 's', 'common')]); store.flush()\n"
            "store.upsert([Part('b#txt-0', 'chunk', 'b', 's', 'common')])\n"
            "os.kill(os.getpid(), signal.SIGKILL)\n"
        )
        child = python("-c", code)
        child.communicate(timeout=60)
        assert child.returncode == -9
        with TantivyStore.open(tmp_path / "x", writable=True) as store:
            assert self.ids(store) == {"a#txt-0"}
            store.upsert([part("c")])
            assert store.count() == 2

    def test_reading_where_nothing_is_says_what_to_do(self, tmp_path: Path) -> None:
        with pytest.raises(StoreError, match="mmrag ingest"):
            TantivyStore.open(tmp_path / "nowhere", writable=False)
        assert not (tmp_path / "nowhere").exists()

    def test_a_reader_cannot_write(self, tmp_path: Path) -> None:
        TantivyStore.open(tmp_path, writable=True).close()
        with pytest.raises(StoreError, match="reading only"):
            TantivyStore.open(tmp_path, writable=False).upsert([part("a")])

    def test_nothing_is_printed(self, tmp_path: Path) -> None:
        code = "from pipelines.core.stores.words import words; print(words('孔距 Holes'))"
        assert python("-c", code).communicate(timeout=60) == ("['孔距', 'holes']\n", "")


@pytest.mark.slow
class TestElastic(LexicalStoreContract):
    load_rows = 1_000  # the stand-in scans every document

    @pytest.fixture(scope="class")
    @classmethod
    def server(cls, elastic_url: str) -> str:
        return elastic_url

    @contextmanager
    def new_store(self, server: str) -> Iterator[ElasticStore]:
        with ElasticStore.open(ElasticConfig(url=server, prefix="mm-"), f"i{next(_NUMBER)}") as store:
            yield store
            store._client.indices.delete(index=store._index)

    def unreachable(self) -> ElasticStore:
        return ElasticStore.open(ElasticConfig(url=f"http://127.0.0.1:{free_port()}"), "i")

    def test_a_missing_index_is_not_made_unasked(self, server: str) -> None:
        with pytest.raises(StoreError, match="mmrag ingest"):
            ElasticStore.open(ElasticConfig(url=server), "nowhere", create=False)

    def test_whether_an_index_is_there_is_told_without_making_it(self, server: str) -> None:
        with self.new_store(server) as store:
            assert ElasticStore.exists(ElasticConfig(url=server), store._index)
        assert not ElasticStore.exists(ElasticConfig(url=server), store._index)

    def test_a_dropped_index_is_gone_and_no_other(self, server: str) -> None:
        config = ElasticConfig(url=server)
        with self.new_store(server) as store:
            self.put(store, [part("a")])
            later = f"{store._index}_g1"
            with ElasticStore.open(config, later) as other:
                self.put(other, [part("b")])
            for _ in range(2):
                ElasticStore.drop(config, later)
                assert not ElasticStore.exists(config, later)
            assert store.count() == 1

    def test_an_index_of_no_known_knowledge_base_is_taken_as_it_is(self, server: str) -> None:
        config, name = ElasticConfig(url=server), f"i{next(_NUMBER)}"
        for owner in ("", "/kb (1)"):
            ElasticStore.open(config, name, owner=owner).close()
        ElasticStore.drop(config, name, "/kb (1)")
        assert not ElasticStore.exists(config, name)

    def test_anothers_index_is_neither_opened_nor_dropped_nor_taken_for_ours(self, server: str) -> None:
        config, name = ElasticConfig(url=server), f"i{next(_NUMBER)}"
        with ElasticStore.open(config, name, owner="/知识 (1)") as store:
            self.put(store, [part("a")])
            for stranger in ("/kb (2)", ""):
                with pytest.raises(OtherIndex, match=r"belongs to the index /知识 \(1\)"):
                    ElasticStore.open(config, name, owner=stranger)
                with pytest.raises(OtherIndex, match=r"set another stores\.elastic\.prefix"):
                    ElasticStore.drop(config, name, stranger)
                with pytest.raises(OtherIndex, match=r"set another stores\.elastic\.prefix"):
                    ElasticStore.exists(config, name, stranger)
            ElasticStore.open(config, name, owner="/知识 (1)").close()
            assert ElasticStore.exists(config, name, "/知识 (1)")
            assert store.count() == 1
        ElasticStore.drop(config, name, "/知识 (1)")
        assert not ElasticStore.exists(config, name)

    def test_an_index_of_someone_elses_is_left_alone(self, server: str) -> None:
        with self.new_store(server) as store:
            store._client.indices.create(index="theirs", mappings={"properties": {"text": {"type": "text"}}})
            with pytest.raises(StoreError, match="not mmrag's"):
                ElasticStore.open(ElasticConfig(url=server), "theirs")


@pytest.mark.parametrize(
    "settings",
    [
        {"username": "u"},
        {"api_key": "k", "username": "u", "password": "p"},
        {"prefix": "Upper"},
        {"ulr": "x"},
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, str]) -> None:
    with pytest.raises(ValidationError):
        ElasticConfig.model_validate({"url": "http://127.0.0.1:9200"} | settings)
