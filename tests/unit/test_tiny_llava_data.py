"""The data of tiny-llava: nothing that is tested is trained on, and its rows are what training reads."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from benchmarks.tiny_llava import easy_vqa, evidence, make, pages, shapes, sheet_talk, sheets, split
from benchmarks.tiny_llava.fields import FIELDS, KINDS, READ, code, name
from benchmarks.tiny_llava.model import FRAME, SIDE
from pipelines.core.grounding import in_bounds, parse_boxes
from pipelines.core.prompts import NO_ANSWER
from pipelines.demo.canvas import glyphs
from pipelines.train.conversations import Sample, read_conversations
from pipelines.train.llava_config import LlavaTraining

ROWS = 30
PHRASES = (
    READ, evidence.ASK, sheet_talk.MODEL, sheet_talk.KIND, sheet_talk.WHERE, sheet_talk.DESCRIBE,
    shapes.HOW_MANY, shapes.COLOUR_OF, shapes.IS_THERE, shapes.DESCRIBE,
)  # fmt: skip
PRODUCT = {"en": r"the (\w+ (?:[A-Z]{2}-\d+|[A-Z]\w+))", "zh": r"：(?:请问|读出)?(.+?)[的有]"}
PARTS: tuple[split.Part, ...] = ("train", "test")


def test_a_text_is_always_on_the_same_side() -> None:
    assert [split.part_of("speed", text) for text in ("1500", "1501")] == [
        split.part_of("speed", text) for text in ("1500", "1501")
    ]
    held = sum(split.part_of("speed", str(number)) == "test" for number in range(10_000))
    assert 1800 < held < 2200


@pytest.mark.parametrize("field", FIELDS, ids=lambda field: field.key)
def test_a_field_has_numbers_of_both_sides_and_none_of_both(field) -> None:
    rng = split.generator("t")
    train, test = ({field.value(rng, part) for _ in range(200)} for part in PARTS)
    assert train
    assert test
    assert not train & test


def test_codes_and_names_are_disjoint() -> None:
    rng = split.generator("t")
    for draw in (code, lambda rng, part: name(rng, part, "en"), lambda rng, part: name(rng, part, "zh")):
        train, test = ({draw(rng, part) for _ in range(500)} for part in PARTS)
        assert not train & test


def test_phrasings_of_the_test_are_new_but_their_words_are_not() -> None:
    known = {"en": set(), "zh": set()}
    for asked in PHRASES:
        for language, phrases in asked.items():
            assert not set(phrases.train) & set(phrases.test)
            assert phrases.test
            known[language] |= {word for phrase in phrases.train for word in _words(phrase)}
    for asked in PHRASES:
        for language, phrases in asked.items():
            for phrase in phrases.test:
                assert set(_words(phrase)) <= known[language], phrase


def test_new_layouts_are_not_trained_on() -> None:
    assert not set(sheets.TRAINED_LAYOUTS) & set(sheets.NEW_LAYOUTS)


def test_scenes_of_the_test_are_new() -> None:
    rng = split.generator("t")
    train, test = (
        {" ".join(sorted(one.name("en") for one in shapes.scene(rng, part)[1])) for _ in range(150)}
        for part in PARTS
    )
    assert not train & test


def test_every_chinese_word_can_be_drawn() -> None:
    words = "".join([*(field.zh for field in FIELDS), *(chinese for _, chinese in KINDS), "："])
    assert set(words) <= glyphs("print")


@pytest.mark.parametrize("layout", sheets.TRAINED_LAYOUTS + sheets.NEW_LAYOUTS)
@pytest.mark.parametrize("language", ["en", "zh"])
def test_all_of_a_sheet_is_inside_it(layout, language) -> None:
    for number in range(20):
        rng = split.generator(layout, language, number)
        sheet = sheets.random_sheet(rng, "train", language)
        drawn = sheets.draw(sheet, layout, rng)
        assert set(drawn.boxes) == {"drawing", "title", *(field.key for field, _ in sheet.rows)}
        for box in drawn.boxes.values():
            assert in_bounds(box, *drawn.image.size)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_an_answer_stands_in_the_evidence_that_it_cites(language) -> None:
    for number in range(100):
        first, *more = evidence.asked(split.generator(language, number), "train", language, [True] * 3)
        for asked in (first, *more):
            value, cited = re.fullmatch(r".+(?:是| is )(.+) \[(\d)\]", asked.answer).groups()
            [text] = [line for line in first.question.splitlines() if line.startswith(f"[{cited}]")]
            assert value in text


@pytest.mark.parametrize("language", ["en", "zh"])
def test_an_unanswerable_question_names_what_no_evidence_tells(language) -> None:
    """No text holds both the product and the field that are asked for."""
    for number in range(100):
        [asked] = evidence.asked(split.generator(language, number), "test", language, [False])
        assert asked.answer == NO_ANSWER[language]
        *lines, question = asked.question.splitlines()
        field = next(field.label(language) for field in FIELDS if field.key == asked.topic)
        product = re.search(
            r"the (\w+ (?:[A-Z]{2}-\d+|[A-Z]\w+))" if language == "en" else r"：(?:请问|读出)?(.+?)[的有]",
            question,
        )
        assert product
        for text in lines[1:]:
            assert not (product[1] in text and field in text.replace(product[1], "")), asked.question


@pytest.mark.parametrize("task", sorted(make.TRAINED))
def test_training_rows_are_read_without_a_complaint(task, tmp_path) -> None:
    rows = [make.TRAINED[task](0, "train", tmp_path, number) for number in range(ROWS)]
    assert rows == [make.TRAINED[task](0, "train", tmp_path, number) for number in range(ROWS)]
    for sample in _read(tmp_path, rows):
        for turn in sample.turns:
            assert turn.text.count("[[") == len(parse_boxes(turn.text))


@pytest.mark.parametrize("task", sorted(make.held_out_tasks()))
def test_held_out_rows_are_one_question_each(task, tmp_path) -> None:
    rows = [make.held_out_tasks()[task](0, tmp_path, number) for number in range(3)]
    assert all(len(sample.turns) == 2 for sample in _read(tmp_path, rows))


def test_a_page_tells_the_box_of_what_is_in_a_patch() -> None:
    """A patch lies in its box's rows and columns, and words with characters have one."""
    for number in range(40):
        picture, characters, boxes = pages.page(split.generator("page", number))
        assert picture.shape == (SIDE, SIDE, 3)
        held = boxes[:, 0] != pages.NOTHING
        assert held.any()
        assert held[characters[:, 0] > 0].all()
        assert (boxes[held] >= 0).all()
        assert (boxes[held] < FRAME.units).all()
        patch = FRAME.units / pages.ACROSS
        for place, (x0, y0, x1, y1) in zip(held.nonzero()[0], boxes[held], strict=True):
            row, column = divmod(place, pages.ACROSS)
            assert x0 < (column + 1) * patch
            assert x1 > column * patch - 1
            assert y0 < (row + 1) * patch
            assert y1 > row * patch - 1


