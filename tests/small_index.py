"""A small index without an ingest (pictures, chunks, two tenants, previews, ledger), and what it answers."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

import pyarrow as pa
from fakes import ColourModel, WordEmbedder, chunk_part, image_part, picture

from pipelines.core import images
from pipelines.core.encoder import Encoder
from pipelines.core.filters import parse
from pipelines.core.index import Index, IndexConfig
from pipelines.core.previews import save_preview
from pipelines.core.retriever import Query, SearchConfig
from pipelines.core.stores import embedded
from pipelines.core.stores.config import StoresConfig
from pipelines.core.types import store_key
from pipelines.ingest.ledger import SCHEMA, Ledger

TYPES = {"year": "number", "品牌": "str", "new": "bool"}
PICTURES = {
    "rose": ("red", (250, 10, 40)),
    "leaf": ("green", (20, 240, 60)),
    "sea": ("blue", (10, 70, 250)),
    "copy": ("red", (250, 10, 40)),
}
QUERIES = (
    Query("a red rose"),
    Query("a green leaf", where=parse("year >= 2021")),
    Query("孔距"),
    Query(image=picture("blue")),
    Query("a red", image=picture("green")),
    Query("a", image=picture("red"), mode="visually_similar", where=parse('tenant == "acme"')),
)


_EMBEDDER = WordEmbedder()  # one for all: its axes are the words in the order in which it met them


@contextmanager
def opened(directory: Path, stores: StoresConfig | None = None) -> Iterator[Index]:
    """An index of models that tests know, in real stores."""
    config = IndexConfig(stores=stores or StoresConfig())
    index = Index(
        directory, config, writable=True, encoder=lambda: Encoder(ColourModel()), embedder=lambda: _EMBEDDER
    )
    try:
        with index:
            yield index
    finally:
        for server in (directory / "vectors").glob("*"):
            embedded.stop(server)


@contextmanager
def filled(directory: Path) -> Iterator[Index]:
    """A small index in embedded stores. No two of its pictures score the same."""
    with opened(directory) as index:
        with index.write_lock():
            index.create()
        fill(index, PICTURES | {"copy": ("red", (200, 60, 0))})
        yield index


def fill(index: Index, pictures: Mapping[str, tuple[str, tuple[int, int, int]]] = PICTURES) -> None:
    """Four documents of a picture and two chunks each; two of them share one picture.

    Every chunk has a length of its own and a word of every query, so that no two of them score the same.
    """
    index.with_metadata_types(TYPES)
    rows = []
    for n, (document, (colour, rgb)) in enumerate(pictures.items()):
        tenant = "acme" if n % 2 else ""
        metadata = {"year": 2020 + n, "品牌": "甲" * n, "new": n > 1}
        caption = f"a {colour} {document}"
        texts = [f"{caption} 孔距" + " and" * 2 * n, f"a 孔距 of {document}" + " and" * (2 * n + 1)]
        rows.append(_put(index, document, picture(rgb), caption, texts, tenant, metadata))
    _end(index, rows)


def of_packaged_models(
    directory: Path, documents: Iterable[tuple[str, bytes, str, str]], stores: StoresConfig | None = None
) -> None:
    """One to be served: of each document id, picture, text and tenant."""
    with Index(directory, IndexConfig(stores=stores or StoresConfig()), writable=True) as index:
        with index.write_lock():
            index.create()
        _end(index, [_put(index, name, data, text, [text], tenant) for name, data, text, tenant in documents])


def _put(
    index: Index,
    document: str,
    data: bytes,
    caption: str,
    texts: list[str],
    tenant: str,
    metadata: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Its row of the ledger."""
    content = hashlib.sha256(data).hexdigest()
    save_preview(index.previews, content, images.decode(data))
    told: dict[str, Any] = {"metadata": dict(metadata or {}), "tenant": tenant}
    shown = image_part(document, 0, caption, content=content, **told)
    index.visual().upsert([shown], index.encoder().encode_asked(data))
    chunks = [chunk_part(document, text, k, images=[0][k:], **told) for k, text in enumerate(texts)]
    index.text().upsert(chunks, index.embedder().embed_passages(texts))
    index.lexical().upsert(chunks)
    return ledger_row(document, tenant, chunks=len(chunks))


def _end(index: Index, rows: list[dict[str, Any]]) -> None:
    for store in (index.visual(), index.text(), index.lexical()):
        store.flush()
    Ledger(index.directory).changed(pa.Table.from_pylist(rows, schema=SCHEMA))


def ledger_row(document: str, tenant: str = "", **fields: Any) -> dict[str, Any]:
    return {
        "document_key": store_key(tenant, document),
        "document_id": document,
        "tenant": tenant,
        "source": f"/{document}.png",
        "scope": "/",
        "inputs": [f"/{document}.png"],
        "stamp": None,
        "digest": "d",
        "fingerprint": "f",
        "images": 1,
        "chunks": 2,
        "rejected": 0,
        "status": "complete",
        "run": "run-1",
    } | fields


def answers(index: Index) -> list[list[dict[str, Any]]]:
    """The hits of every query, fused in either way, without the directory of their previews and what depends
    on the scores of words, whose scale is each engine's own: fused by ranks, a hit's score does not. Vectors'
    scores are rounded: servers sum in another order."""
    found = []
    for fusion in get_args(SearchConfig.model_fields["fusion"].annotation):
        retriever = index.retriever(SearchConfig(fusion=fusion))
        found += [[asdict(hit) for hit in retriever.search(query).hits] for query in QUERIES]
        for hit in (hit for hits in found[-len(QUERIES) :] for hit in hits if fusion != "ranks"):
            del hit["score"]
    assert all(found)
    for hit in (hit for hits in found for hit in hits):
        hit["image_uri"] = hit["image_uri"] and hit["image_uri"].rpartition("/")[2]
        hit["scores"] = {name: round(score, 5) for name, score in hit["scores"].items() if name != "lexical"}
    return found
