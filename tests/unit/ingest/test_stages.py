"""The stages of ingestion, one batch at a time, without Ray."""

from __future__ import annotations

import hashlib
import json
import tarfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fakes import ColourModel, Recorded, WordEmbedder, files_of_at_most, photograph, picture, png
from PIL import Image

from pipelines.core import images
from pipelines.core.cache import VectorCache
from pipelines.core.encoder import Encoder
from pipelines.core.errors import MmragError
from pipelines.core.previews import preview_path
from pipelines.core.types import Part, store_key
from pipelines.ingest import perceptual_hash
from pipelines.ingest.chunk import ChunkConfig
from pipelines.ingest.hashing import document_digest
from pipelines.ingest.in_hand import KILLS, InHand
from pipelines.ingest.listed import ITEMS
from pipelines.ingest.rows import DOCUMENT, SCHEMA, part_row, row_part, table
from pipelines.ingest.sources import AWAY, UNAVAILABLE, Item, SourceConfig, list_items
from pipelines.ingest.stages import CheckParts, Encode, LoadPictures, ParseItems, split_pixels

SCALES = (2, 4)
LOCAL = SourceConfig()
MANY = [f"{n:04x}" for n in range(6_000)]
"""Names of metadata that alone are few enough bytes, but not as Milvus is sent them."""


class Machine:
    """The stages over one folder, with their caches."""

    def __init__(self, root: Path) -> None:
        self.root, self.model, self.embedder = root, ColourModel(SCALES), WordEmbedder()
        encoder = Encoder(self.model)
        self.image_cache = VectorCache(root / "cache.sqlite", "images")
        self.text_cache = VectorCache(root / "cache.sqlite", "texts")
        self.signs = VectorCache(root / "cache.sqlite", perceptual_hash.RULES)
        kept = root / "previews", root / "readings"
        self.load = LoadPictures(SCALES, self.image_cache, self.signs, *kept, 1 << 20)
        self.encode = Encode(lambda: encoder, lambda: self.embedder, self.image_cache, self.text_cache)
        self.folder = root / "corpus"
        self.folder.mkdir()

    def parse(self, *listed: Any, config: SourceConfig = LOCAL) -> pa.Table:
        items = listed or tuple(list_items([str(self.folder)], config))
        rows = [asdict(i) for i in items if isinstance(i, Item)]
        return ParseItems(config, ChunkConfig())(pa.Table.from_pylist(rows, schema=ITEMS))

    def run(self) -> list[dict[str, Any]]:
        return self.encode(self.load(self.parse())).to_pylist()


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def by_id(rows: Any) -> dict[str, dict[str, Any]]:
    return {row["id"]: row for row in (rows.to_pylist() if isinstance(rows, pa.Table) else rows)}


def vector(row: dict[str, Any]) -> np.ndarray:
    return np.frombuffer(row["vector"], np.float32)


def image_row(address: str = "/x.png", **fields: Any) -> dict[str, Any]:
    return part_row(Part("d#img-0", "image", "d", address), address=address) | fields


# Rows.


def test_a_part_survives_its_row_and_arrow() -> None:
    part = Part("d#txt-0", "chunk", "d", "/d", "文", "c", ("d#img-0",), {"year": 2020, "ok": True}, "acme")
    [row] = table([part_row(part)]).to_pylist()
    assert row_part(row) == part
    assert row["key"] == part.key


# Parsing.


def test_a_picture_with_text_beside_it_becomes_an_image_a_chunk_and_a_document(machine: Machine) -> None:
    (machine.folder / "rose.png").write_bytes(picture("red"))
    (machine.folder / "rose.txt").write_text("A red rose.")
    rows = by_id(machine.parse())
    document = rows.pop("corpus/rose.png")
    assert {name: row["kind"] for name, row in rows.items()} == {
        "corpus/rose.png#img-0": "image",
        "corpus/rose.png#txt-0": "chunk",
    }
    assert rows["corpus/rose.png#txt-0"]["image_ids"] == ["corpus/rose.png#img-0"]
    assert rows["corpus/rose.png#img-0"]["address"] == str(machine.folder / "rose.png")
    assert (document["kind"], document["num_parts"]) == (DOCUMENT, 2)
    assert document["key"] == document["document_key"] == store_key("", "corpus/rose.png")
    assert {row["document_key"] for row in rows.values()} == {document["document_key"]}


