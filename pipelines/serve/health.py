"""What a question would meet, found out by asking one. Knows neither Ray nor HTTP."""

from __future__ import annotations

import asyncio
import time
from typing import Final

from pipelines.core.answer import Searcher
from pipelines.core.errors import MmragError
from pipelines.core.generator import Generator, Prompt, Sampling
from pipelines.core.prompts import Turn
from pipelines.core.retriever import Query
from pipelines.serve.backend import Health

_EVERY_S: Final = 5.0
_TIMEOUT_S: Final = 20.0
_BRANCH_TIMEOUT_S: Final = 5.0
"""So that one that hangs is named, and the others count, before the probe itself runs out of time."""


class Probe:
    """Asks anew every few seconds at most."""

    def __init__(self, searcher: Searcher, generator: Generator) -> None:
        self._searcher, self._generator = searcher, generator
        self._last: tuple[float, Health] | None = None
        self._probing = asyncio.Lock()

    async def health(self) -> Health:
        async with self._probing:
            if self._last is None or time.monotonic() - self._last[0] > _EVERY_S:
                self._last = (time.monotonic(), await self._asked())
            return self._last[1]

    async def _asked(self) -> Health:
        searched, said = await asyncio.gather(self._search(), self._generate())
        ready = said == "ok" and any(state == "ok" for state in searched.values())
        return Health(ready, searched | {"generator": said})

    async def _search(self) -> dict[str, str]:
        question = Query("picture", k=1, timeout_s=_BRANCH_TIMEOUT_S, is_probe=True)
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                result = await self._searcher.search(question)
        except (MmragError, TimeoutError) as exc:
            return {"retrieval": str(exc) or "no answer in time"}
        return {"retrieval": "ok"} | dict(part.split(": ", 1) for part in result.degraded)

    async def _generate(self) -> str:
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                async for _ in self._generator.stream(Prompt((Turn("user", "?"),), ()), Sampling(1)):
                    pass
        except (MmragError, TimeoutError) as exc:
            return str(exc) or "no answer in time"
        return "ok"
