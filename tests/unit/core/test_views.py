"""What a question's picture shows, beside the whole: the part that even surroundings leave."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageDraw

from pipelines.core.images import Picture
from pipelines.core.views import subject, views
from pipelines.demo.paper import Shot, photograph


def picture(image: Image.Image) -> Picture:
    return Picture(image, *image.size)


def sheet(width: int = 600, height: int = 300) -> Image.Image:
    image = Image.new("RGB", (width, height), "#f0f0ea")
    ImageDraw.Draw(image).rectangle((8, 4, width - 8, height - 4), outline="#202020", width=4)
    return image


def test_a_sheet_on_a_desk_is_seen_by_itself() -> None:
    shot = photograph(sheet(), np.random.default_rng(3), Shot(tilt=0.02))
    found = subject(picture(shot))
    assert found is not None
    # 88 % of the width, and half as high.
    assert found.width == pytest.approx(0.88 * shot.width, rel=0.06)
    assert found.height == pytest.approx(0.44 * shot.width, rel=0.1)
    assert [one.width for one in views(picture(shot))] == [shot.width, found.width]


@pytest.mark.parametrize(
    "image",
    [
        pytest.param(Image.new("RGB", (300, 200), "white"), id="nothing stands out"),
        pytest.param(sheet(), id="it fills the picture"),
        pytest.param(
            Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 120, 3), np.uint8)),
            id="no even surroundings",
        ),
        pytest.param(Image.new("RGB", (1, 1)), id="a pixel"),
    ],
)
def test_without_even_surroundings_there_is_the_whole_alone(image: Image.Image) -> None:
    assert len(views(picture(image))) == 1


def test_a_drawn_margin_belongs_to_the_picture() -> None:
    image = Image.new("RGB", (800, 800), "white")
    image.paste(sheet(400, 400), (200, 200))
    assert subject(picture(image)) is None


def test_something_small_is_left_in_its_surroundings() -> None:
    pixels_HWC = np.random.default_rng(0).normal(90, 30, (800, 800, 3)).clip(0, 255).astype(np.uint8)
    desk = Image.fromarray(pixels_HWC)
    desk.paste(sheet(120, 120), (340, 340))
    assert subject(picture(desk)) is None