def test_the_digest_of_a_document_is_what_the_next_plan_computes(machine: Machine) -> None:
    (machine.folder / "rose.png").write_bytes(picture("red"))
    [item] = list_items([str(machine.folder)], SourceConfig())
    document = by_id(machine.parse())["corpus/rose.png"]
    assert isinstance(item, Item)
    assert document["digest"] == document_digest(item, document["inputs"])


def test_a_text_that_cannot_be_read_is_one_refused_row(machine: Machine) -> None:
    (machine.folder / "bad.txt").write_bytes(b"\xff\xfe\x00broken \x81\x00\xd8" * 3)
    refused, document = machine.parse().to_pylist()
    assert refused["stage"] == "parse"
    assert "bad.txt" in refused["reason"]
    assert document["num_parts"] == 1
    assert document["digest"]


def test_what_a_document_lacks_is_an_input_that_may_come_back(machine: Machine) -> None:
    (machine.folder / "page.html").write_text('<p>See <img src="missing.png"> here, a picture.</p>')
    document = by_id(machine.parse())["corpus/page.html"]
    assert str(machine.folder / "missing.png") in document["inputs"]


def test_a_refused_picture_of_a_row_is_a_part_of_its_document(machine: Machine) -> None:
    (machine.folder / "ok.png").write_bytes(picture("red"))
    manifest = machine.root / "corpus" / "all.jsonl"
    manifest.write_text(json.dumps({"id": "d", "images": ["ok.png", "gone.png"], "text": "red"}))
    rows = by_id(machine.parse(*list_items([str(manifest)], SourceConfig())))
    assert rows["d"]["num_parts"] == 3
    [refused] = [row for row in rows.values() if row["reason"]]
    assert refused["document_id"] == "d"
    assert "gone.png" in refused["reason"]


def test_every_part_has_its_own_key(machine: Machine) -> None:
    manifest = machine.root / "all.jsonl"
    missing = [f"gone-{n}.png" for n in range(3)]
    manifest.write_text(json.dumps({"id": "d", "images": missing, "text": "some text"}))
    rows = machine.parse(*list_items([str(manifest)], SourceConfig())).to_pylist()
    assert len({row["key"] for row in rows}) == len(rows) == 3 + 1 + 1


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("d.jsonl", '{"id": "d", "images": ["bad.png", "disk/a.png", "./disk/a.png", "b.png"], "text": "x"}'),
        ("d.html", '<p>x</p><img src=bad.png><img src=disk/a.png alt="An a."><p>y</p><img src=b.png>'),
    ],
)
def test_others_keep_the_place_behind_a_picture_that_is_away(machine: Machine, name: str, form: str) -> None:
    disk = machine.folder / "disk"
    disk.mkdir()
    for file, data in (("bad.png", b"no"), ("disk/a.png", picture("red")), ("b.png", picture("blue"))):
        (machine.folder / file).write_bytes(data)
    (machine.folder / name).write_text(form)

    def read() -> list[dict[str, Any]]:
        return machine.load(machine.parse(*list_items([str(machine.folder / name)], LOCAL))).to_pylist()

    whole = read()
    disk.rename(machine.root / "away")
    left = read()
    assert [row["stage"] for row in whole[:3]] == ["decode", None, None]
    assert [row["stage"] for row in left[:3]] == ["decode", AWAY, None]
    compared = ("key", "kind", "id", "source", "text", "image_ids", "num_parts")
    assert [[row[name] for name in compared] for row in whole] == [
        [row[name] for name in compared] for row in left
    ]
    assert left[2]["content"] == whole[2]["content"]


