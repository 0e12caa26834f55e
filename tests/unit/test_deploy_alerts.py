"""Alerts and the ingest's panels over series by hand, by Prometheus' own promtool where it is installed."""

from __future__ import annotations

import json
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

DEPLOY = Path(__file__).parents[2] / "deploy"
PROMETHEUS = DEPLOY / "prometheus"
RULES = (PROMETHEUS / "rules.yml", PROMETHEUS / "schedule.yml")
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
LISTED, READ = f'{REJECTED}{{stage="list"}}', f'{REJECTED}{{stage="decode"}}'
DAY = 24 * HOURS
NIGHTLY = f"0x{DAY - 1} {DAY * 60}x{DAY - 1}"  # the first two nights' ends

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
    ("MmragIngestOverdue", {LAST: f"{NIGHTLY} {2 * DAY * 60}x{DAY}"}, 3 * DAY - 1, False),
    ("MmragIngestOverdue", {LAST: f"{NIGHTLY} {DAY * 60}x{DAY}"}, 3 * DAY - 1, True),
    ("MmragIngestRejecting", {PARTS: "0+10x60", REJECTED: "0+10x60"}, 60, True),
    # As a process tells them, at once; and they end with their Ray, or stay for as long as that lives on.
    ("MmragIngestRejecting", {PARTS: "_x5 60x3", READ: "_x5 40x3"}, 30, True),
    ("MmragIngestRejecting", {PARTS: "_x5 960x3", READ: "_x5 40x3"}, 30, False),
    ("MmragIngestRejecting", {PARTS: "_x5 60x3", READ: "_x5 40x3"}, 90, False),
    # Refused by a listing, long before the first part is written, and again every night.
    ("MmragIngestRejecting", {PARTS: "_x40 960x30", LISTED: "_x5 40x65"}, 30, False),
    ("MmragIngestRejecting", {PARTS: "_x5 10x3", LISTED: "_x5 40x3"}, 30, False),
    ("MmragIngestRejecting", {PARTS: "60x200", READ: "40x200"}, 30, True),
    ("MmragIngestRejecting", {PARTS: "60x200", READ: "40x200"}, 90, False),
    ("MmragIngestRejecting", {PARTS: "900x90 990x20", READ: "10x90 30x20"}, 110, True),
    ("MmragIngestRejecting", {PARTS: "10x90 990x20", READ: "90x90 95x20"}, 110, False),
    ("MmragIngestRejecting", {REJECTED: "0+10x60"}, 60, True),
    ("MmragIngestRejecting", {PARTS: "0+100x60", REJECTED: "0+1x60"}, 60, False),
    ("MmragTrainStuck", {STEP: "7x90"}, 80, True),
    ("MmragTrainStuck", {STEP: "0+1x90"}, 80, False),
]


def promtool(*words: object) -> str:
    done = subprocess.run(["promtool", *map(str, words)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_prometheus_takes_its_settings_and_the_rules() -> None:
    promtool("check", "config", PROMETHEUS / "prometheus.yml")
    promtool("check", "rules", *RULES)


@cache
def alerts() -> dict[str, dict[str, Any]]:
    """Each rule by its name, with its name as what it says."""
    groups = [group for file in RULES for group in yaml.safe_load(file.read_text("utf-8"))["groups"]]
    rules = [rule for group in groups for rule in group["rules"]]
    return {rule["alert"]: rule | {"annotations": {"summary": rule["alert"]}} for rule in rules}


def test_each_alert_is_tried_where_it_fires_and_where_it_does_not() -> None:
    assert {(alert, fires) for alert, *_, fires in CASES} == {
        (name, b) for name in alerts() for b in (True, False)
    }


@pytest.mark.parametrize(("alert", "series", "minutes", "fires"), CASES)
def test_it_fires_when_it_should_and_only_then(
    tmp_path: Path, alert: str, series: dict[str, str], minutes: int, fires: bool
) -> None:
    rules = tmp_path / "rules.yml"
    rules.write_text(yaml.safe_dump({"groups": [{"name": "one", "rules": [alerts()[alert]]}]}), "utf-8")
    firing = f'count(ALERTS{{alertname="{alert}",alertstate="firing"}})'
    asked(tmp_path, series, minutes, firing, 1 if fires else None, rules)


def asked(
    folder: Path, series: dict[str, str], minutes: int, expression: str, value: float | None, *rules: Path
) -> None:
    """Assert the one value, or none, that an expression without labels has after so many minutes."""
    expected = [] if value is None else [{"labels": "{}", "value": value}]
    test = {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": [{"expr": expression, "eval_time": f"{minutes}m", "exp_samples": expected}],
    }
    file = folder / "tests.yml"
    file.write_text(yaml.safe_dump({"rule_files": [*map(str, rules)], "tests": [test]}), "utf-8")
    promtool("test", "rules", file)


def buckets(name: str, **labels: str) -> dict[str, str]:
    """A hundred batches, of 0.3 seconds at most."""
    told = "".join(f',{label}="{value}"' for label, value in labels.items())
    series = f"ray_mmrag_ingest_{name}_bucket"
    return {f'{series}{{le="{le}"{told}}}': "_x5 100x3" for le in ("0.3", "1.0", "+Inf")}


PANELS = [
    ("Ingest: written", 0, {f'{PARTS}{{kind="image",WorkerId="{one}"}}': "_x5 21x3" for one in "ab"}, 42),
    ("Ingest: written", 1, {"ray_mmrag_ingest_documents_total": "_x5 7x3"}, 7),
    ("Ingest: refused", 0, {LISTED: "_x5 40x3"}, 40),
    ("Ingest: time of a batch", 0, buckets("encode_seconds"), 0.285),
    ("Ingest: time of a batch", 1, buckets("upsert_seconds", store="text"), 0.285),
]


@pytest.mark.parametrize(("title", "line", "series", "value"), PANELS)
def test_a_panel_shows_what_a_process_told_at_once(
    tmp_path: Path, title: str, line: int, series: dict[str, str], value: float
) -> None:
    """Its counters never grow, so rate() is 0."""
    panels = json.loads((DEPLOY / "grafana/dashboards/mmrag.json").read_text("utf-8"))["panels"]
    [panel] = [one for one in panels if one["title"] == title]
    expression = panel["targets"][line]["expr"].replace("$__rate_interval", "2m")
    asked(tmp_path, series, 8, f"sum({expression})", value)
