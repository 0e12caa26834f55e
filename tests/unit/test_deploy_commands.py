"""The commands that manifests start are commands of mmrag's, with options that there are."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from command_lines import check, commands, parsed
from doc_blocks import ROOT

from pipelines.serve.config import ServeConfig

KUBERAY = ROOT / "deploy" / "kuberay"


def read(file: Path) -> Any:
    return yaml.safe_load(file.read_text())


@pytest.mark.parametrize("file", ["base/ingest.yaml", "base/schedule.yaml", "gpu/train.yaml"])
def test_the_entrypoint_of_a_job(file: str) -> None:
    spec = read(KUBERAY / file)["spec"]
    entrypoint = spec.get("jobTemplate", spec)["entrypoint"]
    command, otherwise, *_ = [words for words in commands(entrypoint) if words]
    check(command)
    assert command[0] == "mmrag"
    assert otherwise == ["test", "$?", "-eq", "3"]


def test_each_service_of_compose_that_is_ours() -> None:
    services = read(ROOT / "deploy" / "compose.yaml")["services"].values()
    ours = [service["command"] for service in services if service["image"].startswith("mmrag:")]
    assert sorted(words[0] for words in ours) == ["ingest", "serve"]
    for words in ours:
        check(["mmrag", *words])


def test_what_the_image_starts() -> None:
    lines = (ROOT / "deploy" / "Dockerfile").read_text()
    [entrypoint], [command] = (
        re.findall(rf"^{name} (\[.*\])$", lines, re.M) for name in ("ENTRYPOINT", "CMD")
    )
    words = [*json.loads(entrypoint), *json.loads(command)]
    check(words)
    assert parsed(words[1:])["host"] == "0.0.0.0"


def test_what_cluster_yaml_is_used_with() -> None:
    told = re.findall(r"^#   (ray .*?)(?:  +#.*)?$", (ROOT / "cluster.yaml").read_text(), re.M)
    found = [words for line in told for words in commands(line) if words]
    assert [words[1] for words in found] == ["get-auth-token", "up", "rsync-up", "exec", "down"]
    for words in found:
        check(words)
    assert found[3][3].startswith("mmrag ingest ")


def kubectl_lines(text: str) -> list[list[str]]:
    """The words of each kubectl, in the order in which they are told."""
    return [words for line in text.splitlines() for words in commands(line) if words[:1] == ["kubectl"]]


@pytest.mark.parametrize(
    ("state", "deletes"), [("Complete", True), ("Failed", True), ("Running", False), ("", False)]
)
def test_an_ingest_that_has_ended_is_deleted_before_it_is_applied(
    state: str, deletes: bool, tmp_path: Path
) -> None:
    """KubeRay starts none again: an apply alone would find it Complete, or Failed, as it was. One that runs
    still, for a day, stays."""
    name = read(KUBERAY / "base/ingest.yaml")["metadata"]["name"]
    fake = tmp_path / "kubectl"
    fake.write_text(f'#!/bin/sh\ncase "$*" in *" get "*) printf "{state}";; *) echo "told $*";; esac\n')
    fake.chmod(0o755)
    told = re.search(
        r"^kubectl -n mmrag get rayjob.*?(?=^while )", (ROOT / "deploy/README.md").read_text(), re.M | re.S
    )
    assert told
    command = ["bash", "-c", f"PATH={tmp_path}:$PATH\n{told[0]}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    *before, last = [line for line in done.stdout.splitlines() if line != state]
    assert before == ([f"told -n mmrag delete rayjob {name}"] if deletes else [])
    assert last.startswith("told apply -k deploy/kuberay/cpu ")


def test_how_an_ingest_runs_again_is_said_in_its_manifest() -> None:
    name = read(KUBERAY / "base/ingest.yaml")["metadata"]["name"]
    deleted = ["kubectl", "-n", "mmrag", "delete", "rayjob", name, "--ignore-not-found"]
    told_there = re.findall(r"^#   (kubectl .*)$", (KUBERAY / "base/ingest.yaml").read_text(), re.M)
    assert kubectl_lines("\n".join(told_there)) == [deleted]


def test_a_training_that_has_ended_is_deleted_before_it_is_applied() -> None:
    text = (KUBERAY / "gpu/train.yaml").read_text()
    start, *again = kubectl_lines("\n".join(re.findall(r"^#   (kubectl .*?)(?:  +#.*)?$", text, re.M)))
    name = yaml.safe_load(text)["metadata"]["name"]
    assert start[3:6] == ["patch", "rayjob", name]
    delete = ["kubectl", "-n", "mmrag", "delete", "rayjob", name, "--ignore-not-found"]
    assert again == [delete, ["kubectl", "apply", "-k", "deploy/kuberay/gpu"]]
    assert f"`{' '.join(delete)}`" in (ROOT / "deploy/README.md").read_text()


@pytest.mark.parametrize(
    ("kubectl", "applies"), [("echo Complete", True), ("echo Failed", False), ("exit 1", False)]
)
def test_the_endpoint_is_applied_after_an_ingest_that_is_complete(
    kubectl: str, applies: bool, tmp_path: Path
) -> None:
    """A wrong name, which kubectl refuses, is waited for no longer."""
    fake = tmp_path / "kubectl"
    fake.write_text(f'#!/bin/sh\ncase "$*" in *" get "*) {kubectl};; *) echo "applied";; esac\n')
    fake.chmod(0o755)
    told = re.search(r"^while state=.*?^\[ .*?$", (ROOT / "deploy/README.md").read_text(), re.M | re.S)
    assert told
    command = ["bash", "-c", f"PATH={tmp_path}:$PATH\n{told[0]}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    assert (done.returncode == 0) == applies == ("applied" in done.stdout)


@pytest.mark.parametrize(
    "page",
    ["docs/how-to/scale-out.md", "docs/how-to/secure.md"],
)
def test_sample_keys_are_ones_that_the_server_takes(page: str) -> None:
    told = re.findall(r"API_KEYS='?(\[.*\])", (ROOT / page).read_text("utf-8"))
    assert told
    for keys in told:
        assert ServeConfig.model_validate({"api_keys": json.loads(keys)}).api_keys
