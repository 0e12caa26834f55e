"""Of which deployments the server is made: by layout, and for `serve deploy`. None is started."""

from __future__ import annotations

from pathlib import Path

import pytest
import ray
from ray.serve._private.build_app import build_app

from pipelines import cli_serve
from pipelines.core.errors import UsageError
from pipelines.core.index import Index, IndexConfig
from pipelines.serve.app import application, reserved
from pipelines.serve.deployments import Parts
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
        (["generator.engine=transformers", "search.aligner.model=tiny-aligner"], (3, 0)),
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
