"""Retrieval in one process: an index that may be rebuilt meanwhile, searched in threads. Knows no Ray."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from typing import Any, TypeVar

from prometheus_client.metrics_core import Metric

from pipelines.core.aligner import Aligner
from pipelines.core.index import Index
from pipelines.core.last_ingest import last_ingest
from pipelines.core.live import LiveIndex
from pipelines.core.patience import patiently
from pipelines.core.retriever import Query, SearchConfig
from pipelines.core.types import SearchResult
from pipelines.serve.config import ServeConfig
from pipelines.serve.drift import Drift, sampled
from pipelines.serve.logs import timed
from pipelines.serve.metrics import cache_lookups, ingested

_LOG = logging.getLogger(__name__)
T = TypeVar("T")


class Retrieval:
    """A Searcher, and what else a gateway asks of one. `aligner` stands for the configured one where it is
    loaded or runs elsewhere."""

    def __init__(
        self, index: Index, search: SearchConfig, serve: ServeConfig, aligner: Aligner | None = None
    ) -> None:
        self._directory = index.directory
        self._patience_s = serve.store_patience_s
        self._drift = Drift(serve.monitor.drift_window, partial(sampled, index))
        self._live = LiveIndex(index, search, aligner, self._drift.add)
        self._threads = ThreadPoolExecutor(serve.retriever.max_ongoing_requests, "search")

    def wait_for_stores(self) -> None:
        """Returns once a branch answers: a replica that cannot search is not to take over from one that can.

        Raises StoreUnavailable where none does for `serve.store_patience_s`, StoreError where one refuses.
        """
        patiently(lambda: self._live.search(Query("picture", k=1, is_probe=True)), self._patience_s)

    async def search(self, query: Query) -> SearchResult:
        with timed(_LOG, "search") as fields:
            result = await self._in_thread(self._live.search, query)
            fields |= {
                "hits": len(result.hits),
                "degraded": [part.partition(":")[0] for part in result.degraded],
            }
            return result

    async def has_content(self, content: str, tenant: str) -> bool:
        return await self._in_thread(self._has_content, content, tenant)

    def families(self) -> list[Metric]:
        """Its metrics, those that there are yet."""
        asked = self._live.pictures
        lookups = [cache_lookups(asked.hits, asked.misses)] if asked.hits or asked.misses else []
        at = last_ingest(self._directory)
        fresh = [] if at is None else [ingested(at)]
        return [*lookups, *fresh, *self._drift.families()]

    def _has_content(self, content: str, tenant: str) -> bool:
        with self._live.opened() as (index, _):
            return index.visual().has_content(content, tenant)

    async def _in_thread(self, call: Callable[..., T], *arguments: Any) -> T:
        run = copy_context().run  # the request's id and span go with it
        return await asyncio.get_running_loop().run_in_executor(self._threads, run, call, *arguments)
