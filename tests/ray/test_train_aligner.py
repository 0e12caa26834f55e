"""`mmrag train aligner` as its users meet it: from a file, and from an index that then uses it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import shell
from fakes import photograph, png

from pipelines.core.stores import embedded

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600), pytest.mark.usefixtures("roomy_ray")]

NAMES = ("red pump", "蓝色的风扇", "green motor", "黄色的阀门", "white gear", "黑色的皮带")


def mmrag(*words: str, status: int = 0) -> Any:
    done = shell.mmrag(*words, "--json")
    assert done.status == status, done.err[-3000:]
    return json.loads(done.out) if done.out else done.err


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("pairs")
    with (folder / "pairs.jsonl").open("w") as pairs, (folder / "corpus.jsonl").open("w") as corpus:
        for number, name in enumerate(NAMES * 2):
            (folder / f"{number}.png").write_bytes(png(photograph(number, 120)))
            split = "held-out" if number >= len(NAMES) else "train"
            pair = {"image": f"{number}.png", "texts": [name], "split": split}
            pairs.write(json.dumps(pair, ensure_ascii=False) + "\n")
            row = {"id": f"d{number}", "image": f"{number}.png", "text": name}
            corpus.write(json.dumps(row, ensure_ascii=False) + "\n")
    yield folder
    for server in folder.glob("*/vectors/*"):
        embedded.stop(server)


def test_two_workers_train_on_a_file(folder: Path) -> None:
    out = folder / "out"
    chosen = ["--set", "train.aligner.num_workers=2", "--set", "train.aligner.steps=5"]
    kind = ["--set", "train.aligner.kind=qformer", "--set", "train.aligner.hidden=16"]
    summary = mmrag(
        "train", "aligner", "--data", str(folder / "pairs.jsonl"), "--out", str(out), *chosen, *kind
    )
    assert (summary["pairs"], summary["skipped_pictures"]) == (12, 0)
    assert summary["held_out_pictures"] == 6
    assert summary["chinese"].keys() == summary["other"].keys() == {
        "r1_encoder", "r1_aligner", "gain", "gain_95"
    }  # fmt: skip
    assert len((out / "steps.jsonl").read_text().splitlines()) == 5
    assert {"aligner.json", "aligner.safetensors", "training.json"} <= {file.name for file in out.iterdir()}


def test_an_index_trains_its_own_and_searches_with_it(folder: Path) -> None:
    index, out = str(folder / "index"), str(folder / "own")
    mmrag("ingest", str(folder / "corpus.jsonl"), "--index", index)
    summary = mmrag(
        "train", "aligner", "--data", f"index:{index}", "--out", out,
        "--set", "train.aligner.steps=5", "--set", "train.aligner.held_out=0.3",
    )  # fmt: skip
    assert summary["pairs"] == 12
    found = mmrag("search", "red pump", "--index", index, "--set", f"search.aligner.model={out}")
    assert found["degraded"] == []
    assert all("aligner" in hit["sources"] for hit in found["hits"] if "text_to_image" in hit["sources"])
    no_aligner = f"search.aligner.model={folder}"
    assert "holds no aligner" in mmrag("search", "x", "--index", index, "--set", no_aligner, status=2)
    plain = mmrag("search", "red pump", "--index", index)
    assert not any("aligner" in hit["sources"] for hit in plain["hits"])


def test_bad_input_is_told_before_a_worker_starts(folder: Path, tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    for data, said in (
        (str(folder / "nowhere.jsonl"), "no such file"),
        (f"index:{tmp_path}", "no index at"),
    ):
        assert said in mmrag("train", "aligner", "--data", data, "--out", out, status=2)
