"""deploy/kuberay: each file by itself. What kustomize makes of them is in test_deploy_overlays.py."""

from __future__ import annotations

import re
import tomllib
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from kuberay import KUBERAY, OVERLAYS, ROOT, SECRETS, checked, pods, read

from pipelines.core.errors import UsageError
from pipelines.serve.config import ServeConfig
from pipelines.settings import load_settings


def kustomizations() -> list[Path]:
    return sorted(KUBERAY.rglob("kustomization.yaml"))


@pytest.mark.parametrize("file", kustomizations(), ids=lambda file: file.parent.name)
def test_a_kustomization_names_files_that_are_there(file):
    content = read(file)
    listed = [
        *content.get("resources", ()),
        *content.get("components", ()),
        *content.get("configurations", ()),
    ]
    generated = [one for maps in content.get("configMapGenerator", ()) for one in maps["files"]]
    yours = [f"{one}.example" for made in content.get("secretGenerator", ()) for one in made["envs"]]
    assert all((file.parent / path).exists() for path in (*listed, *generated, *yours))


def test_every_manifest_belongs_to_a_kustomization():
    known = {"kustomization.yaml", "references.yaml", "settings.yaml"}
    listed = {
        (file.parent / path).resolve()
        for file in kustomizations()
        for path in read(file).get("resources", ())
    }
    assert {file for file in KUBERAY.rglob("*.yaml") if file.name not in known} <= listed


@pytest.mark.parametrize("name", ["disruption", "ingest", "network", "storage"])
def test_the_files_that_are_whole_by_themselves_are_valid(name):
    checked(read(KUBERAY / "base" / f"{name}.yaml"))


def test_patches_and_copies_find_the_manifest_that_they_are_for():
    names = {
        (one["kind"], one["metadata"]["name"])
        for one in (read(KUBERAY / "base/ingest.yaml"), read(KUBERAY / "gpu/train.yaml"))
    }
    components = [
        read(KUBERAY / "cluster/kustomization.yaml"),
        read(KUBERAY / "gpu/nodes/kustomization.yaml"),
        read(KUBERAY / "gpu/kustomization.yaml"),
    ]
    wanted = [patch["target"] for one in components for patch in one.get("patches", ())]
    wanted += [copy["source"] for one in components for copy in one.get("replacements", ())]
    assert len(wanted) == 3
    assert {(one["kind"], one["name"]) for one in wanted} <= names


JOBS = {
    "ingest": read(KUBERAY / "base/ingest.yaml")["spec"],
    "schedule": read(KUBERAY / "base/schedule.yaml")["spec"]["jobTemplate"],
    "train": read(KUBERAY / "gpu/train.yaml")["spec"],
}


@pytest.mark.parametrize("job", JOBS)
def test_refused_rows_do_not_fail_a_job(job):
    """Exit status 3; a failed one is started again, with another cluster."""
    assert JOBS[job]["entrypoint"].endswith(" || test $? -eq 3")


def test_the_endpoint_is_that_of_serve_yaml_but_for_the_address_and_the_disk():
    here = yaml.safe_load(read(KUBERAY / "base/serve.yaml")["spec"]["serveConfigV2"])
    there = read(ROOT / "deploy/serve.yaml")
    there["http_options"]["host"] = "0.0.0.0"
    there["applications"][0]["args"] = {"index": "/data/kb", "config": "/etc/mmrag/settings.yaml"}
    assert here == there


