"""The example corpus: deterministic, complete, and silent in text about what only its drawings show."""

from __future__ import annotations

import json
import re
import unicodedata
from pathlib import Path

import pytest

from pipelines.core.errors import MissingDependency
from pipelines.core.images import decode
from pipelines.demo import QUESTIONS, build, photographs
from pipelines.demo.canvas import glyphs, text_width, wrap
from pipelines.demo.products import PRODUCTS

Row = dict[str, object]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("corpus")).parent


@pytest.fixture(scope="module")
def rows(corpus: Path) -> dict[str, Row]:
    lines = (corpus / "manifest.jsonl").read_text("utf-8").splitlines()
    parsed = [json.loads(line) for line in lines]
    assert len({row["id"] for row in parsed}) == len(parsed)
    return {row["id"]: row for row in parsed}


def test_the_same_seed_gives_the_same_bytes(corpus: Path, tmp_path: Path) -> None:
    build(tmp_path)

    def content(folder: Path) -> dict[str, bytes]:
        return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}

    assert content(tmp_path) == content(corpus)


def test_every_picture_exists_and_decodes(corpus: Path, rows: dict[str, Row]) -> None:
    assert 45 <= len(rows) <= 60
    for row in rows.values():
        assert decode((corpus / str(row["image"])).read_bytes()).width >= 100


def test_metadata_is_flat_and_each_field_has_one_type(rows: dict[str, Row]) -> None:
    types: dict[str, type] = {}
    for row in rows.values():
        for name, value in row["metadata"].items():  # type: ignore[attr-defined]
            assert isinstance(value, str | int | float | bool)
            assert types.setdefault(name, type(value)) is type(value)


def test_some_pictures_have_no_text_at_all_and_all_languages_occur(rows: dict[str, Row]) -> None:
    silent = [row["id"] for row in rows.values() if "text" not in row and "caption" not in row]
    assert {"photo-chelsea", "photo-coffee"} <= set(silent)
    langs = {row["metadata"]["lang"] for row in rows.values()}  # type: ignore[index]
    assert langs == {"en", "zh", "en+zh", "none"}


@pytest.mark.parametrize("product", PRODUCTS, ids=lambda product: product.id)
def test_only_the_drawing_shows_hole_spacing_and_sockets(product, rows: dict[str, Row]) -> None:
    row = rows[product.document_id]
    words = f"{row['text']} {row['caption']} {row['metadata']}".casefold()
    numbers = set(re.findall(r"\d+(?:\.\d+)?", words))
    for pattern in product.patterns:
        assert pattern.fits.casefold() not in words
        assert not numbers & {f"{pattern.across_mm:g}", f"{pattern.down_mm:g}"}
    assert not re.search(r"lga|\bam[45]\b|vesa", words)


def test_expected_documents_and_query_pictures_exist(corpus: Path, rows: dict[str, Row]) -> None:
    assert len({question.id for question in QUESTIONS}) == len(QUESTIONS)
    for question in QUESTIONS:
        assert question.text or question.image
        assert question.expected
        assert set(question.expected) <= set(rows)
        if question.image:
            asked = (corpus / question.image).read_bytes()
            assert all(asked != (corpus / str(row["image"])).read_bytes() for row in rows.values())


def test_the_fonts_have_every_character_of_the_corpus(rows: dict[str, Row]) -> None:
    shown = json.dumps(list(rows.values()), ensure_ascii=False)
    shown += "".join(question.text + question.shows for question in QUESTIONS)
    chinese = {char for char in shown if unicodedata.east_asian_width(char) in "WF"}
    assert sorted(chinese - glyphs("print")) == []


def test_lines_break_at_spaces_and_between_chinese_characters() -> None:
    assert wrap("one two", 20, text_width("one", 20) + 1) == ["one", "two"]
    assert wrap("散热器", 20, 41) == ["散热", "器"]


def test_without_scikit_image_the_message_names_the_extra(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(photographs, "find_spec", lambda name: None)
    with pytest.raises(MissingDependency, match=r"'\.\[demo\]'"):
        build(tmp_path)
