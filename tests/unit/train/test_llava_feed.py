"""Whether there is anything to judge a run by, which is known before it begins."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fakes import picture
from tiny_llava import tiny_processor

from pipelines.core.errors import UsageError
from pipelines.core.grounding import FrameConfig
from pipelines.train.conversations import Sample
from pipelines.train.llava_batch import Example, Prepare
from pipelines.train.llava_config import LlavaTraining
from pipelines.train.llava_feed import require_usable
from pipelines.train.llava_plan import Part, make_plan


class Counted(Prepare):
    """Knows how many samples it was given."""

    def __init__(self) -> None:
        super().__init__(tiny_processor(), FrameConfig(), max_tokens=128)
        self.given = 0

    def __call__(self, sample: Sample) -> Example:
        self.given += 1
        return super().__call__(sample)


def row(name: str, image: str | None = None, question: str = "a?") -> dict[str, Any]:
    asked = f"<image>\n{question}" if image else question
    turns = [{"from": "human", "value": asked}, {"from": "gpt", "value": "a"}]
    return {"id": name, "conversations": turns} | ({"image": image} if image else {})


def held_out(folder: Path, rows: list[dict[str, Any]]) -> Part:
    """As `make_plan` leaves it: the pictures are there, nobody has opened them."""
    (folder / "red.png").write_bytes(picture())
    (folder / "cut.png").write_bytes(picture()[:-20])
    for name, some in (("data", [row("1")]), ("val", rows)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(one) + "\n" for one in some))
    return make_plan(folder / "data.jsonl", LlavaTraining(eval_data=folder / "val.jsonl")).held_out


def test_held_out_rows_that_are_all_unusable_are_refused_with_their_file_and_why(tmp_path: Path) -> None:
    part = held_out(tmp_path, [row("cut", "cut.png"), row("long", question="q" * 500)])
    with pytest.raises(UsageError) as told:
        require_usable(part, Counted())
    assert f"{tmp_path / 'val.jsonl'}: none of the 2 rows to evaluate on" in str(told.value)
    assert "line 1: cut.png: truncated PNG" in str(told.value)
    assert "\n" not in str(told.value)


def test_one_that_can_be_used_is_enough_and_none_is_read_behind_it(tmp_path: Path) -> None:
    part = held_out(tmp_path, [row("cut", "cut.png"), row("red", "red.png"), row("more"), row("still more")])
    prepare = Counted()
    require_usable(part, prepare)
    assert prepare.given == 2


def test_nothing_held_out_is_nothing_to_refuse(tmp_path: Path) -> None:
    held_out(tmp_path, [row("1")])
    plan = make_plan(tmp_path / "data.jsonl", LlavaTraining(eval_fraction=0))
    require_usable(plan.held_out, Counted())
