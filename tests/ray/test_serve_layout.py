"""Of which deployments the server is made: by layout, and for `serve deploy`. None is started."""

from __future__ import annotations

from pathlib import Path

import pytest
import ray
from ray.serve._private.build_app import build_app

from pipelines import cli_serve
from pipelines.core.errors import UsageError
from pipelines.core.index import Index, IndexConfig
from pipelines.serve.app import application
from pipelines.serve.deployments import Parts
from pipelines.settings import load_settings

GRAPH = {"gateway", "retriever", "encoder", "generator"}


def deployments(application: object) -> set[str]:
    return {one.name for one in build_app(application, name="mmrag").deployments}


@pytest.mark.parametrize(("layout", "parts"), [("graph", GRAPH), ("compact", {"gateway", "generator"})])
def test_the_compact_layout_has_all_but_the_generator_in_the_gateway(
    tmp_path: Path, layout: str, parts: set[str]
) -> None:
    settings = load_settings(None, [f"serve.layout={layout}", "generator.engine=transformers"])
    groups = (getattr(settings, name) for name in ("index", "search", "answer", "generator", "serve"))
    assert deployments(application(Parts(tmp_path, *groups))) == parts


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
