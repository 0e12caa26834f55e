"""Milvus 2.3.5 itself, killed and started again: what it acknowledged is there, flushed or not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from servers import milvus_server
from shelf import part
from store_contract import DIM

from pipelines.core.stores.config import MilvusConfig
from pipelines.core.stores.milvus import MilvusStore

pytestmark = pytest.mark.slow


def test_what_milvus_acknowledged_outlives_its_sigkill(tmp_path: Path) -> None:
    flushed, written = [part(f"f{n}") for n in range(200)], [part(f"w{n}") for n in range(200)]
    vectors = np.random.default_rng(0).normal(size=(400, DIM)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    # A short session: the next server waits until the killed one's has run out.
    with (
        milvus_server(tmp_path, session_s=5, killed=True) as uri,
        MilvusStore.open(MilvusConfig(uri=uri), "c", DIM) as store,
    ):
        store.upsert(flushed, vectors[:200])
        store.flush()
        store.upsert(written, vectors[200:])
        store.delete([flushed[0].key])
    with milvus_server(tmp_path) as uri, MilvusStore.open(MilvusConfig(uri=uri), "c", DIM) as store:
        kept = store.vectors([one.key for one in flushed + written])
        for one, vector in zip(flushed[1:] + written, vectors[1:], strict=True):
            np.testing.assert_allclose(kept[one.key], vector, rtol=1e-6)
        assert store.count() == len(kept) == 399
        assert store.search(vectors[250], 1)[0].part.key == written[50].key