# Checks before anything is computed.


def checked(types: dict[str, str], **fields: Any) -> dict[str, Any]:
    part = Part(
        **{"id": "d#txt-0", "kind": "chunk", "document_id": "d", "source": "/d", "text": "t"} | fields
    )
    [row] = CheckParts(types)(table([part_row(part)])).to_pylist()
    return row


def test_metadata_of_another_type_refuses_the_part() -> None:
    row = checked({"year": "number"}, metadata={"year": "new"})
    assert (row["stage"], row["reason"]) == (
        "metadata",
        "year is a str here ('new') but a number in the index",
    )


def test_metadata_of_the_right_type_passes() -> None:
    assert checked({"year": "number"}, metadata={"year": 2020})["reason"] is None


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"metadata": {"note": "x" * 9000}}, "metadata 'note' has 9000 bytes"),
        ({"metadata": dict.fromkeys(MANY, 1)}, "metadata has 66001 bytes"),
        ({"source": "/" + "x" * 9000}, "source has 9001 bytes"),
        ({"text": "字" * 30_000}, "text has 90000 bytes"),
    ],
)
def test_a_part_that_no_store_could_keep_is_refused_alone(fields: dict[str, Any], named: str) -> None:
    types = {"note": "str"} | dict.fromkeys(MANY, "number")
    row = checked(types, **fields)
    assert row["stage"] == "store"
    assert named in row["reason"]


def test_a_document_row_has_its_place_in_the_listing(machine: Machine) -> None:
    (machine.folder / "note.txt").write_text("The hole spacing is 48 mm.")
    [item] = list_items([str(machine.folder)], LOCAL)
    listed = pa.Table.from_pylist([asdict(item) | {"place": 7}], schema=ITEMS)
    rows = ParseItems(LOCAL, ChunkConfig())(listed).to_pylist()
    assert [row["place"] for row in rows if row["kind"] == DOCUMENT] == [7]


def test_a_document_row_is_never_refused() -> None:
    document = part_row(Part("d", "chunk", "d", "/d", metadata={"year": "new"})) | {"kind": DOCUMENT}
    [row] = CheckParts({"year": "number"})(table([document])).to_pylist()
    assert row["reason"] is None


# Pictures.


def test_a_picture_is_loaded_as_its_pyramid_and_a_preview(machine: Machine) -> None:
    data = picture("green")
    (machine.folder / "leaf.png").write_bytes(data)
    row = by_id(machine.load(machine.parse()))["corpus/leaf.png#img-0"]
    content = hashlib.sha256(data).hexdigest()
    assert row["content"] == content
    small, large = split_pixels(row["pixels"], SCALES)
    assert (small.shape, large.shape) == ((2, 2, 3), (4, 4, 3))
    assert small[0, 0].tolist() == large[3, 3].tolist() == [0, 255, 0]
    preview = images.decode(preview_path(machine.root / "previews", content).read_bytes())
    assert preview.image.size == (8, 8)


@pytest.mark.parametrize(
    ("data", "stage"), [(b"", "read"), (b"PK\3\4zip", "decode"), (picture("red")[:60], "decode")]
)
def test_a_bad_picture_is_refused_by_name(machine: Machine, data: bytes, stage: str) -> None:
    path = machine.folder / "bad.jpg"
    path.write_bytes(data)
    [row] = machine.load(table([image_row(str(path))])).to_pylist()
    assert row["stage"] == stage
    assert "bad.jpg" in row["reason"]
    assert row["pixels"] is None


def test_a_picture_that_vanished_is_refused_by_name(machine: Machine) -> None:
    stages = []
    for _ in range(2):
        [row] = machine.load(table([image_row(str(machine.folder / "gone.png"))])).to_pylist()
        assert "gone.png" in row["reason"]
        stages.append(row["stage"])
        (machine.folder / "other.png").write_bytes(picture("blue"))
    assert stages == [UNAVAILABLE, "read"]  # with all of its folder, in this very run, or alone


