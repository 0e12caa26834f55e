"""Boxes: found in text, moved between a picture's pixels and the model's square, drawn."""

from __future__ import annotations

from importlib.resources import files

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFont
from pydantic import ValidationError

from pipelines.core import grounding
from pipelines.core.grounding import (
    Frame,
    FrameConfig,
    convert_boxes,
    draw_boxes,
    format_boxes,
    in_bounds,
    iou,
    parse_boxes,
)
from pipelines.core.images import Picture, fit_square

CHINESE = files("pipelines.demo") / "fonts" / "NotoSansSC-subset.otf"

# --- frames


def test_squash_stretches_each_axis_over_all_units():
    frame = Frame(200, 50, "squash", units=1001)
    assert frame.to_frame((0, 0, 200, 50)) == (0, 0, 1000, 1000)
    assert frame.to_frame((50, 10, 100, 25)) == (250, 200, 500, 500)


def test_pad_centres_the_short_side():
    # 200 x 50 in a square of 200: 75 pixels above and below
    frame = Frame(200, 50, "pad", units=1001)
    assert frame.to_frame((0, 0, 200, 50)) == (0, 375, 1000, 625)
    assert Frame(50, 200, "pad", units=1001).to_frame((0, 0, 50, 200)) == (375, 0, 625, 1000)


def test_a_square_picture_lies_the_same_either_way():
    box = (3, 5, 70, 90)
    assert Frame(100, 100, "pad").to_frame(box) == Frame(100, 100, "squash").to_frame(box)


def test_what_points_outside_is_clipped_to_the_picture():
    frame = Frame(200, 50, "pad", units=1001)
    assert frame.to_original((0, 0, 1000, 1000)) == (0, 0, 200, 50)  # the padding is not the picture
    assert frame.to_frame((-5, -5, 999, 999)) == frame.to_frame((0, 0, 200, 50))


@given(
    st.tuples(*[st.integers(1, 5000)] * 2),
    st.sampled_from(["squash", "pad"]),
    st.sampled_from([100, 1000]),
    st.tuples(*[st.floats(0, 1)] * 4),
)
def test_there_and_back_moves_an_edge_by_at_most_half_a_unit(size, fit, units, fractions):
    width, height = size
    box = tuple(f * side for f, side in zip(fractions, (width, height, width, height), strict=True))
    frame = Frame(width, height, fit, units)
    inside = frame.to_frame(box)
    assert all(isinstance(edge, int) and 0 <= edge < units for edge in inside)
    back = frame.to_original(inside)
    sides = (width, height) if fit == "squash" else (max(size), max(size))
    for edge, was, side in zip(back, box, sides * 2, strict=True):
        assert abs(edge - was) <= side / (units - 1) / 2 + 1e-6


