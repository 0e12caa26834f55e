"""The real training job, on nine drawn pictures, as its command runs it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from drawn_concepts import draw_shape, write_drawn
from shell import mmrag

from pipelines.core.errors import UsageError
from pipelines.core.lite import LiteEncoder
from pipelines.core.stores import embedded
from pipelines.train.encoder_config import EncoderTraining
from pipelines.train.job import train_encoder

CONFIG = EncoderTraining(
    scales=(64,), dim=16, views=2, steps=30, concepts_per_step=8, extraction_dtype="float32"
)


@pytest.mark.slow
@pytest.mark.usefixtures("roomy_ray")
def test_a_trained_encoder_loads_and_tells_its_training_pictures_apart(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    out = tmp_path / "out"
    drawn = write_drawn(data)
    settings = CONFIG.model_dump(mode="json", exclude_unset=True)
    chosen = [
        word
        for name, value in settings.items()
        for word in ("--set", f"train.encoder.{name}={json.dumps(value)}")
    ]
    summary = json.loads(said("train", "encoder", "--data", drawn, "--out", out, *chosen))
    assert summary["rows"] == 9
    assert summary["skipped_pictures"] == 0
    assert summary["held_out_concepts"] == 1

    encoder = LiteEncoder.load(out)
    assert encoder.scales == (64,)
    assert encoder.dim == 16
    shapes = ("red", (220, 30, 40)), ("blue", (30, 90, 220))
    pixels = np.stack([np.asarray(draw_shape("circle", rgb)) for _, rgb in shapes])
    scores = encoder.embed_texts(["red circle", "blue circle"]) @ encoder.embed_pixels(pixels).T
    assert scores.argmax(axis=1).tolist() == [0, 1]

    index = tmp_path / "kb"
    mine = ["--index", index, "--set", f"encoder.model={out}"]
    try:
        assert json.loads(said("ingest", data, *mine))["encoded_images"] == 9
        found = json.loads(said("search", "--image", data / "red-circle.png", *mine))
    finally:
        for server in (index / "vectors").iterdir():
            embedded.stop(server)
    assert found["hits"][0]["document_id"] == "data/red-circle.png"


def said(*command: object) -> str:
    answer = mmrag(*command, "--json")
    assert answer.status == 0, answer.err
    return answer.out


def test_a_bad_file_stops_the_job_before_ray_starts(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        train_encoder(tmp_path / "missing.jsonl", tmp_path / "out", CONFIG)
