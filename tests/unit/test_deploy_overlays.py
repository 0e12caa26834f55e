"""deploy/kuberay: what kustomize makes of its overlays, where there is one, or a kubectl."""

from __future__ import annotations

import base64
import copy
from typing import Any

import pytest
from kuberay import EXAMPLE, OVERLAYS, RENDERED, SECRETS, checked, clusters, pods, rendered


@RENDERED
def test_what_the_operator_of_prometheus_is_told_is_valid_and_in_the_namespace_of_the_overlays():
    manifests = rendered("monitor")
    assert {one["kind"] for one in manifests} == {"PodMonitor", "PrometheusRule", "ScrapeConfig"}
    for manifest in manifests:
        checked(manifest)
        assert manifest["metadata"]["namespace"] == "mmrag"


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
    before, after = rendered(overlay), rendered(overlay, EXAMPLE.replace('"filled-in"', '"another-key"'))
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
