"""cluster.yaml is what Ray's launcher accepts, and what its own comments say."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

ROOT = Path(__file__).parents[2]
FILE = ROOT / "cluster.yaml"


@pytest.fixture(scope="module")
def cluster() -> dict[str, Any]:
    return yaml.safe_load(FILE.read_text())


@pytest.fixture(scope="module")
def prepared() -> dict[str, Any]:
    """As `ray up` sees it: merged with the provider's defaults, checked by Ray. Needs no cloud."""
    # In a process of its own: unit tests do not import Ray.
    program = (
        "import json, sys, yaml\n"
        "from ray.autoscaler._private.util import prepare_config, validate_config\n"
        "config = prepare_config(yaml.safe_load(open(sys.argv[1])))\n"
        "validate_config(config)\n"
        "print(json.dumps(config))\n"
    )
    done = subprocess.run([sys.executable, "-c", program, FILE], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def node_types(prepared: dict[str, Any], *names: str) -> list[dict[str, Any]]:
    return [prepared["available_node_types"][name] for name in names]


def test_it_obeys_the_schema_in_the_ray_wheel(cluster):
    ray = importlib.util.find_spec("ray")
    assert ray is not None
    assert ray.origin is not None
    schema = json.loads((Path(ray.origin).parent / "autoscaler" / "ray-schema.json").read_text())
    jsonschema.validate(cluster, schema)


def test_it_has_a_head_a_cpu_type_and_a_gpu_type(cluster):
    types = cluster["available_node_types"]
    assert cluster["head_node_type"] == "head"
    assert set(types) == {"head", "cpu_decode", "gpu_encode"}
    assert types["head"]["resources"] == {"CPU": 0}
    assert "GPU" not in types["cpu_decode"]["resources"]
    assert types["gpu_encode"]["resources"]["GPU"] >= 1


def test_workers_scale_from_one_of_each_kind_to_what_the_cluster_allows(prepared):
    types = prepared["available_node_types"]
    assert types["head"]["max_workers"] == 0
    workers = node_types(prepared, "cpu_decode", "gpu_encode")
    # An ingest takes the GPUs that are there when it starts.
    assert all(worker["min_workers"] == 1 <= worker["max_workers"] for worker in workers)
    assert sum(worker["max_workers"] for worker in workers) <= prepared["max_workers"]
    assert prepared["upscaling_speed"] > 0
    assert prepared["idle_timeout_minutes"] > 0


def test_every_node_type_installs_the_same_vllm_included(prepared):
    """`serve deploy` builds the application in a task without CPUs, which Ray gives to any node, the head
    first: one without vLLM would have transformers answer on a CPU."""
    common = prepared["worker_setup_commands"]
    assert common == prepared["head_setup_commands"][: len(common)]
    assert not any(
        one.get("worker_setup_commands") for one in node_types(prepared, "cpu_decode", "gpu_encode")
    )
    [command] = [command for command in common if "mmrag[" in command]
    installed = set(re.findall(r"mmrag\[(.*)\]", command)[0].split(","))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert "gpu" in installed <= set(project["optional-dependencies"])
    # The images install the same: what the profiles and the three jobs need.
    image = (ROOT / "deploy" / "Dockerfile").read_text()
    images = [set(extras.split(",")) for extras in re.findall(r"'\.\[(.*)\]'", image)]
    assert images == [installed - {"gpu"}, installed]
    assert " -c ~/mmrag/requirements/constraints-gpu.txt " in command


@pytest.mark.parametrize("settings", ["pipelines/profiles/cluster.yaml", "deploy/kuberay/gpu/settings.yaml"])
def test_settings_of_a_cluster_with_gpus_name_vllm(settings):
    """Where it is missing the server then says so."""
    assert yaml.safe_load((ROOT / settings).read_text())["generator"]["engine"] == "vllm"


def test_what_pip_installs_from_is_sent_and_exists(cluster):
    sent = {remote: local for remote, local in cluster["file_mounts"].items() if "mmrag" in remote}
    named = {"pipelines", "pyproject.toml", "README.md", "LICENSE", "requirements"}
    assert {Path(remote).name for remote in sent} == named
    assert all((ROOT / local).exists() for local in sent.values())


def test_the_cluster_asks_for_the_token_that_is_sent(cluster):
    assert cluster["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    assert any("RAY_AUTH_MODE=token" in command for command in cluster["setup_commands"])


def test_passwords_are_sent_and_read_before_ray_starts(cluster):
    """From a file that stays out of git."""
    assert cluster["file_mounts"]["~/cluster.env"] == "./cluster.env"
    assert "/cluster.env" in (ROOT / ".gitignore").read_text().splitlines()
    assert any(". ~/cluster.env;" in command for command in cluster["setup_commands"])


def test_the_server_reads_what_the_ingest_wrote_from_the_disk_of_all_machines(cluster):
    [served] = yaml.safe_load((ROOT / "deploy" / "serve.yaml").read_text())["applications"]
    ingest = re.search(r"'mmrag ingest .*--index (\S+) --config (\S+)'", FILE.read_text())
    assert ingest
    assert served["args"] == {"index": ingest[1], "config": ingest[2]}
    assert all(Path(path).parent == Path("/mnt/mmrag") for path in served["args"].values())
    assert any(
        "mount -t nfs4" in command and "/mnt/mmrag" in command for command in cluster["setup_commands"]
    )


def test_machines_and_image_have_compilers(cluster):
    """For what torch and vLLM compile as they run. Python's headers come with the image."""
    image = (ROOT / "deploy" / "Dockerfile").read_text()
    machine = next(command for command in cluster["setup_commands"] if "python3-venv" in command)
    assert {"gcc", "g++", "python3-dev"} <= set(machine.split())
    assert {"gcc", "g++"} <= set(image.split())
    assert "FROM python:" in image


def test_setup_commands_are_valid_shell(prepared):
    commands = [command for key, value in prepared.items() if key.endswith("_commands") for command in value]
    assert len(commands) >= 10
    for command in commands:
        done = subprocess.run(["bash", "-n", "-c", command], capture_output=True, text=True)
        assert done.returncode == 0, f"{command}: {done.stderr}"


def test_every_placeholder_is_marked(cluster):
    lines = FILE.read_text().splitlines()
    samples = [line for line in lines if "InstanceType:" in line or "ImageId:" in line or "region:" in line]
    assert len(samples) == 7
    assert all("# CHANGE" in line for line in samples)
    assert all("# CHANGE" in line for line in lines if re.search(r"^[^#]*CHANGE", line))


def test_workers_may_read_the_corpus_and_all_machines_reach_the_disk(prepared):
    """Ray gives an instance profile to the head alone, and a security group of its own only after the EFS has
    to let it in."""
    names = ("head", "cpu_decode", "gpu_encode")
    head, *workers = (node_type["node_config"] for node_type in node_types(prepared, *names))
    assert "IamInstanceProfile" not in head
    assert all("CHANGE" in worker["IamInstanceProfile"]["Arn"] for worker in workers)
    assert all(node["SecurityGroupIds"] == head["SecurityGroupIds"] == ["sg-CHANGE"] for node in workers)
