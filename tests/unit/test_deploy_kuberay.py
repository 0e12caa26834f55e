"""deploy/kuberay: each file by itself, and what kustomize makes of them where there is one, or a kubectl.

No package brings KubeRay's CRDs, of a megabyte each: the fields of ray.io/v1 that are used stand in `_RAY` as
its CRDs of RayCronJob (commit 0074504f) and RayService (02a80a6f) have them; the values of `submissionMode`
and `type` are its documentation's. Pods and Kubernetes' own kinds are checked against its published schemas.
"""

from __future__ import annotations

import base64
import copy
import os
import platform
import re
import shutil
import subprocess
import tempfile
import tomllib
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from pipelines.serve.config import ServeConfig
from pipelines.settings import load_settings

ROOT = Path(__file__).parents[2]
KUBERAY = ROOT / "deploy" / "kuberay"
OVERLAYS = ("cpu", "gpu")
KUBERNETES = "1.37"
EXAMPLE = (KUBERAY / "base/.env.example").read_text()
SECRETS = dict(
    line.split("=", 1) for line in EXAMPLE.splitlines() if line.strip() and not line.startswith("#")
)
KUSTOMIZE = {"kubectl": ("kubectl", "kustomize"), "kustomize": ("kustomize", "build")}
"""What renders an overlay, by the program."""
PROGRAM = next(filter(shutil.which, KUSTOMIZE), None)
EXPECTED = "CI" in os.environ and (platform.system(), platform.machine()) == ("Linux", "x86_64")
"""Where .ci/run fetches kustomize, its lack is a failure: what nobody renders is not tested."""
RENDERED = pytest.mark.skipif(
    PROGRAM is None and not EXPECTED, reason="neither kubectl nor kustomize is installed"
)

_TEXT, _COUNT, _FLAG, _ANY = {"type": "string"}, {"type": "integer", "minimum": 0}, {"type": "boolean"}, {}


def _fields(required: tuple[str, ...] = (), **fields: Any) -> dict[str, Any]:
    return {"type": "object", "properties": fields, "required": list(required), "additionalProperties": False}


_PARAMETERS = {"type": "object", "additionalProperties": _TEXT}
_WORKERS = _fields(
    ("groupName", "minReplicas", "maxReplicas", "template"),
    **dict.fromkeys(("replicas", "minReplicas", "maxReplicas", "numOfHosts", "idleTimeoutSeconds"), _COUNT),
    groupName=_TEXT, rayStartParams=_PARAMETERS, template=_ANY,
)  # fmt: skip
_AUTOSCALER = _fields(
    idleTimeoutSeconds=_COUNT, upscalingMode={"enum": ["Default", "Aggressive", "Conservative"]},
    version={"enum": ["v1", "v2"]}, securityContext=_ANY, resources=_ANY, env=_ANY,
)  # fmt: skip
_CLUSTER = _fields(
    ("headGroupSpec",),
    rayVersion=_TEXT, enableInTreeAutoscaling=_FLAG, autoscalerOptions=_AUTOSCALER,
    authOptions=_fields(mode={"enum": ["disabled", "token"]}, secretName=_TEXT),
    headGroupSpec=_fields(("template",), rayStartParams=_PARAMETERS, serviceType=_TEXT, template=_ANY),
    workerGroupSpecs={"type": "array", "items": _WORKERS},
)  # fmt: skip
_JOB = _fields(
    ("rayClusterSpec",),
    **dict.fromkeys(("activeDeadlineSeconds", "backoffLimit", "ttlSecondsAfterFinished"), _COUNT),
    entrypoint=_TEXT, runtimeEnvYAML=_TEXT, shutdownAfterJobFinishes=_FLAG, suspend=_FLAG,
    rayClusterSpec=_CLUSTER,
    submissionMode={"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"]},
)  # fmt: skip
_RAY = {
    "RayJob": _JOB,
    "RayCronJob": _fields(("schedule", "jobTemplate"), schedule=_TEXT, jobTemplate=_JOB),
    "RayService": _fields(
        ("rayClusterConfig",),
        serveConfigV2=_TEXT, rayClusterConfig=_CLUSTER, excludeHeadPodFromServeSvc=_FLAG,
        upgradeStrategy=_fields(type={"enum": ["NewCluster", "NewClusterWithIncrementalUpgrade", "None"]}),
    ),
}  # fmt: skip


def read(file: Path) -> Any:
    return yaml.safe_load(file.read_text())


def kustomizations() -> list[Path]:
    return sorted(KUBERAY.rglob("kustomization.yaml"))


@cache
def rendered(overlay: str, secrets: str = EXAMPLE) -> list[dict[str, Any]]:
    """By a copy of the folder, because the file of secrets is not in git."""
    assert PROGRAM, "neither kubectl nor kustomize is installed: python3 scripts/kustomize.py build/bin"
    with tempfile.TemporaryDirectory() as folder:
        there = shutil.copytree(KUBERAY, Path(folder) / "kuberay")
        (there / "base/.env").write_text(secrets)
        done = subprocess.run([*KUSTOMIZE[PROGRAM], there / overlay], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def clusters(manifests: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for spec in (one.get("spec", {}) for one in manifests):
        job = spec.get("jobTemplate", spec)
        found = job.get("rayClusterSpec") or spec.get("rayClusterConfig")
        if found:
            yield found


def pods(cluster: dict[str, Any]) -> list[dict[str, Any]]:
    return [group["template"] for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])]


