from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from drawn_concepts import HELD_OUT, draw_shape, write_drawn
from PIL import Image

from pipelines.core import images
from pipelines.core.errors import UsageError
from pipelines.train import encoder_data
from pipelines.train.encoder_config import EncoderTraining
from pipelines.train.encoder_data import alter, extract, pyramids, read_rows

CONFIG = EncoderTraining(scales=(8, 16), views=3)
GOOD = {"image": "a.png", "concept": "a", "texts": ["a"], "split": "train"}


def mean_colour(pixels_NHWC: np.ndarray) -> np.ndarray:
    """A trunk of three features."""
    return pixels_NHWC.mean(axis=(1, 2), dtype=np.float32)


def write(folder: Path, *rows: Any) -> Path:
    for name in ("a.png", "b.png"):
        draw_shape("circle", (1, 2, 3)).save(folder / name)
    file = folder / "rows.jsonl"
    file.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows), "utf-8")
    return file


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ("{", "no JSON"),
        (GOOD | {"texts": []}, "texts"),
        (GOOD | {"split": "test"}, "split"),
        (GOOD | {"name": "a"}, "name"),
        (GOOD | {"weight": 0}, "weight"),
        (GOOD | {"image": "../a.png"}, "outside the file's folder"),
        (GOOD | {"image": "/etc/passwd"}, "outside the file's folder"),
        (GOOD | {"image": "missing.png"}, "does not exist"),
        (GOOD | {"texts": [" "]}, "an empty text"),
        (GOOD | {"split": "held-out"}, "in both splits"),
    ],
)
def test_a_bad_row_is_an_error_that_names_its_line(tmp_path: Path, row: Any, problem: str) -> None:
    file = write(tmp_path, GOOD, GOOD | {"image": "b.png", "concept": "b"}, row)
    with pytest.raises(UsageError, match=r"rows\.jsonl:3: .*" + problem):
        read_rows(file)


def test_a_text_may_hold_a_line_separator_of_unicode(tmp_path: Path) -> None:
    rows = [GOOD | {"texts": ["a\u2028b\x85c"]}, GOOD | {"image": "b.png", "concept": "b"}]
    file = write(tmp_path, *(json.dumps(row, ensure_ascii=False) for row in rows))
    assert read_rows(file)[0].texts == ("a\u2028b\x85c",)


def test_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    draw_shape("circle", (1, 2, 3)).save(tmp_path / "secret.png")
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(UsageError, match="outside the file's folder"):
        read_rows(write(folder, GOOD | {"image": "link.png"}))


def test_one_concept_is_nothing_to_contrast(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="at least two concepts"):
        read_rows(write(tmp_path, GOOD))


def test_features_have_a_row_a_view_and_a_scale(tmp_path: Path) -> None:
    file = write_drawn(tmp_path)
    table = extract(read_rows(file), tmp_path, CONFIG, mean_colour, tmp_path / "cache")
    assert table.features.shape == (9, 3, 2, 3)
    assert [row.concept for row in table.only("held-out").rows] == [HELD_OUT]
    assert len(table.only("train").features) == 8


def test_the_first_view_is_the_picture_itself(tmp_path: Path) -> None:
    Image.new("RGB", (40, 40), (10, 20, 30)).save(tmp_path / "plain.png")
    first = pyramids((tmp_path / "plain.png").read_bytes(), CONFIG)[0]
    assert [pixels.shape for pixels in first] == [(8, 8, 3), (16, 16, 3)]
    assert all((pixels == (10, 20, 30)).all() for pixels in first)


def test_views_depend_on_the_bytes_and_the_seed_only(tmp_path: Path) -> None:
    draw_shape("triangle", (200, 10, 10)).save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    first, again, other = (
        pyramids(data, CONFIG.model_copy(update={"seed": seed}))[1][1] for seed in (0, 0, 1)
    )
    assert (first == again).all()
    assert (first != other).any()


def test_an_altered_picture_holds_the_whole_object() -> None:
    image = draw_shape("square", (0, 0, 0))
    for seed in range(20):
        altered = np.asarray(alter(image, np.random.default_rng(seed)))
        # Black stays black whatever the tint; turning moves a few pixels of the edge.
        assert (altered.max(axis=2) < 60).sum() == pytest.approx(45 * 45, rel=0.1)


def test_cached_features_are_not_made_again(tmp_path: Path) -> None:
    rows = read_rows(write_drawn(tmp_path))
    asked: list[int] = []

    def counting(pixels_NHWC: np.ndarray) -> np.ndarray:
        asked.append(len(pixels_NHWC))
        return mean_colour(pixels_NHWC)

    cache = tmp_path / "cache"
    half = extract(rows[:4], tmp_path, CONFIG, counting, cache)
    assert sum(asked) == 4 * 3 * 2
    whole = extract(rows, tmp_path, CONFIG, counting, cache)
    assert sum(asked) == 9 * 3 * 2
    np.testing.assert_array_equal(whole.features[:4], half.features)
    extract(rows, tmp_path, CONFIG, counting, cache)
    assert sum(asked) == 9 * 3 * 2


def test_what_is_cached_is_not_read_into_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures are read one by one, and those alone whose features are not there."""
    rows, read = read_rows(write_drawn(tmp_path)), []

    def noted(file: Path) -> bytes:
        read.append(file.name)
        return file.read_bytes()

    monkeypatch.setattr(encoder_data, "read_picture", noted)
    for some in (rows[:4], rows, rows):
        extract(some, tmp_path, CONFIG, mean_colour, tmp_path / "cache")
    assert read == [Path(row.image).name for row in rows]


def test_a_picture_that_changes_meanwhile_is_no_other_ones_features(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = read_rows(write_drawn(tmp_path))
    monkeypatch.setattr(encoder_data, "read_picture", lambda file: b"another")
    with pytest.raises(UsageError, match="changed while it was read"):
        extract(rows, tmp_path, CONFIG, mean_colour, tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_a_picture_that_is_too_large_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = read_rows(write_drawn(tmp_path))
    with (tmp_path / rows[0].image).open("ab") as file:
        file.truncate(images.MAX_BYTES + 1)  # takes no space
    assert extract(rows, tmp_path, CONFIG, mean_colour, tmp_path / "cache").skipped == 1


def test_a_damaged_picture_is_left_out_and_counted(tmp_path: Path) -> None:
    file = write_drawn(tmp_path)
    (tmp_path / "red-circle.png").write_bytes(b"not a picture")
    table = extract(read_rows(file), tmp_path, CONFIG, mean_colour, tmp_path / "cache")
    assert table.skipped == 1
    assert "red circle" not in {row.concept for row in table.rows}
    assert len(table.features) == len(table.rows) == 8
