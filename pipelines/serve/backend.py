"""What the HTTP side needs of whoever answers. A test has its own; `app` puts Ray Serve behind it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from pipelines.core.answer import Question, Retrieved, Said
from pipelines.core.previews import Preview
from pipelines.core.retriever import Query
from pipelines.core.types import Answer, SearchResult

Event = Retrieved | Said | Answer


@dataclass(frozen=True, slots=True)
class Health:
    """`ready`: questions can be answered. `parts`: each is "ok", or says what is wrong."""

    ready: bool
    parts: Mapping[str, str]


class Backend(Protocol):
    """It may raise any MmragError, and nothing else on purpose. Work that is cancelled must end."""

    async def search(self, query: Query) -> SearchResult: ...

    def answer(self, question: Question) -> AsyncGenerator[Event, None]:
        """Ends with the Answer. Closing it ends the work."""

    async def picture(self, content: str, tenant: str | None) -> Preview | None:
        """By SHA-256 of the original; None where there is no such one, or it is another tenant's. `tenant`
        None sees every tenant's."""

    async def metadata_types(self) -> Mapping[str, str]: ...

    async def models(self) -> Sequence[str]:
        """`base` and `base:adapter`, the default first."""

    async def health(self) -> Health: ...