def test_a_shape_is_told_as_its_form_and_colour() -> None:
    for number in range(20):
        _, signs, boxes = pages._scene(split.generator("page", number))
        held = boxes[:, 0] != pages.NOTHING
        assert held.any()
        told = {tuple(pages.SIGNS[place - 1] for place in patch if place) for patch in signs[held]}
        assert all(form in pages.FORMS and hue in pages.HUES for form, hue in told)
        assert len(told) <= len({tuple(box) for box in boxes[held]})
        assert not signs[~held].any()


def test_a_page_has_no_number_that_is_held_out() -> None:
    """Where a unit is one field's alone, the field that the number belongs to is known."""
    units = [field.unit for field in FIELDS]
    alone = {field.unit: field.key for field in FIELDS if units.count(field.unit) == 1}
    rng = split.generator("page")
    words = [pages._word(rng).split(" ") for _ in range(2000)]
    numbers = [(alone[word[1]], word[0]) for word in words if len(word) == 2 and word[1] in alone]
    assert len(numbers) > 500
    assert {split.part_of(key, number) for key, number in numbers} == {"train"}


def test_easy_vqa_keeps_its_split(tmp_path) -> None:
    for part in PARTS:
        folder = tmp_path / "data" / part
        (folder / "images").mkdir(parents=True)
        (folder / "images" / "0.png").write_bytes(b"a picture")
        questions = [[f"question {number}?", "yes", 0] for number in range(7)]
        (folder / "questions.json").write_text(json.dumps(questions), "utf-8")
    train, test = (
        easy_vqa.conversations(tmp_path / "data", tmp_path, part, split.generator("t")) for part in PARTS
    )
    assert [len(one["conversations"]) for one in train] == [10, 4]
    assert [len(one["conversations"]) for one in test] == [2] * 7
    assert all((tmp_path / one["image"]).exists() for one in train + test)


@pytest.mark.parametrize("run", ["text", "language", "whole", "last"])
def test_training_counts_boxes_as_the_model_does(run) -> None:
    settings = yaml.safe_load((Path(make.__file__).parent / f"training-{run}.yaml").read_text("utf-8"))
    assert LlavaTraining.model_validate(settings["train"]["llava"]).frame == FRAME


def _words(phrase: str) -> list[str]:
    """English words; Chinese characters one by one, apart from what is put in."""
    plain = re.sub(r"\{\w+\}", " ", phrase).lower()
    return re.findall(r"[a-z]+|[\u4e00-\u9fff]", plain)


def _read(folder: Path, rows: list[dict]) -> list[Sample]:
    file = folder / "rows.jsonl"
    make.write(file, rows)
    read = list(read_conversations(file))
    assert all(isinstance(one, Sample) for one in read), read
    return read
