"""deploy/kuberay as tests look at it: what its files hold, what kustomize makes of them, what is valid.

No package brings KubeRay's CRDs, of a megabyte each: the fields of ray.io/v1 that are used stand in `_RAY` as
its CRDs of RayCronJob (commit 0074504f) and RayService (02a80a6f) have them; the values of `submissionMode`
and `type` are its documentation's. `_MONITORING` has the Prometheus Operator's kinds so, by its CRD of
PrometheusRule (01fad0d6, version 0.82.2) and by the types that the CRDs of PodMonitor (053d84e6) and
ScrapeConfig (00302799) are made of. Pods and Kubernetes' own kinds are checked against its published schemas.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

ROOT = Path(__file__).parents[1]
KUBERAY = ROOT / "deploy" / "kuberay"
OVERLAYS = ("cpu", "gpu")
KUBERNETES = "1.37"
EXAMPLE = (KUBERAY / "base/.env.example").read_text().replace("CHANGE", "filled-in")
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


def _many(kind: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": kind}


_TEXTS = {"type": "object", "additionalProperties": _TEXT}
_WORKERS = _fields(
    ("groupName", "minReplicas", "maxReplicas", "template"),
    **dict.fromkeys(("replicas", "minReplicas", "maxReplicas", "numOfHosts", "idleTimeoutSeconds"), _COUNT),
    groupName=_TEXT, rayStartParams=_TEXTS, template=_ANY,
)  # fmt: skip
_AUTOSCALER = _fields(
    idleTimeoutSeconds=_COUNT, upscalingMode={"enum": ["Default", "Aggressive", "Conservative"]},
    version={"enum": ["v1", "v2"]}, securityContext=_ANY, resources=_ANY, env=_ANY,
)  # fmt: skip
_CLUSTER = _fields(
    ("headGroupSpec",),
    rayVersion=_TEXT, enableInTreeAutoscaling=_FLAG, autoscalerOptions=_AUTOSCALER,
    authOptions=_fields(mode={"enum": ["disabled", "token"]}, secretName=_TEXT),
    headGroupSpec=_fields(("template",), rayStartParams=_TEXTS, serviceType=_TEXT, template=_ANY),
    workerGroupSpecs=_many(_WORKERS),
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

_LASTS = {
    "type": "string",
    "pattern": r"^(0|(([0-9]+)y)?(([0-9]+)w)?(([0-9]+)d)?(([0-9]+)h)?(([0-9]+)m)?(([0-9]+)s)?(([0-9]+)ms)?)$",
}
_RULE = _fields(("expr",), alert=_TEXT, expr=_TEXT, labels=_TEXTS, annotations=_TEXTS, **{"for": _LASTS})
_RULES = _fields(("name",), name={"type": "string", "minLength": 1}, interval=_LASTS, rules=_many(_RULE))
_RELABELING = _fields(targetLabel=_TEXT, replacement=_TEXT)
_ENDPOINT = _fields(port=_TEXT, path=_TEXT, interval=_LASTS, relabelings=_many(_RELABELING))
_TARGETS = _fields(("targets",), targets={**_many(_TEXT), "minItems": 1}, labels=_TEXTS)
_MONITORING = {
    ("monitoring.coreos.com/v1", "PrometheusRule"): _fields(groups=_many(_RULES)),
    ("monitoring.coreos.com/v1", "PodMonitor"): _fields(
        ("selector",),
        selector=_fields(matchLabels=_TEXTS),
        podMetricsEndpoints=_many(_ENDPOINT),
    ),
    ("monitoring.coreos.com/v1alpha1", "ScrapeConfig"): _fields(
        jobName=_TEXT, scrapeInterval=_LASTS, staticConfigs=_many(_TARGETS)
    ),
}


def read(file: Path) -> Any:
    return yaml.safe_load(file.read_text())


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
    if manifest["apiVersion"].startswith("monitoring.coreos.com/"):
        jsonschema.validate(manifest["spec"], _MONITORING[manifest["apiVersion"], manifest["kind"]])
        return
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