def test_a_drained_node_leaves_the_endpoint_a_worker():
    budget = read(KUBERAY / "base/disruption.yaml")
    workers = read(KUBERAY / "base/ingest.yaml")["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]
    assert 1 <= budget["spec"]["minAvailable"] < workers["minReplicas"]
    assert "maxUnavailable" not in budget["spec"]  # a custom resource's pods have no count of all
    serve = read(KUBERAY / "base/serve.yaml")
    assert budget["metadata"]["labels"] == serve["metadata"]["labels"]


def test_ray_is_reached_by_itself_and_by_namespaces_that_are_named():
    spec = read(KUBERAY / "base/network.yaml")["spec"]
    ray = {"matchLabels": {"ray.io/is-ray-node": "yes"}}
    assert spec["podSelector"] == ray
    assert spec["policyTypes"] == ["Ingress"]
    own, *others = spec["ingress"]
    assert own == {"from": [{"podSelector": ray}]}
    reached = [{port["port"] for port in rule["ports"]} for rule in others]
    assert reached == [{8265, 8000}, {8000}, {8000, 8080}]
    for rule in others:
        [source] = rule["from"]
        assert source["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": "CHANGE"}


def test_an_answer_is_finished_before_ray_ends_and_ray_before_its_pod():
    for pod in pods(read(KUBERAY / "base/ingest.yaml")["spec"]["rayClusterSpec"]):
        told = {one["name"]: one["value"] for one in pod["spec"]["containers"][0]["env"]}
        drain_s = float(told["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"])
        assert ServeConfig().deadline_s < drain_s < pod["spec"]["terminationGracePeriodSeconds"]


def test_the_variable_for_the_drain_is_one_that_ray_reads():
    """By its source: the tests of this folder import no Ray."""
    spec = find_spec("ray")
    assert spec
    assert spec.origin
    constants = Path(spec.origin).with_name("_private") / "ray_constants.py"
    assert '"RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S", 30.0' in constants.read_text()


@pytest.mark.parametrize("job", JOBS)
def test_a_job_is_tried_again(job):
    assert JOBS[job]["backoffLimit"] > 0


@pytest.mark.parametrize("job", JOBS)
def test_a_job_leaves_its_nodes_to_the_endpoint_once_its_last_figures_are_scraped(job):
    assert JOBS[job]["shutdownAfterJobFinishes"]
    scraped_s = int(read(ROOT / "deploy/prometheus/prometheus.yml")["global"]["scrape_interval"][:-1])
    told_s = 10  # Ray's agents are told every ten seconds
    assert told_s + scraped_s < JOBS[job]["ttlSecondsAfterFinished"] <= 60


def test_the_operators_prometheus_has_the_alerts_of_the_other_and_that_of_the_schedule():
    prometheus = ROOT / "deploy/prometheus"
    groups = [group for name in ("rules.yml", "schedule.yml") for group in read(prometheus / name)["groups"]]
    assert read(KUBERAY / "monitor/rules.yaml")["spec"] == {"groups": groups}


def test_an_ingest_is_overdue_after_more_hours_than_lie_between_two_nights():
    """The schedule's own hours: every day at the same one."""
    minute, hour, *days = read(KUBERAY / "base/schedule.yaml")["spec"]["schedule"].split()
    assert minute.isdigit()
    assert hour.isdigit()
    assert days == ["*", "*", "*"]
    [group] = read(ROOT / "deploy/prometheus/schedule.yml")["groups"]
    [rule] = group["rules"]
    told = re.search(r"> (\d+) \* 3600", rule["expr"])
    assert told
    assert 24 < int(told[1]) < 48


def test_prometheus_scrapes_every_pod_of_ray_and_the_server_once():
    """As ../prometheus has it."""
    scraped = {one["kind"]: one for one in yaml.safe_load_all((KUBERAY / "monitor/scrapes.yaml").read_text())}
    pod, server = scraped["PodMonitor"]["spec"], scraped["ScrapeConfig"]["spec"]
    assert pod["selector"] == read(KUBERAY / "base/network.yaml")["spec"]["podSelector"]
    [endpoint] = pod["podMetricsEndpoints"]
    assert endpoint["port"] == "metrics"
    [static] = server["staticConfigs"]
    service = read(KUBERAY / "base/serve.yaml")["metadata"]["name"] + "-serve-svc"
    namespace = read(KUBERAY / "monitor/kustomization.yaml")["namespace"]
    assert static["targets"] == [f"{service}.{namespace}.svc:{ServeConfig().port}"]
    jobs = [endpoint["relabelings"][0]["replacement"], static["labels"]["job"]]
    prometheus = read(ROOT / "deploy/prometheus/prometheus.yml")["scrape_configs"]
    assert sorted(jobs) == sorted(job["job_name"] for job in prometheus)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_a_lost_node_leaves_a_gateway(overlay, monkeypatch):
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    gateway = load_settings(KUBERAY / overlay / "settings.yaml").serve.gateway
    assert (gateway.min_replicas, gateway.max_replicas) == (2, 4)


def test_ray_is_the_version_that_the_image_installs():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    version = read(KUBERAY / "base/ingest.yaml")["spec"]["rayClusterSpec"]["rayVersion"]
    assert f"ray[data,train,serve]=={version}" in project["dependencies"]
    assert f"ray=={version}" in (ROOT / "requirements/constraints-cpu.txt").read_text().splitlines()


def test_ray_counts_what_kubernetes_gives():
    cluster = read(KUBERAY / "base/ingest.yaml")["spec"]["rayClusterSpec"]
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    for pod in pods(cluster):
        container, _ = pod["spec"]["containers"]
        assert container["name"].startswith("ray-")  # KubeRay starts Ray in the first one
        assert container["resources"]["requests"] == container["resources"]["limits"]


def test_pods_meet_the_restricted_standard_of_kubernetes():
    for pod in pods(read(KUBERAY / "base/ingest.yaml")["spec"]["rayClusterSpec"]):
        security = pod["spec"]["securityContext"]
        assert security["runAsNonRoot"]
        assert security["runAsUser"] == 1000  # of deploy/Dockerfile
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["spec"]["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
            }


def test_pods_are_not_told_of_services_in_variables_that_look_like_settings():
    for pod in pods(read(KUBERAY / "base/ingest.yaml")["spec"]["rayClusterSpec"]):
        assert pod["spec"]["enableServiceLinks"] is False


def test_every_pod_has_the_variables_of_the_secret():
    [made] = read(KUBERAY / "base/kustomization.yaml")["secretGenerator"]
    for pod in pods(read(KUBERAY / "base/ingest.yaml")["spec"]["rayClusterSpec"]):
        container, _ = pod["spec"]["containers"]
        assert container["envFrom"] == [{"secretRef": {"name": made["name"]}}]
    assert all(name.startswith("MMRAG_") for name in SECRETS)
    [file] = made["envs"]
    assert file.startswith(".")  # else scripts/docs_pages.py would take it into the site
    assert f"/deploy/kuberay/base/{file}" in (ROOT / ".gitignore").read_text().splitlines()


def test_every_pod_may_be_given_a_ca_of_the_stores(tmp_path, monkeypatch):
    for pod in pods(read(KUBERAY / "base/ingest.yaml")["spec"]["rayClusterSpec"]):
        container, _ = pod["spec"]["containers"]
        [mount] = [one for one in container["volumeMounts"] if one["name"] == "certificates"]
        assert mount["readOnly"]
        assert {
            "name": "certificates",
            "secret": {"secretName": "mmrag-ca", "optional": True},
        } in pod["spec"]["volumes"]
    told = re.search(r"`(stores: [^`]*)`", (ROOT / "deploy/README.md").read_text())
    assert told
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "settings.yaml").write_text(told[1])
    elastic = load_settings(tmp_path / "settings.yaml").stores.elastic
    assert elastic is not None
    assert elastic.ca_certs == f"{mount['mountPath']}/ca.crt"