def test_of_a_document_that_is_held_only_what_is_refused_goes_on() -> None:
    rows = [image_row("/a.png"), image_row("/b.png", stage=AWAY, reason="gone"), image_row("/c.png")]
    held, other = rows[0]["document_key"], {**rows[2], "document_key": "other"}
    left = CheckParts({}, {held})(table([*rows[:2], other])).to_pylist()
    assert [row["address"] for row in left] == ["/b.png", "/c.png"]


def test_a_stage_leaves_rows_alone_that_an_earlier_one_refused(machine: Machine) -> None:
    refused = image_row("/gone.png", stage="metadata", reason="no")
    [row] = machine.encode(machine.load(table([refused]))).to_pylist()
    assert (row["stage"], row["reason"], row["vector"]) == ("metadata", "no", None)


def test_a_picture_that_kills_its_readers_is_refused(machine: Machine) -> None:
    for name in ("a.png", "b.png"):
        (machine.folder / name).write_bytes(picture("blue"))
    address = str(machine.folder / "a.png")
    notes = machine.root / "notes"
    notes.mkdir()
    for number in range(KILLS):
        (notes / f"host.{number}").write_text(address)
    machine.load._in_hand = InHand(notes)
    rows = by_id(machine.load(machine.parse()))
    bad, good = rows["corpus/a.png#img-0"], rows["corpus/b.png#img-0"]
    assert (bad["stage"], good["stage"]) == ("read", None)
    assert bad["reason"].startswith(f"{address}: {KILLS} processes died over it")
    assert len(list(notes.iterdir())) == KILLS


def test_a_disk_that_takes_no_preview_is_told_by_the_preview(machine: Machine) -> None:
    (machine.folder / "a.png").write_bytes(png(Image.effect_noise((800, 800), 100)))
    rows = machine.parse()
    wanted = r"previews/\w\w/\w+\.jpg: File too large; make room"
    with pytest.raises(MmragError, match=wanted), files_of_at_most(50_000):
        machine.load(rows)


def test_a_picture_whose_vector_is_cached_is_not_decoded_but_gets_its_preview(machine: Machine) -> None:
    data = picture("blue")
    content = hashlib.sha256(data).hexdigest()
    machine.image_cache.put({content: np.ones(6, np.float32)})
    (machine.folder / "sea.png").write_bytes(data)
    row = by_id(machine.load(machine.parse()))["corpus/sea.png#img-0"]
    assert vector(row).tolist() == [1] * 6
    assert row["pixels"] is None
    assert preview_path(machine.root / "previews", content).exists()