def checked(manifest: dict[str, Any]) -> None:
    """Raises ValidationError."""
    if manifest["apiVersion"] != "ray.io/v1":
        kubernetes_validate.validate(manifest, KUBERNETES, strict=True)
        return
    jsonschema.validate(manifest["spec"], _RAY[manifest["kind"]])
    for cluster in clusters([manifest]):
        for template in pods(cluster):
            pod = {
                "apiVersion": "v1",
                "kind": "PodTemplate",
                "metadata": {"name": "pod"},
                "template": template,
            }
            kubernetes_validate.validate(pod, KUBERNETES, strict=True)


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
    assert len(wanted) == 4
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


def test_prometheus_scrapes_every_pod_of_ray_and_the_server_once():
    """As ../prometheus has it. No package brings the Prometheus Operator's schemas."""
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


@RENDERED
def test_what_is_scraped_lies_in_the_namespace_of_the_overlays():
    assert {one["metadata"]["namespace"] for one in rendered("monitor")} == {"mmrag"}


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


@RENDERED
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_what_kustomize_makes_is_valid_and_one_cluster_everywhere(overlay):
    manifests = rendered(overlay)
    for manifest in manifests:
        checked(manifest)
        assert manifest["metadata"]["namespace"] == "mmrag"
    described = list(clusters(manifests))
    assert len(described) == {"cpu": 3, "gpu": 4}[overlay]
    assert all(but_for_the_heads_size(one) == but_for_the_heads_size(described[0]) for one in described)
    groups = [group["groupName"] for group in described[0]["workerGroupSpecs"]]
    assert groups == (["cpu"] if overlay == "cpu" else ["cpu", "gpu"])


@RENDERED
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_pods_of_an_overlay_use_its_image_its_settings_and_its_volume(overlay):
    manifests = rendered(overlay)
    names = {one["kind"]: one["metadata"]["name"] for one in manifests}
    for pod in (pod for cluster in clusters(manifests) for pod in pods(cluster)):
        assert pod["spec"]["containers"][0]["image"].endswith(f"/mmrag:{overlay}")
        data, settings, *_ = pod["spec"]["volumes"]
        assert data["persistentVolumeClaim"]["claimName"] == names["PersistentVolumeClaim"]
        assert settings["configMap"]["name"] == names["ConfigMap"] != "mmrag-settings"  # with its hash


@RENDERED
def test_the_secret_holds_the_lines_of_its_file_as_they_stand():
    [made] = [one for one in rendered("cpu") if one["kind"] == "Secret"]
    assert {name: base64.b64decode(value).decode() for name, value in made["data"].items()} == SECRETS


@RENDERED
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_a_changed_key_rolls_the_endpoint_and_reaches_every_job(overlay):
    """KubeRay makes a second cluster where the first one's description changed."""
    before, after = rendered(overlay), rendered(overlay, EXAMPLE.replace("change-me-please", "another-key"))
    names = [{one["kind"]: one["metadata"]["name"] for one in found} for found in (before, after)]
    assert {kind for kind, name in names[0].items() if names[1][kind] != name} == {"Secret"}
    for found, named in zip((before, after), names, strict=True):
        for pod in (pod for cluster in clusters(found) for pod in pods(cluster)):
            assert pod["spec"]["containers"][0]["envFrom"] == [{"secretRef": {"name": named["Secret"]}}]
    assert all(old != new for old, new in zip(clusters(before), clusters(after), strict=True))


def but_for_the_heads_size(cluster: dict[str, Any]) -> dict[str, Any]:
    other = copy.deepcopy(cluster)
    del other["headGroupSpec"]["template"]["spec"]["containers"][0]["resources"]
    return other


@RENDERED
def test_only_the_training_has_a_larger_head():
    """Its driver merges the trained weights there."""
    sizes = {
        manifest["metadata"]["labels"]["app.kubernetes.io/component"]: pods(cluster)[0]["spec"]["containers"]
        for manifest in rendered("gpu")
        for cluster in clusters([manifest])
    }
    limits = {name: container["resources"]["limits"]["memory"] for name, (container, _) in sizes.items()}
    assert limits == {"ingest": "8Gi", "serve": "8Gi", "train": "16Gi"}


@RENDERED
def test_only_nodes_with_a_gpu_ask_for_one():
    cpu, gpu = next(clusters(rendered("gpu")))["workerGroupSpecs"]
    asked = [group["template"]["spec"]["containers"][0]["resources"]["limits"] for group in (cpu, gpu)]
    assert ["nvidia.com/gpu" in limits for limits in asked] == [False, True]


@RENDERED
def test_the_schedule_repeats_the_first_ingest_but_gives_way_to_another_run():
    """The first one does not: who waits for it would take an index for whole that another still fills."""
    manifests = {one["kind"]: one for one in rendered("cpu")}
    first, nightly = manifests["RayJob"]["spec"], manifests["RayCronJob"]["spec"]["jobTemplate"]
    assert nightly["entrypoint"] == first["entrypoint"].replace(" ||", " --skip-locked ||")
    assert nightly | {"entrypoint": ""} == first | {"entrypoint": ""}
