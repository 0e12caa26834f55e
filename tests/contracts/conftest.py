"""One server of each kind for all contract tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import servers

from pipelines.core.stores import embedded


@pytest.fixture(scope="session")
def milvus_lite_uri(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    directory = tmp_path_factory.mktemp("lite")
    yield embedded.attach(directory)
    embedded.stop(directory)


@pytest.fixture(scope="module")  # not longer: there can be but one at a time
def milvus_uri(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with servers.milvus_server(tmp_path_factory.mktemp("milvus")) as uri:
        yield uri


@pytest.fixture(scope="session")
def elastic_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with servers.elastic_server(tmp_path_factory.mktemp("elastic")) as url:
        yield url