def test_a_pictures_perceptual_hash_is_that_of_its_pixels_and_cached(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = photograph(1, 64)
    (machine.folder / "it.png").write_bytes(png(image))
    small = images.resize_squashed(images.decode(png(image)), perceptual_hash.SIDE)
    wanted = perceptual_hash.packed(perceptual_hash.signs(small))
    first = by_id(machine.run())["corpus/it.png#img-0"]
    monkeypatch.setattr(perceptual_hash, "signs", None)  # is not computed again
    second = by_id(machine.load(machine.parse()))["corpus/it.png#img-0"]
    assert (first["perceptual"], second["perceptual"]) == (wanted, wanted)
    assert second["pixels"] is None


# Vectors.


def test_pictures_and_chunks_get_the_vectors_of_their_models(machine: Machine) -> None:
    (machine.folder / "rose.png").write_bytes(picture("red"))
    (machine.folder / "rose.txt").write_text("A red rose.")
    rows = by_id(machine.run())
    np.testing.assert_allclose(
        vector(rows["corpus/rose.png#img-0"]), np.array([1, 0, 0, 1, 0, 0]) / np.sqrt(2), atol=1e-5
    )
    [expected] = machine.embedder.embed_passages(["A red rose."])
    np.testing.assert_array_equal(vector(rows["corpus/rose.png#txt-0"]), expected)
    assert rows["corpus/rose.png"]["vector"] is None


def test_the_pixels_end_with_the_encoder(machine: Machine) -> None:
    (machine.folder / "rose.png").write_bytes(picture("red"))
    assert {row["pixels"] for row in machine.run()} == {None}


def test_the_same_picture_twice_is_encoded_and_counted_once(machine: Machine) -> None:
    for name in ("one", "two"):
        (machine.folder / f"{name}.png").write_bytes(picture("red"))
    rows = [row for row in machine.run() if row["kind"] == "image"]
    assert machine.model.pictures_seen == 1
    assert len({row["vector"] for row in rows}) == 1
    assert [row["encoded"] for row in rows].count(True) == 1


def test_a_second_run_encodes_nothing(machine: Machine) -> None:
    (machine.folder / "rose.png").write_bytes(picture("red"))
    (machine.folder / "rose.txt").write_text("A red rose.")
    first = machine.run()
    second = machine.run()
    assert (machine.model.pictures_seen, machine.embedder.texts_seen) == (1, 1)
    assert [row["vector"] for row in first] == [row["vector"] for row in second]
    assert not any(row["encoded"] for row in second)


def test_a_vector_that_is_not_finite_refuses_its_row_and_no_other(machine: Machine) -> None:
    (machine.folder / "a.png").write_bytes(picture("red"))
    (machine.folder / "b.png").write_bytes(picture("green"))
    machine.model.is_broken = True  # the first picture of each batch
    rows = by_id(machine.run())
    assert rows["corpus/a.png#img-0"]["stage"] == "encode"
    assert "not finite" in rows["corpus/a.png#img-0"]["reason"]
    assert np.isfinite(vector(rows["corpus/b.png#img-0"])).all()
    machine.model.is_broken = False
    assert np.isfinite(vector(by_id(machine.run())["corpus/a.png#img-0"])).all()  # it was not cached


def test_a_batch_is_timed_where_something_of_it_is_new(machine: Machine) -> None:
    (machine.folder / "a.png").write_bytes(picture("red"))
    record, encoder = Recorded(), Encoder(machine.model)
    machine.encode = Encode(
        lambda: encoder, lambda: machine.embedder, machine.image_cache, machine.text_cache, record
    )
    machine.run()
    machine.run()  # from the cache
    [(key, seconds)] = record.timed
    assert key == ("mmrag_ingest_encode_seconds",)
    assert 0 < seconds < 60


def test_models_load_once_however_many_batches_come(machine: Machine) -> None:
    loaded = []

    def load(model: Any) -> Any:
        loaded.append(model)
        return model

    encoder = Encoder(machine.model)
    machine.encode = Encode(
        lambda: load(encoder), lambda: load(machine.embedder), machine.image_cache, machine.text_cache
    )
    for colour in ("red", "green", "blue"):
        (machine.folder / f"{colour}.png").write_bytes(picture(colour))
        (machine.folder / f"{colour}.txt").write_text(colour)
        machine.run()
    assert loaded == [encoder, machine.embedder]


def test_models_load_only_when_a_row_needs_them(machine: Machine) -> None:
    def never() -> Any:
        raise AssertionError("loaded")

    encode = Encode(never, never, machine.image_cache, machine.text_cache)
    refused = image_row(stage="read", reason="gone")
    assert encode(table([refused])).schema == SCHEMA


# Pictures inside other files.


def test_pictures_inside_files_are_loaded_as_from_a_folder(machine: Machine) -> None:
    plain = machine.folder / "rose.png"
    plain.write_bytes(picture("red"))
    shard, parquet = machine.root / "s.tar", machine.root / "p.parquet"
    with tarfile.open(shard, "w") as archive:
        archive.add(plain, "rose.png")
    pq.write_table(pa.table({"id": ["p"], "image": [{"bytes": picture("red"), "path": "r.png"}]}), parquet)
    sources = [str(source) for source in (plain, shard, parquet)]
    loaded = machine.load(machine.parse(*list_items(sources, SourceConfig()))).to_pylist()
    images_ = [row for row in loaded if row["kind"] == "image"]
    assert [row["reason"] for row in images_] == [None, None, None]
    assert len({row["content"] for row in images_}) == 1
    assert len({row["pixels"] for row in images_}) == 1


def test_sources_in_an_object_store_become_what_they_are_on_disk(machine: Machine) -> None:
    shard, parquet, rows = (machine.root / name for name in ("s.tar", "p.parquet", "m.jsonl"))
    (machine.folder / "rose.png").write_bytes(picture("red"))
    (machine.folder / "rose.txt").write_text("A red rose")
    with tarfile.open(shard, "w") as archive:
        archive.add(machine.folder / "rose.png", "in-tar.png")
    held = [{"bytes": picture("red"), "path": "r.png"}]
    pq.write_table(pa.table({"id": ["in-parquet"], "image": held}), parquet)
    rows.write_text(json.dumps({"id": "in-rows", "image": "corpus/rose.png", "text": "A row"}))
    here = [str(source) for source in (machine.folder, shard, parquet, rows)]
    store = fsspec.filesystem("memory")
    store.put(str(machine.root), f"/bucket{machine.root}", recursive=True)
    config = SourceConfig(allowed_addresses=("fsspec+memory://bucket/",))

    def ingested(sources: list[str]) -> list[dict[str, Any]]:
        parsed = machine.parse(*list_items(sources, config), config=config)
        return machine.encode(machine.load(parsed)).to_pylist()

    there = ingested([f"fsspec+memory://bucket{source}" for source in here])
    store.rm("/bucket", recursive=True)
    kept = ("id", "kind", "text", "content", "vector", "reason", "image_ids")
    assert [[row[name] for name in kept] for row in there] == [
        [row[name] for name in kept] for row in ingested(here)
    ]
    assert [row["reason"] for row in there] == [None] * 10  # four documents, as many pictures, two texts
    assert {row["source"].split(":")[0] for row in there} == {"fsspec+memory"}


def test_a_damaged_picture_inside_a_file_is_one_refused_row(machine: Machine) -> None:
    parquet = machine.root / "p.parquet"
    held = [{"bytes": data, "path": None} for data in (b"no picture", None, picture("red"))]
    pq.write_table(pa.table({"id": ["a", "b", "c"], "image": held, "text": ["t"] * 3}), parquet)
    loaded = by_id(machine.load(machine.parse(*list_items([str(parquet)], SourceConfig()))))
    assert (loaded["a#img-0"]["stage"], loaded["b#img-0"]["stage"]) == ("decode", "read")
    assert "p.parquet#cell=1+0: not a picture: text" in loaded["a#img-0"]["reason"]
    assert loaded["c#img-0"]["reason"] is None


def test_a_document_depends_on_its_own_picture_of_a_shard_and_a_pdf_on_its_file(machine: Machine) -> None:
    shard, document = machine.root / "s.tar", machine.root / "d.pdf"
    (machine.folder / "rose.png").write_bytes(picture("red"))
    with tarfile.open(shard, "w") as archive:
        archive.add(machine.folder / "rose.png", "rose.png")
    Image.new("RGB", (60, 40), "red").save(document)
    rows = by_id(machine.parse(*list_items([str(shard), str(document)], SourceConfig())))
    size = (machine.folder / "rose.png").stat().st_size
    rose = f"{machine.root.name}/s.tar/rose"
    [span] = rows[rose]["inputs"]
    assert span.startswith(f"{shard}#bytes=")
    assert span.endswith(f"+{size}")
    [pdf] = [row for row in rows.values() if row["kind"] == DOCUMENT and row["id"] != rose]
    assert pdf["inputs"] == [str(document)]
    [page] = [row for row in rows.values() if row["kind"] == "image" and row["document_id"] == pdf["id"]]
    assert page["address"] == page["source"] == f"{document}#page=1"
    assert machine.load(table([page])).to_pylist()[0]["reason"] is None
