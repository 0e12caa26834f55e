"""The corpus of benchmarks/modalities.py: an answer stands where its kind says, and nowhere else."""

from __future__ import annotations

import json
import re

import pytest

from benchmarks.data import machines
from benchmarks.tiny_llava.fields import FIELDS
from benchmarks.tiny_llava.split import part_of
from pipelines.evaluate.questions import read_questions

MANY = 4
CODE = re.compile(r"[A-Z]{2}-\d{2,3}")


@pytest.fixture(scope="module")
def made() -> tuple[machines.Made, ...]:
    return machines.build(MANY)


def of(made: tuple[machines.Made, ...], kind: str) -> list[machines.Made]:
    return [one for one in made if one.asked.kind == kind]


def said(one: machines.Made) -> str:
    return " ".join(f"{page.text} {page.caption}" for page in one.pages)


def test_a_seed_gives_the_same_corpus_and_another_seed_another(made) -> None:
    assert machines.build(MANY) == made
    assert machines.build(MANY, seed=1) != made


def test_more_questions_leave_the_first_as_they_are(made) -> None:
    more = {one.asked.id: one for one in machines.build(MANY + 1)}
    assert all(more[one.asked.id].asked.text == one.asked.text for one in of(made, "text"))


def test_every_kind_is_asked_in_both_languages_and_no_id_or_machine_comes_twice(made) -> None:
    asked = [(one.asked.kind, one.asked.language) for one in made]
    assert all(
        asked.count((kind, language)) == MANY
        for kind in machines.KINDS_OF_QUESTION
        for language in machines.LANGUAGES
    )
    ids = [page.id for one in made for page in one.pages]
    assert len(set(ids)) == len(ids)
    codes = [set(CODE.findall(said(one))) for one in made]
    assert all(len(found) == 1 for found in codes)
    assert len(set.union(*codes)) == len(made)


def test_values_and_codes_are_new_to_tiny_llava(made) -> None:
    fields = {field.unit: [] for field in FIELDS}
    for field in FIELDS:
        fields[field.unit].append(field.key)
    for one in made:
        assert all(part_of("code", found) == "test" for found in CODE.findall(said(one)))
        if one.asked.kind not in ("scene", "none"):
            number, unit = one.asked.answers[0].split()
            assert any(part_of(key, number) == "test" for key in fields[unit])


@pytest.mark.parametrize("kind", ["text", "photo"])
def test_a_text_says_the_answer(made, kind) -> None:
    for one in of(made, kind):
        assert one.asked.answers[0] in one.pages[0].text
        assert one.asked.needed == {one.pages[0].id}


@pytest.mark.parametrize("kind", ["plate", "scene", "which"])
def test_no_text_says_what_only_a_picture_shows(made, kind) -> None:
    for one in of(made, kind):
        assert one.asked.answers[0] not in said(one)
        assert any(page.picture for page in one.pages)
        assert one.asked.needed == {page.id for page in one.pages}


def test_which_machine_is_meant_stands_in_another_document_than_its_plate(made) -> None:
    for one in of(made, "which"):
        text, plate = one.pages
        [code] = CODE.findall(text.text)
        assert not text.picture
        assert code in plate.caption
        assert code not in one.asked.text


def test_a_question_with_a_photograph_does_not_name_its_machine(made) -> None:
    for one in made:
        assert bool(one.asked.picture) == (one.asked.kind == "photo")
    for one in of(made, "photo"):
        assert not CODE.findall(one.asked.text)
        assert one.asked.picture != one.pages[0].picture


def test_an_unanswerable_question_names_a_machine_that_is_there_and_a_fact_that_no_text_tells(made) -> None:
    for one in of(made, "none"):
        assert not one.asked.answers
        assert not one.asked.needed
        assert set(CODE.findall(one.asked.text)) == set(CODE.findall(said(one)))
        asked_for = [field for field in FIELDS if field.label(one.asked.language) in one.asked.text]
        assert asked_for
        assert not any(field.label(one.asked.language) in one.pages[0].text for field in asked_for)


def test_the_plate_of_an_unanswerable_question_does_not_show_the_fact(monkeypatch) -> None:
    drawn = {}
    draw = machines.Draw.plate_of

    def watched(self, sheet):
        drawn[self.id] = {field.label(self.language) for field, _ in sheet.rows}
        return draw(self, sheet)

    monkeypatch.setattr(machines.Draw, "plate_of", watched)
    made = machines.build(MANY)
    shown = [one for one in made if one.asked.id in drawn]
    assert {one.asked.kind for one in shown} == {"plate", "which", "photo", "none"}
    for one in shown:
        on_plate = [label for label in drawn[one.asked.id] if label in one.asked.text]
        assert bool(on_plate) == (one.asked.kind in ("plate", "which"))


def test_the_files_hold_it_and_a_text_only_system_gets_no_picture_and_no_caption(made, tmp_path) -> None:
    folder = tmp_path / "corpus"
    machines.write(made, folder)
    texts, whole = (
        [json.loads(line) for line in (folder / name).read_text("utf-8").splitlines()]
        for name in ("texts.jsonl", "whole.jsonl")
    )
    assert all(set(row) == {"id", "text"} for row in texts)
    assert len(whole) == sum(len(one.pages) for one in made) > len(texts)
    assert all((folder / row["image"]).is_file() for row in whole if "image" in row)
    questions = read_questions(folder / "questions.jsonl", {})
    assert [one.id for one in questions] == [one.asked.id for one in made]
    assert [one.answers for one in questions] == [one.asked.answers for one in made]
    assert [one.image() or b"" for one in questions] == [one.asked.picture for one in made]
