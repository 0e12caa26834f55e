"""The index directory: its manifest, its spaces and its lock."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
from pathlib import Path

import pytest
from fakes import ColourModel, WordEmbedder, files_of_at_most, memory_index, picture

from pipelines.core.encoder import Encoder
from pipelines.core.errors import IndexLocked, MmragError, SpaceMismatch, StoreError, UsageError
from pipelines.core.index import Index, IndexConfig
from pipelines.core.manifest import Manifest
from pipelines.core.readings import Reading, save_reading
from pipelines.core.retriever import Query, SearchConfig
from pipelines.core.types import Line, Part

CONTENT = "ab" * 32


def use(index: Index, encoder: Encoder) -> None:
    index.encoder = lambda: encoder  # type: ignore[assignment]


def test_creating_an_index_writes_both_spaces(tmp_path: Path) -> None:
    memory_index(tmp_path / "kb")
    body = json.loads((tmp_path / "kb" / "index.json").read_text())
    assert body["format"] == 1
    assert body["space"]["model"] == "colours"
    assert body["text_space"] == WordEmbedder().space.as_dict()
    assert body["metadata_types"] == {}


def test_the_manifest_survives_a_round_trip(tmp_path: Path) -> None:
    index = memory_index(tmp_path)
    index.with_metadata_types({"年": "number", "brand": "str"})
    manifest = index.manifest()
    assert manifest.metadata_types == {"年": "number", "brand": "str"}
    assert manifest.space == Encoder(ColourModel()).space.as_dict()
    assert index.check_spaces() == manifest


def test_a_store_that_is_missing_is_not_made_where_none_is_to_be(tmp_path: Path) -> None:
    memory_index(tmp_path)
    for store in ("visual", "text", "lexical"):
        with Index(tmp_path, IndexConfig(), writable=True) as index:
            index.makes_stores = False
            with pytest.raises(StoreError, match=r"no (vectors|lexical index) here"):
                index.stores[store]()
    assert not (tmp_path / "vectors").exists()
    assert not (tmp_path / "lexical").exists()
    with Index(tmp_path, IndexConfig(), writable=True) as index:
        assert index.lexical().count() == 0  # made
    with Index(tmp_path, IndexConfig(), writable=True) as index:
        index.makes_stores = False
        index.lexical().delete(["k"])  # written, for it is there


def test_creating_it_again_keeps_what_was_learnt(tmp_path: Path) -> None:
    memory_index(tmp_path).with_metadata_types({"year": "number"})
    assert memory_index(tmp_path).manifest().metadata_types == {"year": "number"}


def test_an_index_that_is_not_there_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no index at .*nowhere; make one with: mmrag ingest"):
        Index(tmp_path / "nowhere", IndexConfig()).manifest()


def test_an_index_of_another_format_is_refused(tmp_path: Path) -> None:
    memory_index(tmp_path)
    body = json.loads((tmp_path / "index.json").read_text())
    (tmp_path / "index.json").write_text(json.dumps(body | {"format": 3}))
    with pytest.raises(UsageError, match="format 3; this version reads 1 and 2"):
        Manifest.load(tmp_path)


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"format": 1}', "null"])
def test_a_damaged_manifest_is_named(tmp_path: Path, damage: str) -> None:
    (tmp_path / "index.json").write_text(damage)
    with pytest.raises(UsageError, match=r"index\.json is damaged"):
        Manifest.load(tmp_path)


def test_an_index_that_this_user_may_not_read_is_an_error_of_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """root reads everything: the refusal is the file system's own, played."""

    def refused(*_: object, **__: object) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_text", refused)
    with pytest.raises(UsageError, match=r"index\.json may not be read by this user"):
        Manifest.load(tmp_path)