@pytest.mark.parametrize("fit", ["squash", "pad"])
@pytest.mark.parametrize("size", [(90, 40), (40, 90), (64, 64)])
def test_the_frame_says_where_fit_square_puts_a_pixel(fit, size):
    """A white block on black, found again in the square where its box says."""
    image = Image.new("RGB", size)
    box = (size[0] // 4, size[1] // 2, size[0] * 3 // 4, size[1] - 2)
    image.paste("white", box)
    side = 256
    square = fit_square(Picture(image, *size), side, fit).max(axis=2) > 190
    rows, columns = np.flatnonzero(square.any(axis=1)), np.flatnonzero(square.any(axis=0))
    seen = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
    expected = (edge / 999 * side for edge in Frame(*size, fit).to_frame(box))
    assert all(abs(a - b) <= 3 for a, b in zip(seen, expected, strict=True))


def test_a_frame_config_refuses_what_it_does_not_know():
    assert FrameConfig().of(30, 20) == Frame(30, 20, "pad", 1000)
    with pytest.raises(ValidationError):
        FrameConfig(fit="crop")
    with pytest.raises(ValidationError):
        FrameConfig(unit=10)


# --- boxes in text


def test_groups_are_found_with_their_place():
    text = "the hole [[1, 2,3.5,4]] and both [[5,6,7,8],[9,10,11,12]]"
    first, second = parse_boxes(text)
    assert first.boxes == ((1, 2, 3.5, 4),)
    assert text[first.start : first.end] == "[[1, 2,3.5,4]]"
    assert second.boxes == ((5, 6, 7, 8), (9, 10, 11, 12))


@pytest.mark.parametrize(
    "text",
    [
        "[1,2,3,4]",
        "[[1,2,3]]",
        "[[1,2,3,4,5]]",
        "[[a,b,c,d]]",
        "[[1,2,3,4]",
        "[[]]",
        "[[1,2,3,4],]",
        "[[" + "9" * 5000 + ",1,1,1]]",
        "[[nan,1,2,3]]",
        "see [1] and [2]",
    ],
)
def test_what_only_resembles_a_box_is_text(text):
    assert parse_boxes(text) == ()
    assert convert_boxes(text, lambda start, box: (0, 0, 0, 0)) == text


def test_a_long_text_of_brackets_is_read_in_a_moment():
    assert parse_boxes("[" * 200_000) == ()
    assert parse_boxes("[[1,2,3,4]," * 20_000) == ()


def test_converting_rewrites_every_box_and_nothing_else():
    text = "孔在[[1,2,3,4]]，板 [[5,6,7,8],[9,10,11,12]]。"
    doubled = convert_boxes(text, lambda start, box: tuple(2 * edge for edge in box))
    assert doubled == "孔在[[2,4,6,8]]，板 [[10,12,14,16],[18,20,22,24]]。"


def test_converting_tells_where_the_group_begins():
    starts = []
    convert_boxes("a [[1,2,3,4],[1,2,3,4]] [[1,2,3,4]]", lambda start, box: starts.append(start) or box)
    assert starts == [2, 2, 24]


def test_boxes_are_written_as_integers():
    assert format_boxes([(1.4, 2.6, 3, 4)]) == "[[1,3,3,4]]"
    assert parse_boxes(format_boxes([(1, 2, 3, 4), (5, 6, 7, 8)]))[0].boxes == ((1, 2, 3, 4), (5, 6, 7, 8))


@pytest.mark.parametrize(
    ("box", "inside"),
    [
        ((0, 0, 100, 50), True),
        ((-1, -1, 101, 51), True),  # rounding
        ((0, 0, 102, 50), False),
        ((-2, 0, 10, 10), False),
        ((10, 10, 10, 20), False),  # no width
        ((20, 10, 10, 20), False),
    ],
)
def test_bounds(box, inside):
    assert in_bounds(box, 100, 50) is inside


# --- drawing


def test_boxes_are_drawn_on_a_copy():
    image = Image.new("RGB", (200, 100), "gray")
    drawn = draw_boxes(image, [(50, 40, 150, 90), (10, 10, 30, 30)], ["[1] hole"])
    assert image.getcolors() == [(20_000, (128, 128, 128))]
    assert drawn.getpixel((50, 60)) == (230, 25, 75)
    assert drawn.getpixel((100, 65)) == (128, 128, 128)  # the inside is left to be seen
    label = np.asarray(drawn)[22:39, 52:100].reshape(-1, 3)
    assert (label == (230, 25, 75)).all(axis=1).any()
    assert (label == (255, 255, 255)).all(axis=1).any()


def test_a_box_beyond_the_picture_or_upside_down_is_drawn_as_far_as_it_goes():
    draw_boxes(Image.new("L", (20, 10)), [(-50, -50, 500, 500), (15, 8, 5, 2)], ["", "x" * 500])


@pytest.mark.parametrize(("fonts", "shown"), [((), "2"), ((str(CHINESE),), "水泵 A")])
def test_a_label_that_no_font_can_draw_is_the_boxs_number(monkeypatch, fonts, shown):
    monkeypatch.setattr(grounding, "_fonts", grounding._fonts.__wrapped__)
    monkeypatch.setattr(grounding, "_FONTS", ("NoSuchFont.ttf", *fonts))
    image, boxes = Image.new("L", (200, 100), 128), [(10, 10, 30, 30), (50, 40, 150, 90)]
    drawn = draw_boxes(image, boxes, ["", "水泵 A"])
    labels = [text for text in ("2", "水泵 A") if _labelled(image, boxes, text) == drawn.tobytes()]
    assert labels == [shown]


def _labelled(image, boxes, text):
    """With a label in the font that the demo's drawings have Chinese characters from, or in Pillow's own."""
    drawn = draw_boxes(image, boxes)
    pen = ImageDraw.Draw(drawn)
    font = ImageFont.load_default(12) if text.isascii() else ImageFont.truetype(str(CHINESE), 12)
    grounding._label(pen, text, (50, 40), drawn.size, "#1f78d1", font)
    return drawn.tobytes()


# --- overlap


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        ((0, 0, 10, 10), 1),
        ((0, 0, 10, 5), 0.5),
        ((5, 5, 15, 15), 25 / 175),
        ((10, 0, 20, 10), 0),
        ((20, 20, 30, 30), 0),
        ((3, 3, 3, 3), 0),
    ],
)
def test_overlap_is_the_shared_part_of_both(other, expected):
    assert iou((0, 0, 10, 10), other) == pytest.approx(expected)
    assert iou(other, (0, 0, 10, 10)) == pytest.approx(expected)


def test_boxes_without_an_area_share_nothing():
    assert iou((3, 3, 3, 3), (3, 3, 3, 3)) == 0
