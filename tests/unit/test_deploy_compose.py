"""deploy/compose.yaml is what compose reads; its settings, rules and dashboard are what the app knows."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import promql_parser
import pytest
import yaml

from pipelines.core.types import Answer
from pipelines.ingest.metrics import METRICS as INGEST
from pipelines.serve.config import ServeConfig
from pipelines.serve.metrics import Metrics, cache_lookups, drift, ingested
from pipelines.serve.protection import Admission, Hosts
from pipelines.serve.sample import Sample
from pipelines.settings import Settings, load_settings
from pipelines.train.metrics import METRICS as TRAIN

DEPLOY = Path(__file__).parents[2] / "deploy"
RULES = DEPLOY / "prometheus" / "rules.yml"
SCHEDULE = RULES.with_name("schedule.yml")
DASHBOARD = DEPLOY / "grafana" / "dashboards" / "mmrag.json"


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return yaml.safe_load((DEPLOY / "compose.yaml").read_text())


@pytest.fixture
def settings(compose: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Settings:
    """As the containers see them."""
    for name, value in compose["services"]["serve"]["environment"].items():
        given = re.sub(r"\$\{\w+:\?[^}]*\}", "secret", value)
        monkeypatch.setenv(name, re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", given))
    return load_settings(DEPLOY / "compose-settings.yaml")


def test_it_obeys_the_schema_of_the_compose_specification(compose):
    schema = files("check_jsonschema") / "builtin_schemas" / "vendor" / "compose-spec.json"
    jsonschema.validate(compose, json.loads(schema.read_text()))


def test_every_volume_config_and_dependency_is_there(compose):
    services = compose["services"].values()
    mounted = {volume.partition(":")[0] for service in services for volume in service.get("volumes", ())}
    named = {source for source in mounted if not source.startswith((".", "$"))}
    assert named == set(compose["volumes"])
    assert all((DEPLOY / source).exists() for source in mounted if source.startswith("."))
    assert {one["source"] for service in services for one in service.get("configs", ())} == set(
        compose["configs"]
    )
    assert all(set(service.get("depends_on", ())) <= set(compose["services"]) for service in services)


def test_ports_are_published_for_this_machine_only(compose):
    ports = [port for service in compose["services"].values() for port in service.get("ports", ())]
    assert len(ports) == 3
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_images_are_pinned_and_everything_that_serves_has_a_health_check(compose):
    for name, service in compose["services"].items():
        assert service["image"].startswith("mmrag:") or re.search(r":v?\d+\.\d+\.\d+$", service["image"])
        # The image's own, in deploy/Dockerfile.
        assert "healthcheck" in service or name == "serve"


def test_each_service_is_held_to_a_bound_of_memory_and_few_rights(compose):
    for name, service in compose["services"].items():
        assert re.fullmatch(r"\d+g|\$\{APP_MEMORY:-\d+g\}", service["mem_limit"]), name
        assert "no-new-privileges:true" in service["security_opt"], name
        # Milvus' image runs as root.
        assert service.get("cap_drop") == (None if name == "milvus" else ["ALL"]), name
    [app] = {
        service["mem_limit"] for service in compose["services"].values() if "APP" in service["mem_limit"]
    }
    assert app.removeprefix("${APP_MEMORY:-").removesuffix("}") in (DEPLOY / ".env.example").read_text()


def test_answers_are_finished_and_vectors_written_before_a_container_is_killed(compose, settings):
    grace_s = {
        name: int(service["stop_grace_period"].removesuffix("s"))
        for name, service in compose["services"].items()
        if "stop_grace_period" in service
    }
    assert grace_s["serve"] == grace_s["ingest"] > settings.serve.deadline_s
    assert grace_s["milvus"] > 10  # Docker's own


def test_of_the_folders_of_earlier_rays_the_newest_stays(compose, tmp_path):
    for day in (1, 2, 3):
        (tmp_path / f"session_2026-01-0{day}" / "logs").mkdir(parents=True)
        os.utime(tmp_path / f"session_2026-01-0{day}", (day, day))
    (tmp_path / "session_latest").symlink_to("session_2026-01-03")
    (tmp_path / "logs-read.db").touch()
    words = [word.replace("$$", "$") for word in compose["services"]["serve"]["entrypoint"]]
    script = words[2].replace("/tmp/ray", str(tmp_path)).replace("exec mmrag", "exec echo")
    for _ in range(2):
        told = subprocess.run([*words[:2], script, words[3], "serve", "a b"], capture_output=True, text=True)
        assert (told.stdout, told.stderr) == ("serve a b\n", "")
        left = {path.name for path in tmp_path.iterdir()}
        assert left == {"session_2026-01-03", "session_latest", "logs-read.db"}


def test_every_secret_comes_from_the_file_that_is_not_in_git(compose):
    names = set(re.findall(r"\$\{(\w+)", (DEPLOY / "compose.yaml").read_text()))
    example = dict(
        line.split("=") for line in (DEPLOY / ".env.example").read_text().splitlines() if "=" in line
    )
    assert set(example) == names
    assert not any(value for name, value in example.items() if name.endswith("PASSWORD"))
    assert "/deploy/.env" in (DEPLOY.parent / ".gitignore").read_text().splitlines()


def test_the_settings_load_and_point_at_the_services(settings, compose):
    milvus, elastic = settings.stores.milvus, settings.stores.elastic
    assert milvus is not None
    assert elastic is not None
    assert milvus.uri.partition("//")[2].partition(":")[0] in compose["services"]
    assert elastic.url.partition("//")[2].partition(":")[0] in compose["services"]
    assert elastic.password is not None


def test_the_server_answers_its_own_names_and_no_others(settings):
    hosts = Hosts(settings.serve)
    for name in (b"localhost:8000", b"127.0.0.1:8000", *map(str.encode, scraped()["mmrag"])):
        hosts.check(name)
    assert hosts.bounded


def scraped() -> dict[str, list[str]]:
    """The targets of each job of Prometheus."""
    prometheus = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
    return {job["job_name"]: job["static_configs"][0]["targets"] for job in prometheus["scrape_configs"]}


def test_prometheus_scrapes_the_server_and_every_ray_and_reads_the_rules(compose):
    app = {name for name, service in compose["services"].items() if service["image"].startswith("mmrag:")}
    ports = {compose["services"][name]["environment"]["RAY_METRICS_EXPORT_PORT"] for name in app}
    assert len(ports) == 1
    assert scraped().keys() == {"mmrag", "ray"}
    assert scraped()["mmrag"] == [f"serve:{ServeConfig().port}"]
    assert sorted(scraped()["ray"]) == sorted(f"{name}:{port}" for name in app for port in ports)
    prometheus = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
    # Nothing schedules an ingest here.
    assert [RULES.parent / file for file in prometheus["rule_files"]] == [RULES]


@pytest.fixture(scope="module")
def exported() -> dict[str, set[str]]:
    """The labels of every series that /metrics can hold, and that Ray exports of the jobs."""
    metrics = Metrics(Admission(1, 1, 1.0))
    metrics.request("/v1/answer", 200, 0.1)
    metrics.shed("busy")
    metrics.answer(Answer("", (), (), (), ("elastic: down",), {"retrieve": 1.0}, True, {"citations": 1}))
    metrics.sampled("measured")
    verdicts = {"supported": 1}
    metrics.measured(
        Sample(False, {"citation_recall": 1.0}, verdicts, {}, ("d#img-0",), {"text": 0.5}, (), 1.0)
    )
    metrics.rated("up")
    others = [cache_lookups(1, 1), ingested(1.0), *drift({"text": 0.1}, {"text": 0.0})]
    series: dict[str, set[str]] = {}
    for family in [*metrics.registry.collect(), *others]:
        for sample in family.samples:
            series.setdefault(sample.name, set()).update(sample.labels)
    for metric in (*INGEST, *TRAIN):
        for suffix in ("_sum", "_count", "_bucket") if metric.kind == "histogram" else ("",):
            series[metric.exported + suffix] = {*metric.labels, *(("le",) if suffix == "_bucket" else ())}
    return series


def expressions() -> Iterator[tuple[str, str]]:
    for file in (RULES, SCHEDULE):
        for group in yaml.safe_load(file.read_text())["groups"]:
            for rule in group["rules"]:
                yield rule["alert"], rule["expr"]
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        for target in panel["targets"]:
            yield panel["title"], target["expr"].replace("$__rate_interval", "1m")


@pytest.mark.parametrize(("title", "expression"), list(expressions()))
def test_rules_and_panels_ask_for_what_is_exported(title, expression, exported):
    labels: set[str] = set()
    asked: set[str] = set()

    def look(node: Any) -> None:
        if isinstance(node, promql_parser.VectorSelector):
            asked.add(node.name)
            labels.update(matcher.name for matcher in node.matchers.matchers)
        elif isinstance(node, promql_parser.AggregateExpr) and node.modifier is not None:
            labels.update(node.modifier.labels)

    promql_parser.walk(promql_parser.parse(expression), look)
    assert asked
    assert asked <= {*exported, "up"}
    assert labels <= set.union(*(exported.get(name, {"job"}) for name in asked))


def test_an_index_that_no_ingest_ever_brought_up_to_date_is_overdue_after_the_same_hours():
    """Its series is absent, which no comparison sees. A server that has not run so long has time yet."""
    late, absent, there = re.split(r"\b(?:or|and on\(\))\s", dict(expressions())["MmragIngestOverdue"])
    hours = re.fullmatch(r"time\(\) - max\(mmrag_last_ingest_timestamp_seconds\) > (\d+) \* 3600\s+", late)
    assert hours
    assert absent == f"absent_over_time(mmrag_last_ingest_timestamp_seconds[{hours[1]}h]) "
    assert there.strip() == f'up{{job="mmrag"}} offset {hours[1]}h == 1'


def test_the_dashboard_shows_every_metric_in_panels_that_do_not_overlap(exported):
    panels = json.loads(DASHBOARD.read_text())["panels"]
    text = " ".join(target["expr"] for panel in panels for target in panel["targets"])
    known = {name for name in exported if not name.endswith("_created")}
    shown, told = (
        {re.sub(r"_(sum|count|bucket)$", "", name) for name in names}
        for names in (re.findall(r"(?:ray_)?mmrag_\w+", text), known)
    )
    assert shown == told
    cells = [
        (x, y)
        for at in (panel["gridPos"] for panel in panels)
        for x in range(at["x"], at["x"] + at["w"])
        for y in range(at["y"], at["y"] + at["h"])
    ]
    assert len(cells) == len(set(cells))
    assert len({panel["id"] for panel in panels}) == len(panels)


def test_the_page_on_operation_lists_what_the_jobs_export():
    page = (DEPLOY.parent / "docs" / "how-to" / "operate.md").read_text("utf-8")
    listed = re.findall(r"^\| `(ray_mmrag_\w+)` \| (\w+) \| ((?:`\w+`(?:, )?)*) \|", page, re.MULTILINE)
    assert listed == [
        (one.exported, one.kind, ", ".join(f"`{label}`" for label in one.labels)) for one in (*INGEST, *TRAIN)
    ]
    assert set(re.findall(r"ray_mmrag_\w+", page)) == {name for name, _, _ in listed}


def test_grafana_is_given_the_dashboard_and_its_source(compose):
    mounts = dict(volume.split(":")[:2] for volume in compose["services"]["grafana"]["volumes"])
    provider = yaml.safe_load((DEPLOY / "grafana/provisioning/dashboards/mmrag.yaml").read_text())[
        "providers"
    ][0]
    source = yaml.safe_load((DEPLOY / "grafana/provisioning/datasources/prometheus.yaml").read_text())[
        "datasources"
    ][0]
    assert provider["options"]["path"] == mounts["./grafana/dashboards"]
    dashboard = json.loads(DASHBOARD.read_text())
    (choice,) = dashboard["templating"]["list"]  # in any other Grafana, one of its own
    assert (choice["type"], choice["query"]) == ("datasource", source["type"])
    assert choice["current"]["value"] == source["uid"]
    assert {panel["datasource"]["uid"] for panel in dashboard["panels"]} == {f"${{{choice['name']}}}"}
    assert source["url"].partition("//")[2].partition(":")[0] in compose["services"]