def test_logs_are_read_where_ray_writes_them():
    compose = read(ROOT / "deploy/compose.yaml")["services"]
    served = compose["logs"]["command"]
    for pod in pods(read(KUBERAY / "base/ingest.yaml")["spec"]["rayClusterSpec"]):
        ray, logs = pod["spec"]["containers"]
        [own] = logs["volumeMounts"]
        assert own == {"name": "ray-logs", "mountPath": "/tmp/ray"}
        assert {"name": "ray-logs", "mountPath": "/tmp/ray"} in ray["volumeMounts"]
        assert {"name": "ray-logs", "emptyDir": {}} in pod["spec"]["volumes"]
        # compose's, which has no jobs' drivers to read.
        read_there = [word.partition(",")[0] for word in logs["args"]]
        assert read_there == served
        assert (logs["image"], logs["command"]) == (compose["logs"]["image"], compose["logs"]["entrypoint"])
    assert "--prop=path=/tmp/ray/session_latest/logs/serve/*.log" in served
    mounted = {name: service["volumes"] for name, service in compose.items() if "volumes" in service}
    assert "ray:/tmp/ray" in mounted["serve"]
    assert mounted["logs"] == ["ray:/tmp/ray"]
    # How far it read outlives the container.
    [database] = [word for word in served if word.startswith("--prop=db=")]
    assert Path(database.rpartition("=")[2]).is_relative_to("/tmp/ray")
    # A new volume takes its owner from the image.
    assert "install -d -o ray -g ray /data /tmp/ray" in (ROOT / "deploy/Dockerfile").read_text()


def test_a_service_account_can_be_named_for_every_pod():
    text = (KUBERAY / "base/ingest.yaml").read_text()
    assert text.count("# serviceAccountName: CHANGE") == 2


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_settings_load_with_server_stores_and_fit_into_the_first_nodes(overlay, monkeypatch):
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    settings = load_settings(KUBERAY / overlay / "settings.yaml")
    assert settings.stores.milvus is not None
    assert settings.stores.elastic is not None
    assert settings.serve.api_keys
    workers = read(KUBERAY / "base/ingest.yaml")["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]
    cpus = int(workers["template"]["spec"]["containers"][0]["resources"]["limits"]["cpu"])
    serve: ServeConfig = settings.serve
    engine = serve.transformers if overlay == "cpu" else serve.vllm
    parts = (serve.gateway, serve.retriever, serve.encoder, engine)
    assert sum(part.num_cpus * part.min_replicas for part in parts) <= cpus * workers["minReplicas"]


def test_the_key_of_the_example_is_refused_until_it_is_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    for line in (KUBERAY / "base/.env.example").read_text().splitlines():
        if line.startswith("MMRAG_SERVE__API_KEYS"):
            monkeypatch.setenv(*line.split("=", 1))
    with pytest.raises(UsageError, match=r"api_keys\.0\.key"):
        load_settings()
