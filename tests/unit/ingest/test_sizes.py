"""Bytes on disk by part of an index, added up by hand."""

from __future__ import annotations

from pathlib import Path

from pipelines.ingest.sizes import bytes_by_part


def write(path: Path, size: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * size)


def test_each_part_has_what_is_below_it_in_every_generation(tmp_path: Path) -> None:
    for n, name in enumerate(
        [
            "vectors/visual_knowledge/data/a",
            "vectors/text_knowledge_g1/data/a",
            "lexical/a",
            "lexical_g1/a",
            "cache/vectors.sqlite",
            "previews/ab/abc.jpg",
            "ocr/ab/abc.json",
            "ledger/buckets.json",
            "generations/1/ledger/buckets.json",
            "generations/1/runs/r/acks/1.parquet",
            "index.json",
            "mine.txt",
        ]
    ):
        write(tmp_path / name, 2**n)
    sizes = bytes_by_part(tmp_path)
    assert {name: size for name, size in sizes.items() if size} == {
        "vectors": 1 + 2,
        "lexical": 4 + 8,
        "cache": 16,
        "previews": 32,
        "readings": 64,
        "ledger": 128 + 256,
        "runs": 512,
        "other": 1024 + 2048,
    }
    assert sizes["captions"] == sizes["rejected"] == 0


def test_links_are_not_followed(tmp_path: Path) -> None:
    write(tmp_path / "elsewhere" / "large", 10_000)
    (tmp_path / "kb").mkdir()
    (tmp_path / "kb" / "previews").symlink_to(tmp_path / "elsewhere")
    assert sum(bytes_by_part(tmp_path / "kb").values()) < 1000


def test_what_is_not_there_has_no_size(tmp_path: Path) -> None:
    assert set(bytes_by_part(tmp_path / "nowhere").values()) == {0}