def test_an_encoder_of_another_space_is_refused_and_the_difference_named(tmp_path: Path) -> None:
    memory_index(tmp_path)
    index = memory_index(tmp_path, create=False)
    use(index, Encoder(ColourModel(scales=(2, 8))))
    with pytest.raises(SpaceMismatch, match=r"scales: index \[2, 4\], config \[2, 8\]"):
        index.create()
    with index, pytest.raises(SpaceMismatch):
        index.retriever(SearchConfig()).search(Query("red"))


def test_a_cached_query_picture_does_not_hide_another_space(tmp_path: Path) -> None:
    memory_index(tmp_path)
    index = memory_index(tmp_path, create=False)
    other = Encoder(ColourModel(scales=(2, 8)))
    use(index, other)
    content = hashlib.sha256(picture("red")).hexdigest()
    index.cache(other.cache_key).put({content: other.encode_asked(picture("red"))[0]})
    with index, pytest.raises(SpaceMismatch):
        index.retriever(SearchConfig()).search(Query(image=picture("red")))


def test_another_dtype_reads_the_same_index(tmp_path: Path) -> None:
    memory_index(tmp_path)
    index = memory_index(tmp_path, create=False)
    model = ColourModel()
    model.dtype = "float16"
    use(index, Encoder(model))
    index.check_spaces()


def hold_lock(directory: Path, held: object, done: object) -> None:
    with Index(directory, IndexConfig()).write_lock():
        held.set()  # type: ignore[attr-defined]
        done.wait(60)  # type: ignore[attr-defined]


def test_one_process_writes_at_a_time(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    held, done = context.Event(), context.Event()
    other = context.Process(target=hold_lock, args=(tmp_path, held, done))
    other.start()
    try:
        assert held.wait(60)
        with pytest.raises(IndexLocked, match="being written by another process"):
            memory_index(tmp_path)
    finally:
        done.set()
        other.join(60)
    memory_index(tmp_path)  # free again


def test_the_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    held, done = context.Event(), context.Event()
    other = context.Process(target=hold_lock, args=(tmp_path, held, done))
    other.start()
    assert held.wait(60)
    other.kill()
    other.join(60)
    memory_index(tmp_path)


def test_the_lock_ends_with_its_block_also_after_an_error(tmp_path: Path) -> None:
    index = memory_index(tmp_path)
    with pytest.raises(RuntimeError), index.write_lock():
        raise RuntimeError
    with index.write_lock(), pytest.raises(IndexLocked), Index(tmp_path, IndexConfig()).write_lock():
        pass


def test_a_full_disk_is_told_while_the_lock_is_held(tmp_path: Path) -> None:
    index = memory_index(tmp_path)
    types = {f"field {n}": "text" for n in range(200)}
    full = pytest.raises(MmragError, match=r"index\.json: File too large; make room there")
    with full, index.write_lock(), files_of_at_most(1000):
        index.with_metadata_types(types)
    assert index.manifest().metadata_types == {}


def test_a_file_is_no_index_directory(tmp_path: Path) -> None:
    (tmp_path / "kb").write_text("")
    with pytest.raises(UsageError, match="is a file; name a directory"):
        memory_index(tmp_path / "kb")


def test_a_picture_is_named_by_its_preview(tmp_path: Path) -> None:
    part = Part("d#img-0", "image", "d", "/d.png", content="ab" * 32)
    uri = memory_index(tmp_path).image_uri(part)
    assert uri == f"file://{tmp_path}/previews/ab/{'ab' * 32}.jpg"


def test_an_index_knows_the_lines_that_were_read_in_a_picture(tmp_path: Path) -> None:
    index = memory_index(tmp_path)
    line = Line("380 V", (1.0, 2.0, 3.5, 4.0), 0.93)
    save_reading(index.readings, CONTENT, Reading("fake 1", (line,)))
    assert index.lines(Part("d#img-0", "image", "d", "/d.png", content=CONTENT)) == (line,)
    assert index.lines(Part("e#img-0", "image", "e", "/e.png", content="cd" * 32)) == ()
