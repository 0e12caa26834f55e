"""The vector cache: one file, many processes."""

from __future__ import annotations

import multiprocessing
import pickle
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from pipelines.core.cache import VectorCache
from pipelines.core.errors import StoreError, StoreUnavailable


def vector(n: int) -> np.ndarray:
    return np.array([n, n + 0.5], dtype=np.float32)


@pytest.fixture(params=[False, True], ids=["one machine", "shared"])
def cache(request: pytest.FixtureRequest, tmp_path: Path) -> VectorCache:
    return VectorCache(tmp_path / "cache" / "vectors.sqlite", "space/float32", shared=request.param)


def write_range(cache: VectorCache, start: int, stop: int) -> None:
    for n in range(start, stop):
        cache.put({f"content-{n}": vector(n)})


def test_what_was_put_is_got_bit_for_bit(cache: VectorCache) -> None:
    cache.put({"a": vector(1), "b": vector(2)})
    found = cache.get(["a", "b", "missing", "a"])
    assert found.keys() == {"a", "b"}
    assert found["a"].tobytes() == vector(1).tobytes()
    assert found["a"].dtype == np.float32


def test_what_machines_share_has_no_journal_in_ones_memory(cache: VectorCache, tmp_path: Path) -> None:
    cache.put({"a": vector(1)})
    cache.close()
    shared = VectorCache(tmp_path / "cache" / "vectors.sqlite", "space/float32", shared=True)
    for opened in (shared, pickle.loads(pickle.dumps(shared))):
        opened.put({"b": vector(2)})
        assert opened.get(["a", "b"]).keys() == {"a", "b"}
        with sqlite3.connect(tmp_path / "cache" / "vectors.sqlite") as db:
            assert db.execute("PRAGMA journal_mode").fetchone() == ("delete",)
    assert sorted(file.name for file in (tmp_path / "cache").iterdir()) == ["vectors.sqlite"]


def test_a_cache_that_is_not_there_is_empty(cache: VectorCache) -> None:
    assert cache.get(["a"]) == {}
    assert cache.get([]) == {}


def test_another_fingerprint_misses(cache: VectorCache, tmp_path: Path) -> None:
    cache.put({"a": vector(1)})
    other = VectorCache(tmp_path / "cache" / "vectors.sqlite", "space/bfloat16")
    assert other.get(["a"]) == {}
    other.put({"a": vector(9)})
    assert cache.get(["a"])["a"].tolist() == vector(1).tolist()


def test_an_entry_that_is_there_stays(cache: VectorCache) -> None:
    cache.put({"a": vector(1)})
    cache.put({"a": vector(2)})
    assert cache.get(["a"])["a"].tolist() == vector(1).tolist()


def test_more_keys_than_sqlite_takes_at_once(cache: VectorCache) -> None:
    cache.put({str(n): vector(n) for n in range(1200)})
    found = cache.get(str(n) for n in range(2400))
    assert len(found) == 1200
    assert found["1199"].tolist() == [1199, 1199.5]


def test_a_pickled_cache_opens_the_same_file(cache: VectorCache) -> None:
    cache.put({"a": vector(1)})
    copy = pickle.loads(pickle.dumps(cache))
    assert copy.fingerprint == "space/float32"
    assert copy.get(["a"])["a"].tolist() == vector(1).tolist()


def test_two_processes_write_at_once_and_nothing_is_lost(cache: VectorCache) -> None:
    context = multiprocessing.get_context("spawn")
    ranges = [(0, 150), (100, 250)]  # fifty of them in both
    writers = [context.Process(target=write_range, args=(cache, *r)) for r in ranges]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    assert [writer.exitcode for writer in writers] == [0, 0]
    found = cache.get(f"content-{n}" for n in range(250))
    assert {key: v.tolist() for key, v in found.items()} == {f"content-{n}": [n, n + 0.5] for n in range(250)}


def test_many_may_make_one_file_at_the_same_moment(tmp_path: Path) -> None:
    writers = 6
    for turn in range(20):
        start = threading.Barrier(writers)

        def write(n: int, path: Path = tmp_path / f"{turn}.sqlite", start: threading.Barrier = start) -> None:
            mine = VectorCache(path, "space/float32")  # a connection of its own, as in another process
            start.wait()
            mine.put({str(n): vector(n)})
            mine.close()

        with ThreadPoolExecutor(writers) as pool:
            list(pool.map(write, range(writers)))
        found = VectorCache(tmp_path / f"{turn}.sqlite", "space/float32").get(map(str, range(writers)))
        assert len(found) == writers


def test_threads_share_one_cache(cache: VectorCache) -> None:
    threads = [threading.Thread(target=write_range, args=(cache, 50 * n, 50 * n + 50)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(cache.get(f"content-{n}" for n in range(200))) == 200


def test_a_damaged_file_is_named_with_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "vectors.sqlite"
    path.write_bytes(b"this is no database, whatever its name says " * 20)
    with pytest.raises(StoreError, match=r"vectors\.sqlite: the cache failed .*may be deleted"):
        VectorCache(path, "space").get(["a"])


@pytest.mark.parametrize("is_pickled", [False, True])
def test_a_cache_that_others_keep_locked_is_waited_for_and_then_unavailable(
    tmp_path: Path, is_pickled: bool
) -> None:
    path = tmp_path / "vectors.sqlite"
    cache = VectorCache(path, "space", shared=True, timeout_s=0.2)
    cache.put({"a": vector(1)})
    if is_pickled:
        cache = pickle.loads(pickle.dumps(cache))
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(StoreUnavailable, match=r"vectors\.sqlite: others kept the cache locked for 0\.2 s"):
        cache.put({"b": vector(2)})
    threading.Timer(0.05, lambda: other.execute("COMMIT")).start()
    cache.put({"b": vector(2)})
    assert cache.get("ab").keys() == {"a", "b"}
