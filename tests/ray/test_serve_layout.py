"""Of which deployments the server is made: by layout, and for `serve deploy`. None is started."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
import ray
from ray.serve._private.build_app import build_app

from pipelines import cli_serve
from pipelines.core.errors import MissingDependency, UsageError
from pipelines.core.generator import GeneratorConfig
from pipelines.core.index import Index, IndexConfig
from pipelines.serve.app import application, reserved
from pipelines.serve.config import VllmConfig
from pipelines.serve.deployments import Parts
from pipelines.serve.vllm import deployment_config, engine_kwargs, environment
from pipelines.settings import load_settings

GRAPH = {"gateway", "retriever", "encoder", "generator"}


def deployments(application: object) -> set[str]:
    return {one.name for one in build_app(application, name="mmrag").deployments}


def parts(index: Path, *assignments: str) -> Parts:
    settings = load_settings(None, assignments)
    groups = (getattr(settings, name) for name in ("index", "search", "answer", "generator", "serve"))
    return Parts(index, *groups)


@pytest.mark.parametrize(("layout", "names"), [("graph", GRAPH), ("compact", {"gateway", "generator"})])
def test_the_compact_layout_has_all_but_the_generator_in_the_gateway(
    tmp_path: Path, layout: str, names: set[str]
) -> None:
    served = parts(tmp_path, f"serve.layout={layout}", "generator.engine=transformers")
    assert deployments(application(served)) == names


@pytest.mark.parametrize(
    ("assignments", "wanted"),
    [
        (["generator.engine=transformers"], (3, 0)),
        (
            [
                "generator.engine=transformers",
                "search.aligner.model=tiny-aligner",
                "serve.aligner.num_cpus=2",
            ],
            (5, 0),
        ),
        (["generator.engine=transformers", "serve.layout=compact", "serve.gateway.min_replicas=4"], (3, 0)),
        (["generator.engine=vllm", "serve.vllm.device=gpu", "serve.vllm.tensor_parallel_size=2"], (3, 2)),
        (["generator.engine=vllm", "serve.vllm.device=cpu", "serve.vllm.num_cpus=8"], (10, 0)),
    ],
)
def test_what_its_replicas_take_of_a_cluster_is_known_before_it_starts(
    tmp_path: Path, assignments: list[str], wanted: tuple[int, int]
) -> None:
    found = reserved(parts(tmp_path, "serve.gateway.max_replicas=4", *assignments))
    assert (found["CPU"], found["GPU"]) == wanted


def test_vllm_that_is_not_installed_is_named_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr("pipelines.serve.vllm.version", none)
    with pytest.raises(MissingDependency, match=r"vllm needs vLLM .* or set generator\.engine=transformers"):
        reserved(parts(tmp_path, "generator.engine=vllm"))


def test_every_part_scales_as_the_settings_say(tmp_path: Path) -> None:
    scaled = {"min_replicas": 2, "max_replicas": 5, "target_ongoing_requests": 3, "num_cpus": 0.75}
    names = ("gateway", "retriever", "encoder", "transformers")
    told = [f"serve.{name}.{key}={value}" for name in names for key, value in scaled.items()]
    served = application(parts(tmp_path, "generator.engine=transformers", *told))
    for one in build_app(served, name="mmrag").deployments:
        scaling = one._deployment_config.autoscaling_config
        found = {key: getattr(scaling, key) for key in scaled if key != "num_cpus"}
        assert found | {"num_cpus": one.ray_actor_options["num_cpus"]} == scaled, one.name


def test_a_replica_that_is_to_go_finishes_its_requests(tmp_path: Path) -> None:
    told = ["generator.engine=transformers", "search.aligner.model=tiny-aligner", "serve.deadline_s=75"]
    built = build_app(application(parts(tmp_path, *told)), name="mmrag").deployments
    assert {one.name for one in built} == {*GRAPH, "aligner"}
    assert {one._deployment_config.graceful_shutdown_timeout_s for one in built} == {75}
    assert deployment_config(VllmConfig(), on_cpu=True, finish_s=75)["graceful_shutdown_timeout_s"] == 75


@pytest.mark.parametrize("layout", ["graph", "compact"])
def test_a_part_that_reserves_no_gpu_sees_none(tmp_path: Path, layout: str) -> None:
    """Ray alone would show it all of them, and `device: auto` would take memory that vLLM counts on."""
    told = [f"serve.layout={layout}", "search.aligner.model=tiny-aligner", "serve.transformers.num_gpus=0.5"]
    served = application(parts(tmp_path, "generator.engine=transformers", *told))
    built = {one.name: one.ray_actor_options for one in build_app(served, name="mmrag").deployments}
    reserving = built.pop("generator")
    assert reserving["num_gpus"] == 0.5
    assert "runtime_env" not in reserving
    assert "gateway" in built
    assert all(one["num_gpus"] == 0 for one in built.values())
    assert all(one["runtime_env"]["env_vars"] == {"CUDA_VISIBLE_DEVICES": ""} for one in built.values())
    # vLLM's engine gets its own by a placement group.
    assert "CUDA_VISIBLE_DEVICES" not in environment(VllmConfig(), on_cpu=False)


def test_vllm_scales_as_the_settings_say(tmp_path: Path) -> None:
    config = VllmConfig(min_replicas=2, max_replicas=5, target_ongoing_requests=3, num_cpus=4)
    on_gpus = deployment_config(config, on_cpu=False)
    assert on_gpus["ray_actor_options"] == {"num_cpus": 4}
    assert (on_gpus["max_ongoing_requests"], on_gpus["max_queued_requests"]) == (32, 64)
    scaling = on_gpus["autoscaling_config"]
    assert [scaling[key] for key in ("min_replicas", "max_replicas", "target_ongoing_requests")] == [2, 5, 3]
    sharded = VllmConfig(tensor_parallel_size=2, gpu_memory_utilization=0.5, engine_kwargs={"seed": 7})
    found = engine_kwargs(GeneratorConfig(max_model_len=512), sharded, on_cpu=False)
    wanted = {"tensor_parallel_size": 2, "gpu_memory_utilization": 0.5, "max_model_len": 512, "seed": 7}
    assert found.items() >= wanted.items()


def test_serve_deploy_builds_the_graph_of_an_index_and_a_settings_file(tmp_path: Path) -> None:
    with Index(tmp_path / "kb", IndexConfig(), writable=True) as index, index.write_lock():
        index.create()
    settings = tmp_path / "settings.yaml"
    settings.write_text("generator: {engine: transformers}")  # vLLM's builder would start a Ray, and leave it
    named = {"index": str(tmp_path / "kb"), "config": str(settings)}
    assert deployments(cli_serve.application(named)) == GRAPH
    assert not ray.is_initialized()
    with pytest.raises(UsageError, match="no index"):
        cli_serve.application({"index": str(tmp_path)})
