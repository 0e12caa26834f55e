"""The alerts of deploy/prometheus over series by hand, by Prometheus' own promtool where it is installed."""

from __future__ import annotations

import re
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

RULES = Path(__file__).parents[2] / "deploy" / "prometheus" / "rules.yml"
HOURS = 60
pytestmark = pytest.mark.skipif(not shutil.which("promtool"), reason="promtool is not installed")

# What a minute brings, of a server that is asked a question a second.
ANSWERED = {'mmrag_requests_total{route="/v1/answer",status="200"}': "0+60x90"}
FAILED = {'mmrag_requests_total{route="/v1/answer",status="503"}': "0+6x90"}
BROKEN = {"mmrag_broken_answers_total": "0+6x90"}
UNBROKEN = {"mmrag_broken_answers_total": "0x90"}
UP = 'up{job="mmrag",instance="one"}'
LAST = "mmrag_last_ingest_timestamp_seconds"
WAITING = 'ray_mmrag_ingest_rows_waiting{instance="node"}'
STEP = 'ray_mmrag_train_step{model="llava"}'
PARTS, REJECTED = "ray_mmrag_ingest_parts_total", "ray_mmrag_ingest_rejected_total"

CASES = [
    ("MmragDown", {UP: "1x10 0x50"}, 30, True),
    ("MmragDown", {UP: "1x10 0x2 1x50"}, 30, False),
    ("MmragFailing", ANSWERED | FAILED | UNBROKEN, 60, True),
    ("MmragFailing", ANSWERED | BROKEN, 60, True),
    ("MmragFailing", ANSWERED | UNBROKEN, 60, False),
    ("MmragShedding", {'mmrag_shed_total{why="queue"}': "0+5x60"}, 60, True),
    ("MmragShedding", {'mmrag_shed_total{why="rate"}': "0+5x60"}, 60, False),
    ("MmragDegraded", {'mmrag_degraded_total{part="lexical"}': "0+5x60"}, 60, True),
    ("MmragDegraded", {'mmrag_degraded_total{part="lexical"}': "5x60"}, 60, False),
    ("MmragIngestStuck", {WAITING: "500x60"}, 60, True),
    ("MmragIngestStuck", {WAITING: "500-5x60"}, 60, False),
    ("MmragIngestStuck", {WAITING: "0x60"}, 60, False),
    ("MmragIngestOverdue", {LAST: f"0x{48 * HOURS}"}, 40 * HOURS, True),
    ("MmragIngestOverdue", {LAST: f"0x{48 * HOURS}"}, 30 * HOURS, False),
    ("MmragIngestOverdue", {UP: f"1x{48 * HOURS}"}, 40 * HOURS, True),
    ("MmragIngestOverdue", {UP: f"1x{48 * HOURS}"}, 30 * HOURS, False),
    ("MmragIngestRejecting", {PARTS: "0+10x60", REJECTED: "0+10x60"}, 60, True),
    ("MmragIngestRejecting", {REJECTED: "0+10x60"}, 60, True),
    ("MmragIngestRejecting", {PARTS: "0+100x60", REJECTED: "0+1x60"}, 60, False),
    ("MmragTrainStuck", {STEP: "7x90"}, 80, True),
    ("MmragTrainStuck", {STEP: "0+1x90"}, 80, False),
]


def with_all_alerts() -> str:
    """The rules with the one that is a comment until an ingest is scheduled."""
    text = re.sub(r"^(\s+)# (- alert:|  )", r"\1\2", RULES.read_text("utf-8"), flags=re.MULTILINE)
    return re.sub(r"^\s+# .*\n", "", text, flags=re.MULTILINE)


def promtool(*words: object) -> str:
    done = subprocess.run(["promtool", *map(str, words)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_prometheus_takes_its_settings_and_the_rules() -> None:
    promtool("check", "config", RULES.parent / "prometheus.yml")


@cache
def alerts() -> dict[str, dict[str, Any]]:
    """Each rule by its name, with its name as what it says."""
    rules = yaml.safe_load(with_all_alerts())["groups"][0]["rules"]
    return {rule["alert"]: rule | {"annotations": {"summary": rule["alert"]}} for rule in rules}


def test_each_alert_is_tried_where_it_fires_and_where_it_does_not() -> None:
    assert {(alert, fires) for alert, *_, fires in CASES} == {
        (name, b) for name in alerts() for b in (True, False)
    }


@pytest.mark.parametrize(("alert", "series", "minutes", "fires"), CASES)
def test_it_fires_when_it_should_and_only_then(
    tmp_path: Path, alert: str, series: dict[str, str], minutes: int, fires: bool
) -> None:
    rules, tests = tmp_path / "rules.yml", tmp_path / "tests.yml"
    rules.write_text(yaml.safe_dump({"groups": [{"name": "one", "rules": [alerts()[alert]]}]}), "utf-8")
    firing = f'count(ALERTS{{alertname="{alert}",alertstate="firing"}})'
    expected = [{"labels": "{}", "value": 1}] if fires else []
    test = {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": [{"expr": firing, "eval_time": f"{minutes}m", "exp_samples": expected}],
    }
    tests.write_text(yaml.safe_dump({"rule_files": [rules.name], "tests": [test]}), "utf-8")
    promtool("test", "rules", tests)
