"""What an aligner is trained on and how: rows, memory that must not know the answer, figures, files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from fakes import COLOURS, ColourModel, WordEmbedder, picture

from pipelines.core.aligner import MemoryAligner
from pipelines.core.cache import VectorCache
from pipelines.core.encoder import Encoder
from pipelines.core.errors import UsageError
from pipelines.train.aligner_config import AlignerTraining
from pipelines.train.aligner_data import pairs_of_file, read_rows
from pipelines.train.aligner_loop import (
    AlignerModel,
    Examples,
    describe,
    fit,
    held_out_figures,
    save,
)
from pipelines.train.aligner_pairs import Pairs

QUICK = AlignerTraining(steps=60, batch_size=16, negatives=4, learning_rate=0.01)


def write(folder: Path, *rows: dict[str, object]) -> Path:
    for colour in COLOURS:
        (folder / f"{colour}.png").write_bytes(picture(colour))
    file = folder / "pairs.jsonl"
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    return file


def loaded(file: Path, pooling: str = "projected") -> Pairs:
    encoder = Encoder(ColourModel(pooling=pooling))
    cache = VectorCache(file.parent / "cache.sqlite", encoder.cache_key)
    try:
        return pairs_of_file(read_rows(file), file.parent, encoder, WordEmbedder(), cache)
    finally:
        cache.close()


def puzzle(concepts: int = 40, artists: int = 3, seed: int = 0) -> Pairs:
    """Artists draw each concept alike; its name says nothing of how in the visual space. The last artist's
    pictures are held out."""
    rng = np.random.default_rng(seed)
    looks = rng.normal(size=(concepts, 16))
    shown = np.concatenate([looks + 0.5 * rng.normal(size=looks.shape) for _ in range(artists)])
    names = rng.normal(size=(concepts, 16))
    visual = 0.3 * looks + rng.normal(size=looks.shape)
    unit = [(a / np.linalg.norm(a, axis=1, keepdims=True)).astype(np.float32) for a in (visual, names, shown)]
    number = np.arange(concepts * artists)
    return Pairs(
        texts=tuple(f"thing {n}" if n % 2 else f"东西{n}" for n in range(concepts)),
        visual=unit[0], text=unit[1], pictures=unit[2],
        groups=number // concepts,
        of=np.stack([number % concepts, number], axis=1),
        held_out=number >= concepts * (artists - 1),
        weights=np.ones(len(number)),
    )  # fmt: skip


def trained(pairs: Pairs, config: AlignerTraining = QUICK) -> MemoryAligner:
    return fit(pairs, describe(pairs, 1, config, "space", "text space"), config)


def test_rows_become_texts_pictures_and_what_belongs_together(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        {"image": "red.png", "texts": ["red", "红"], "group": "a"},
        {"image": "green.png", "texts": ["green"], "group": "a", "weight": 0},
        {"image": "blue.png", "texts": ["blue", "red"], "split": "held-out"},
    )
    pairs = loaded(file)
    assert pairs.texts == ("red", "红", "green", "blue")
    assert pairs.of.tolist() == [[0, 0], [1, 0], [2, 1], [3, 2], [0, 2]]
    assert pairs.groups.tolist() == [0, 0, 1]
    assert pairs.held_out.tolist() == [False, False, False, True, True]
    assert pairs.weights.tolist() == [1, 1, 0, 1, 1]
    encoder = Encoder(ColourModel())
    np.testing.assert_allclose(pairs.pictures[0], encoder.encode_asked(picture("red"))[0], rtol=1e-5)
    np.testing.assert_array_equal(pairs.visual, encoder.encode_texts(pairs.texts))


def test_a_picture_that_cannot_be_read_is_left_out_and_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(
        tmp_path,
        {"image": "red.png", "texts": ["red"]},
        {"image": "broken.png", "texts": ["broken"]},
        {"image": "green.png", "texts": ["green"]},
    )
    (tmp_path / "broken.png").write_bytes(picture("red")[:30])
    pairs = loaded(file)
    assert (pairs.skipped, pairs.texts) == (1, ("red", "green"))
    assert "left out broken.png" in capsys.readouterr().err
    assert loaded(file).pictures.tolist() == pairs.pictures.tolist()  # from the cache


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"image": "red.png"}, "pairs.jsonl:1: texts: is missing"),
        ({"image": "red.png", "texts": []}, "pairs.jsonl:1: texts"),
        ({"image": "red.png", "texts": [" "]}, "pairs.jsonl:1: an empty text"),
        ({"image": "red.png", "texts": ["r"], "split": "test"}, "pairs.jsonl:1: split"),
        ({"image": "red.png", "texts": ["r"], "weight": -1}, "pairs.jsonl:1: weight"),
        ({"image": "red.png", "texts": ["r"], "weight": float("inf")}, "pairs.jsonl:1: weight"),
        ({"image": "a\0.png", "texts": ["r"]}, "pairs.jsonl:1: image"),
        ({"image": "a" * 300 + ".png", "texts": ["r"]}, "pairs.jsonl:1: image"),
        ({"image": "red.png", "texts": ["r"], "color": "red"}, "pairs.jsonl:1: color"),
        ({"image": "nowhere.png", "texts": ["r"]}, "pairs.jsonl:1: image 'nowhere.png' does not exist"),
        ({"image": "../red.png", "texts": ["r"]}, "outside the file's folder"),
        ({"image": "red.png", "texts": ["r"]}, "at least two pictures"),
    ],
)
def test_wrong_rows_are_named(tmp_path: Path, row: dict[str, object], said: str) -> None:
    file = write(tmp_path, row)
    with pytest.raises(UsageError, match=said):
        loaded(file)


def test_equal_pictures_are_one_and_so_are_their_groups(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        {"image": "red.png", "texts": ["red"], "group": "a", "weight": 0},
        {"image": "copy.png", "texts": ["红", "red"], "group": "b", "weight": 2},
        {"image": "green.png", "texts": ["green"], "group": "b"},
        {"image": "blue.png", "texts": ["blue"]},
    )
    (tmp_path / "copy.png").write_bytes(picture("red"))
    pairs = loaded(file)
    assert pairs.of.tolist() == [[0, 0], [1, 0], [2, 1], [3, 2]]
    assert pairs.groups.tolist() == [0, 0, 1]
    assert pairs.weights.tolist() == [2, 2, 1, 1]


def test_a_picture_in_both_splits_is_told(tmp_path: Path) -> None:
    row = {"image": "red.png", "texts": ["red"]}
    with pytest.raises(UsageError, match="both in split 'train' and in 'held-out'"):
        loaded(write(tmp_path, row, row | {"split": "held-out"}))


def test_workers_draw_different_questions() -> None:
    pairs = puzzle()
    examples = Examples(pairs.only(~pairs.held_out), QUICK, "cpu")
    first, second = (examples.draw(np.random.default_rng((QUICK.seed, rank)))[0] for rank in (0, 1))
    assert first.tolist() != second.tolist()


def test_an_encoder_without_a_text_tower_is_refused(tmp_path: Path) -> None:
    rows = ({"image": f"{colour}.png", "texts": [colour]} for colour in ("red", "blue"))
    with pytest.raises(UsageError, match=r"encoder\.pooling=projected"):
        loaded(write(tmp_path, *rows), pooling="mean")


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        read_rows(tmp_path / "nowhere.jsonl")


def test_memory_never_knows_the_right_picture() -> None:
    pairs = puzzle(concepts=6)
    examples = Examples(pairs.only(~pairs.held_out), QUICK, "cpu")
    asked = examples.of[torch.tensor([0, 8])]  # the first artist's first thing, the second one's third
    kept = ~examples.forgotten(asked, torch.tensor([False, False]))
    groups = examples.groups[examples.memory[:, 1]]
    assert groups[kept[0]].unique().tolist() == [1]
    assert groups[kept[1]].unique().tolist() == [0]
    forgotten = examples.forgotten(asked, torch.tensor([True, True]))
    for row, (text, _) in enumerate(asked.tolist()):
        assert text not in examples.memory[~forgotten[row], 0].tolist()


def test_candidates_are_the_right_picture_and_the_nearest_that_do_not_bear_the_text() -> None:
    pairs = puzzle(concepts=6)
    examples = Examples(pairs.only(~pairs.held_out), QUICK, "cpu")
    asked = examples.of[:3]
    candidates, told_apart = examples.candidates(asked)
    assert candidates.shape == (3, 1 + QUICK.negatives)
    assert candidates[:, 0].tolist() == asked[:, 1].tolist()
    assert told_apart.all()
    for row, (text, _) in enumerate(asked.tolist()):
        wrong = [n for n in range(12) if n % 6 != text]
        scores = pairs.pictures[wrong] @ pairs.visual[text]
        nearest = [wrong[place] for place in np.argsort(-scores)[: QUICK.negatives]]
        assert candidates[row, 1:].tolist() == nearest


def test_what_is_only_remembered_is_no_candidate() -> None:
    pairs = puzzle(concepts=6)
    pairs = replace(pairs, weights=np.where(np.arange(18) < 6, 0.0, 1.0))  # the first artist's
    examples = Examples(pairs.only(~pairs.held_out), QUICK, "cpu")
    asked, _ = examples.draw(np.random.default_rng(0))
    candidates, told_apart = examples.candidates(asked)
    assert set(examples.groups[candidates[told_apart]].tolist()) == {1}
    assert set(examples.groups[examples.memory[:, 1]].tolist()) == {0, 1}


def test_fewer_pictures_than_negatives_are_no_error() -> None:
    pairs = puzzle(concepts=2)
    examples = Examples(pairs.only(~pairs.held_out), QUICK, "cpu")
    candidates, told_apart = examples.candidates(examples.of[:1])
    assert candidates.shape[1] == told_apart.shape[1] <= 1 + QUICK.negatives
    assert told_apart[0].sum() == 3  # itself, and the other thing by two artists
    model = AlignerModel(describe(pairs, 1, QUICK, "s", "t"), examples, 0.0)
    assert model(examples.of[:2], torch.tensor([True, False])).isfinite()


@pytest.mark.parametrize("kind", ["memory", "mlp", "qformer"])
def test_things_that_were_remembered_are_found_in_a_new_artists_pictures(kind: str) -> None:
    pairs, config = puzzle(), QUICK.model_copy(update={"kind": kind, "hidden": 16, "heads": 2})
    figures = held_out_figures(trained(pairs, config), pairs)
    assert (figures["held_out_texts"], figures["held_out_pictures"]) == (40, 40)
    for language in ("chinese", "other"):
        assert figures[language]["gain"] > 0.2
        low, high = figures[language]["gain_95"]
        assert low <= figures[language]["gain"] <= high


def test_training_starts_at_the_encoders_order_where_memory_is_empty_of_it() -> None:
    pairs = puzzle(concepts=6)
    examples = Examples(pairs.only(~pairs.held_out), QUICK.model_copy(update={"memory": 1}), "cpu")
    model = AlignerModel(describe(pairs, 1, QUICK, "s", "t"), examples, 0.0)
    at = examples.memory[0]
    loss = model(at[None], torch.tensor([True]))  # the only thing remembered is the one asked for
    candidates, _ = examples.candidates(at[None])
    scores = 20.0 * examples.visual[at[:1]] @ examples.pictures[candidates[0]].T
    expected = torch.nn.functional.cross_entropy(scores, torch.tensor([0]))
    torch.testing.assert_close(loss, expected)


def test_the_same_seed_gives_the_same_aligner() -> None:
    pairs = puzzle(concepts=8)
    first, second = trained(pairs).tensors, trained(pairs).tensors
    assert first.keys() == second.keys()
    for name in first:
        np.testing.assert_array_equal(first[name], second[name])


def test_memory_by_text_says_what_memory_by_pair_says(tmp_path: Path) -> None:
    """Training remembers pairs, the file one mean a text: the same, for equal texts have equal weights."""
    pairs = puzzle(concepts=8)
    aligner = trained(pairs)
    examples = Examples(pairs.only(~pairs.held_out), QUICK, "cpu")
    sharpness = float(aligner.tensors["weights"][0])
    question = pairs.text[:1]
    of_pairs = torch.softmax(
        sharpness * torch.from_numpy(question) @ examples.text[examples.memory[:, 0]].T, 1
    )
    expected = of_pairs @ examples.pictures[examples.memory[:, 1]]
    np.testing.assert_allclose(aligner._remembered(question), expected.numpy(), atol=1e-5)


def test_what_is_saved_is_what_was_trained(tmp_path: Path) -> None:
    pairs = puzzle()
    aligner = trained(pairs)
    save(aligner, QUICK, tmp_path, {"pairs": 3})
    again = MemoryAligner.load(tmp_path)
    assert again.description == aligner.description
    before, after = held_out_figures(aligner, pairs), held_out_figures(again, pairs)
    assert after["other"]["r1_aligner"] == pytest.approx(before["other"]["r1_aligner"], abs=0.06)
    assert json.loads((tmp_path / "training.json").read_text())["summary"] == {"pairs": 3}


def test_no_held_out_pairs_give_no_figures() -> None:
    pairs = puzzle(concepts=4)
    assert held_out_figures(trained(pairs), replace(pairs, held_out=np.zeros(12, dtype=bool))) == {}
