"""What a run leaves out, gathered from the plan and from the workers."""

from __future__ import annotations

import json
from pathlib import Path

from pipelines.train.llava_config import LlavaTraining
from pipelines.train.llava_plan import REJECTED_FILE, Plan, Rejected, SkipLog, make_plan, write_rejected

CUT = Rejected("data.jsonl", 3, "a\u2028b\x85c", "holds\u2029no picture")


def plan(folder: Path) -> Plan:
    turns = [{"from": "human", "value": "a?"}, {"from": "gpt", "value": "a"}]
    data = folder / "data.jsonl"
    data.write_text(json.dumps({"id": "good", "conversations": turns}) + "\n")
    return make_plan(data, LlavaTraining(eval_fraction=0))


def test_what_workers_left_out_is_gathered_whatever_its_id_holds(tmp_path: Path) -> None:
    SkipLog(tmp_path, rank=0).add([CUT, CUT])
    SkipLog(tmp_path, rank=1).add([CUT])
    assert write_rejected(tmp_path, plan(tmp_path)) == (CUT,)
    assert write_rejected(tmp_path, plan(tmp_path)) == (CUT,)
    assert (tmp_path / REJECTED_FILE).read_text("utf-8").count("\n") == 1


def test_a_line_that_a_kill_cut_short_is_left_out_of_it(tmp_path: Path) -> None:
    SkipLog(tmp_path, rank=0).add([CUT])
    with (tmp_path / "skipped" / "0.jsonl").open("a") as file:
        file.write('{"file": "da')
    assert write_rejected(tmp_path, plan(tmp_path)) == (CUT,)
