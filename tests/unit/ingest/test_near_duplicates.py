"""Perceptual hashes, and which pictures of an index are alike by them."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from bombs import encoded
from fakes import photograph
from PIL import Image, ImageEnhance

from pipelines.core import images
from pipelines.core.near_duplicates import FILE as REPORT
from pipelines.core.near_duplicates import load_likeness
from pipelines.core.types import store_key
from pipelines.ingest import near_duplicates
from pipelines.ingest.ledger import SCHEMA, Ledger
from pipelines.ingest.near_duplicates import (
    Alike,
    drop_stale_report,
    first_alike,
    pictures_of,
    read_report,
    remember,
    standing_report,
    write_report,
)
from pipelines.ingest.perceptual_hash import SIDE, packed, signs
from pipelines.ingest.rows import DOCUMENT


def hash_of(image: Image.Image, form: str = "PNG", **options: Any) -> int | None:
    picture = images.decode(encoded(image, form, **options))
    return packed(signs(images.resize_squashed(picture, SIDE)))


def distance(a: int | None, b: int | None) -> int:
    assert a is not None
    assert b is not None
    return (a ^ b).bit_count()


@pytest.mark.parametrize("seed", range(5))
def test_the_same_picture_saved_otherwise_is_near(seed: int) -> None:
    image = photograph(seed, 256)
    original = hash_of(image)
    assert distance(original, hash_of(image, "JPEG", quality=40)) <= 4
    assert distance(original, hash_of(image.resize((150, 170)), "WEBP")) <= 4
    assert distance(original, hash_of(ImageEnhance.Brightness(image).enhance(0.9))) <= 4


def test_other_pictures_are_far() -> None:
    hashes = [hash_of(photograph(seed, 128)) for seed in range(20)]
    assert min(distance(a, b) for n, a in enumerate(hashes) for b in hashes[:n]) > 12


def test_the_signs_are_those_of_the_lowest_frequencies() -> None:
    """Of a picture that is a sum of waves, 1 to 8 half periods down and across, half of them upside down."""
    wanted = np.random.default_rng(0).permutation([1, -1] * 32).reshape(8, 8)
    waves = np.cos(np.pi / SIDE * np.outer(np.arange(1, 9), np.arange(SIDE) + 0.5))  # (8, 32)
    grey = (128 + 1.5 * waves.T @ wanted @ waves).round().astype(np.uint8)
    assert signs(np.repeat(grey[..., None], 3, axis=2)).reshape(8, 8).tolist() == wanted.tolist()


@pytest.mark.parametrize("tone", [0, 128, 255])
def test_a_picture_without_structure_has_no_hash(tone: int) -> None:
    assert hash_of(Image.new("RGB", (60, 40), (tone, tone, 10))) is None


def flipped(value: int, *bits: int) -> int:
    for bit in bits:
        value ^= 1 << bit
    return value


def test_each_hash_is_like_the_first_within_the_distance() -> None:
    a = 0x0123456789ABCDEF
    hashes = [a, flipped(a, 0, 20, 40, 63), flipped(a, 0, 20, 40, 62, 63), a, ~a & (2**64 - 1)]
    assert first_alike(np.array(hashes, np.uint64), 4).tolist() == [0, 0, 2, 0, 4]
    assert first_alike(np.array(hashes, np.uint64), 5).tolist() == [0, 0, 0, 0, 4]
    assert first_alike(np.array(hashes, np.uint64), 0).tolist() == [0, 1, 2, 0, 4]
    assert first_alike(np.array([], np.uint64), 4).tolist() == []


@pytest.mark.parametrize("max_bits", [0, 1, 3, 4, 8])
def test_bands_find_what_comparing_all_finds(max_bits: int) -> None:
    random = np.random.default_rng(max_bits)
    seeds = random.integers(0, 2**64, 40, np.uint64)
    hashes = [int(seeds[random.integers(40)]) for _ in range(400)]
    hashes = [flipped(h, *random.integers(0, 64, random.integers(0, 7)).tolist()) for h in hashes]
    firsts: dict[int, int] = {}
    for n, value in enumerate(hashes):
        near = [m for m in firsts.values() if (hashes[m] ^ value).bit_count() <= max_bits and firsts[m] == m]
        firsts[n] = min(near, default=n)
    assert first_alike(np.array(hashes, np.uint64), max_bits).tolist() == list(firsts.values())


def test_many_hashes_cost_little() -> None:
    hashes = np.random.default_rng(0).integers(0, 2**64, 200_000, np.uint64)
    hashes[100_000:101_000] = hashes[:1000] ^ np.uint64(0b101)
    start = time.process_time()
    like = first_alike(hashes, 4)
    assert time.process_time() - start < 10
    assert like[100_000:101_000].tolist() == list(range(1000))


def test_pages_that_hardly_differ_are_not_all_compared(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    alike = np.arange(64, dtype=np.uint64) << np.uint64(58)  # all but their first 6 bits are the same
    assert len(set(first_alike(alike, 4).tolist())) < 4
    assert not caplog.messages
    monkeypatch.setattr(near_duplicates, "_MOST_COMPARED", 5)
    assert (first_alike(alike, 4) != np.arange(64)).sum() > 32
    assert any("not all were compared" in message for message in caplog.messages)


def acks(*pictures: tuple[str, str, int | None], tenant: str = "") -> pa.Table:
    """Of documents with one picture each: id, content and hash."""
    rows = [
        {
            "document_key": store_key(tenant, name),
            "document_id": name,
            "tenant": tenant,
            "id": f"{name}#img-0",
            "kind": kind,
            "content": content,
            "perceptual": value,
            "reason": "bad" if content == "bad" else None,
        }
        for name, content, value in pictures
        for kind in ("image", DOCUMENT)
    ]
    types = {"perceptual": pa.uint64()}
    return pa.table({c: pa.array([r[c] for r in rows], types.get(c, pa.string())) for c in rows[0]})


def ledger_of(home: Path, *tables: pa.Table) -> Ledger:
    keys = {key for table in tables for key in table["document_key"].to_pylist()}
    rows = pa.Table.from_pylist([{"document_key": key} for key in sorted(keys)], schema=SCHEMA)
    return Ledger(home).changed(rows)


def keep(home: Path, acks: pa.Table, ledger: Ledger) -> None:
    remember(home, pictures_of(acks), acks["document_key"], ledger)


def report(home: Path) -> list[tuple[str, str, int, bool]]:
    rows = pq.read_table(home / REPORT).to_pylist()
    return [(row["picture"], row["like"], row["distance"], row["is_same_file"]) for row in rows]


def test_same_files_and_near_pictures_are_told_apart(tmp_path: Path) -> None:
    first = acks(("a", "A", 0b0), ("b", "B", 0b11), ("c", "A", 0b0), ("far", "F", 2**32 - 1), ("x", "bad", 0))
    keep(tmp_path, first, ledger_of(tmp_path, first))
    assert write_report(tmp_path, ledger_of(tmp_path, first), 4) == Alike(same=1, near=1)
    assert report(tmp_path) == [("b#img-0", "a#img-0", 2, False), ("c#img-0", "a#img-0", 0, True)]
    assert read_report(tmp_path) == Alike(same=1, near=1)
    key = {name: store_key("", f"{name}#img-0") for name in "abc"}
    assert load_likeness(tmp_path).first_of == {key["b"]: key["a"], key["c"]: key["a"]}


def test_pictures_without_structure_are_alike_only_as_files(tmp_path: Path) -> None:
    blank = acks(("a", "A", None), ("b", "B", None), ("c", "A", None))
    keep(tmp_path, blank, ledger_of(tmp_path, blank))
    assert write_report(tmp_path, ledger_of(tmp_path, blank), 4) == Alike(same=1, near=0)


def test_pictures_of_two_tenants_are_never_alike(tmp_path: Path) -> None:
    ours, theirs = acks(("a", "A", 0), tenant="us"), acks(("b", "A", 0), tenant="them")
    keep(tmp_path, pa.concat_tables([ours, theirs]), ledger_of(tmp_path, ours, theirs))
    assert write_report(tmp_path, ledger_of(tmp_path, ours, theirs), 4) == Alike(0, 0)


def test_a_later_run_replaces_a_document_and_what_was_deleted_does_not_count(tmp_path: Path) -> None:
    first = acks(("a", "A", 0), ("b", "B", 1), ("c", "C", 3))
    keep(tmp_path, first, ledger_of(tmp_path, first))
    assert write_report(tmp_path, ledger_of(tmp_path, first), 4).near == 2
    changed = acks(("b", "new", 2**40 - 1))
    keep(tmp_path, changed, ledger_of(tmp_path, first))
    assert write_report(tmp_path, ledger_of(tmp_path, first), 4).near == 1
    without_a = ledger_of(tmp_path, first).changed(gone=[store_key("", "a")])
    assert write_report(tmp_path, without_a, 4) == Alike(0, 0)


def test_an_index_without_pictures_has_an_empty_report(tmp_path: Path) -> None:
    assert read_report(tmp_path) is None
    nothing = load_likeness(tmp_path)
    assert (nothing.first_of, nothing.stands(tmp_path)) == ({}, True)
    assert write_report(tmp_path, ledger_of(tmp_path), 4) == Alike(0, 0)
    assert not nothing.stands(tmp_path)


def test_the_report_of_a_ledger_that_did_not_change_is_read_and_not_made_again(tmp_path: Path) -> None:
    first = acks(("a", "A", 0b0), ("b", "B", 0b11))
    keep(tmp_path, first, ledger_of(tmp_path, first))
    ledger = ledger_of(tmp_path, first)
    assert write_report(tmp_path, ledger, 4) == Alike(same=0, near=1)
    (tmp_path / near_duplicates.PICTURES).unlink()  # with it goes what a report is made of
    assert write_report(tmp_path, Ledger.load(tmp_path), 4) == Alike(same=0, near=1)
    assert write_report(tmp_path, ledger, 3) == Alike(0, 0)  # other bits, another report


def test_a_change_of_the_ledger_makes_another_report(tmp_path: Path) -> None:
    first = acks(("a", "A", 0b0), ("b", "B", 0b11))
    keep(tmp_path, first, ledger_of(tmp_path, first))
    assert write_report(tmp_path, ledger_of(tmp_path, first), 4).near == 1
    pruned = Ledger.load(tmp_path).changed(gone=[store_key("", "b")])
    assert write_report(tmp_path, pruned, 4) == Alike(0, 0)


def test_a_report_of_another_ledger_is_dropped_where_none_is_made(tmp_path: Path) -> None:
    """Else a picture that was replaced meanwhile would stay hidden behind what the old one looked like."""
    first = acks(("a", "A", 0b0), ("b", "B", 0b11))
    keep(tmp_path, first, ledger_of(tmp_path, first))
    ledger = ledger_of(tmp_path, first)
    write_report(tmp_path, ledger, 4)
    drop_stale_report(tmp_path, ledger, 4)
    assert len(load_likeness(tmp_path).first_of) == 1
    again = acks(("b", "another", 2**40 - 1))
    keep(tmp_path, again, ledger)
    drop_stale_report(tmp_path, ledger_of(tmp_path, again), 4)
    assert (load_likeness(tmp_path).first_of, read_report(tmp_path)) == ({}, None)
    drop_stale_report(tmp_path, ledger, 4)  # there is none


def cut(whole: bytes) -> bytes:
    return whole[: len(whole) // 2]


def without_footer(whole: bytes) -> bytes:
    """As a power cut leaves it."""
    return whole[:-64] + bytes(64)


def with_other_pages(whole: bytes) -> bytes:
    """The footer is sound, and says of what the report was made."""
    end = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    return whole[:4] + b"\xff" * (end - 4) + whole[end:]


def of_other_columns(whole: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"n": [1]}), sink)
    return sink.getvalue().to_pybytes()


@pytest.mark.parametrize("damage", [cut, without_footer, with_other_pages, of_other_columns])
def test_a_damaged_report_is_as_none_until_it_is_written_anew(
    tmp_path: Path, damage: Callable[[bytes], bytes], caplog: pytest.LogCaptureFixture
) -> None:
    first = acks(("a", "A", 0b0), ("b", "B", 0b11))
    keep(tmp_path, first, ledger_of(tmp_path, first))
    ledger = ledger_of(tmp_path, first)
    write_report(tmp_path, ledger, 4)
    (tmp_path / REPORT).write_bytes(damage((tmp_path / REPORT).read_bytes()))
    looks: tuple[Callable[[], Any], ...] = (
        lambda: read_report(tmp_path),
        lambda: load_likeness(tmp_path).first_of,
        lambda: list(standing_report(tmp_path, ledger)),
    )
    for look in looks:
        assert not look()
        [told] = caplog.messages
        assert told.startswith(f"{tmp_path / REPORT} is damaged")
        assert "near_duplicates=report writes it anew" in told
        caplog.clear()
    assert load_likeness(tmp_path).stands(tmp_path)  # which is not looked at again
    assert write_report(tmp_path, ledger, 4) == Alike(same=0, near=1)
    assert len(load_likeness(tmp_path).first_of) == 1


@pytest.mark.parametrize("column", ["tenant", "picture", "like", "is_same_file"])
def test_a_report_of_which_one_column_is_damaged_is_written_anew(tmp_path: Path, column: str) -> None:
    first = acks(("a", "A", 0b0), ("b", "B", 0b11))
    keep(tmp_path, first, ledger_of(tmp_path, first))
    ledger = ledger_of(tmp_path, first)
    write_report(tmp_path, ledger, 4)
    described = pq.read_metadata(tmp_path / REPORT).row_group(0)
    [chunk] = [
        one for one in map(described.column, range(described.num_columns)) if one.path_in_schema == column
    ]
    start = chunk.dictionary_page_offset or chunk.data_page_offset
    whole = bytearray((tmp_path / REPORT).read_bytes())
    whole[start : start + chunk.total_compressed_size] = b"\xff" * chunk.total_compressed_size
    (tmp_path / REPORT).write_bytes(whole)
    assert write_report(tmp_path, ledger, 4) == Alike(same=0, near=1)
    assert len(load_likeness(tmp_path).first_of) == 1
    assert read_report(tmp_path) == Alike(same=0, near=1)


def test_a_report_whose_footer_is_damaged_is_dropped_where_none_is_made(tmp_path: Path) -> None:
    first = acks(("a", "A", 0b0))
    write_report(tmp_path, ledger_of(tmp_path, first), 4)
    whole = (tmp_path / REPORT).read_bytes()
    start = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    (tmp_path / REPORT).write_bytes(whole[:start] + b"\xff" * 8 + whole[start + 8 :])
    drop_stale_report(tmp_path, ledger_of(tmp_path, first), 4)
    assert not (tmp_path / REPORT).exists()


def test_a_disk_that_fails_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    write_report(tmp_path, ledger_of(tmp_path), 4)
    monkeypatch.setattr(pq, "read_table", broken)
    with pytest.raises(OSError, match="Input/output error"):
        read_report(tmp_path)


@pytest.mark.parametrize("content", [b"", b"no Parquet"])
def test_a_report_that_cannot_be_read_is_made_again(tmp_path: Path, content: bytes) -> None:
    first = acks(("a", "A", 0b0), ("b", "B", 0b11))
    keep(tmp_path, first, ledger_of(tmp_path, first))
    (tmp_path / REPORT).write_bytes(content)
    assert write_report(tmp_path, ledger_of(tmp_path, first), 4).near == 1
