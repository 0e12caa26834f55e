"""The stages of ingestion, each a callable on a batch of rows. Knows nothing of Ray or of stores.

parse items -> rows;  load pictures -> pixels;  encode pixels and text -> vectors.
A stage skips rows that an earlier one refused.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipelines.core import images
from pipelines.core.cache import VectorCache
from pipelines.core.embedder import Embedder
from pipelines.core.encoder import Encoder
from pipelines.core.errors import BadImage, BadPart, StoreError
from pipelines.core.files import disk_errors
from pipelines.core.job_metrics import Record, unrecorded
from pipelines.core.lazy import Lazy
from pipelines.core.previews import has_preview, save_preview
from pipelines.core.readings import Reading, format_reading, parse_reading, save_reading
from pipelines.core.stores.records import check_parts
from pipelines.core.types import Document, Part, part_id, store_key
from pipelines.ingest import perceptual_hash
from pipelines.ingest.chunk import ChunkConfig, chunks
from pipelines.ingest.hashing import document_digest, document_stamp, hash_file, stamp_file
from pipelines.ingest.in_hand import KILLS, InHand
from pipelines.ingest.metadata import conflict
from pipelines.ingest.metrics import ENCODE_SECONDS
from pipelines.ingest.rows import DOCUMENT, Row, part_row, refuse, row_part, table
from pipelines.ingest.sources import (
    AWAY,
    RULES,
    UNAVAILABLE,
    Item,
    Parsed,
    Rejected,
    SourceConfig,
    files,
    inside,
    parse,
    read_bytes,
    stage_of,
)
from pipelines.ingest.tally import Count, uncounted

Array = NDArray[Any]
_NOTHING_NOTED = InHand()


@dataclass(frozen=True, slots=True)
class _Read:
    """An item's document, its place in the listing, and (stamp, hash) of the files that it was read from."""

    place: int
    item: Item
    before: Mapping[str, tuple[str, str]]
    parsed: Parsed


class ParseItems:
    """Items -> a row for each part and one for the document (its files, its digest, its part count).

    Where there is one, `caption` adds to documents what a model says of their pictures, many at once, and
    `read_pictures` the text in them. An item that its readers die of (`in_hand`) is refused.
    """

    def __init__(
        self,
        sources: SourceConfig,
        chunking: ChunkConfig,
        read_pictures: Callable[[Parsed], Parsed] | None = None,
        caption: Callable[[Sequence[Parsed]], list[Parsed]] | None = None,
        count: Count = uncounted,
        in_hand: InHand = _NOTHING_NOTED,
    ) -> None:
        self._sources, self._chunking = sources, chunking
        self._read_pictures, self._caption, self._count = read_pictures, caption, count
        self._in_hand = in_hand

    def __call__(self, batch: pa.Table) -> pa.Table:
        start = time.perf_counter()
        rows: list[Row] = []
        placed = [(fields.pop("place"), Item(**fields)) for fields in batch.to_pylist()]
        killers = self._in_hand.killers(_name(item) for _, item in placed)
        read = [self._read(place, item, killers) for place, item in placed]
        self._in_hand("")
        parsed = [one.parsed for one in read]
        for one, captioned in zip(read, self._caption(parsed) if self._caption else parsed, strict=True):
            self._in_hand(_name(one.item))
            whole = self._read_pictures(captioned) if self._read_pictures else captioned
            rows += self._rows(one, _picture_by_picture(whole, len(one.parsed.document.passages)))
            self._count("document")
        self._in_hand("")
        share = (time.perf_counter() - start) / max(1, len(rows))
        return table(row | {"parse_s": share} for row in rows)

    def _read(self, place: int, item: Item, killers: Collection[str]) -> _Read:
        self._in_hand(_name(item))
        # Before anything is read: what changes later differs from its stamp and hash.
        largest = self._sources.largest_bytes
        before = {address: (stamp_file(address), hash_file(address, largest)) for address in item.inputs}
        try:
            _require_harmless(_name(item), killers)
            return _Read(place, item, before, parse(item, self._sources))
        except BadPart as exc:
            empty = Document(id=item.document_id, source=item.address, tenant=item.tenant)
            refused = Rejected(item.document_id, item.address, stage_of(exc, "parse"), str(exc))
            return _Read(place, item, before, Parsed(empty, (refused,)))

    def _rows(self, read: _Read, parsed: Parsed) -> list[Row]:
        document = parsed.document
        parts = [*_picture_rows(parsed), *(part_row(chunk) for chunk in chunks(document, self._chunking))]
        for n, bad in enumerate(one for one in parsed.rejected if not one.picture):
            parts.append(refuse(_document_part(document, n), bad.stage, bad.reason))
        if not parts:
            parts.append(refuse(_document_part(document, 0), "parse", "it holds neither text nor a picture"))
        return [
            *parts,
            self._document_row(read.item, parsed, read.before)
            | {"num_parts": len(parts), "place": read.place},
        ]

    def _document_row(
        self,
        item: Item,
        parsed: Parsed,
        before: Mapping[str, tuple[str, str]],
    ) -> Row:
        document = parsed.document
        shown = (inside.depends_on(address) for _, address in parsed.pictures())
        inputs = list(dict.fromkeys((*item.inputs, *shown, *parsed.wanted)))
        stamp = document_stamp(item, inputs, {address: stamp for address, (stamp, _) in before.items()})
        hashed = {address: sha for address, (_, sha) in before.items()}
        digest = document_digest(item, inputs, hashed, self._sources.largest_bytes)
        row = part_row(Part(document.id, "chunk", document.id, document.source, tenant=document.tenant))
        metadata = json.dumps(dict(document.metadata), ensure_ascii=False)
        return row | {
            "kind": DOCUMENT,
            "key": row["document_key"],
            "metadata": metadata,
            "scope": item.scope,
            "inputs": inputs,
            "stamp": stamp,
            "digest": digest,
        }


def _name(item: Item) -> str:
    """As the items of a run are told apart."""
    tenant = f" of {item.tenant}" if item.tenant else ""
    return f"{item.document_id}{tenant} ({item.address})"


def _require_harmless(name: str, killers: Collection[str]) -> None:
    if name in killers:
        raise BadPart(f"{name}: {KILLS} processes died over it; is it damaged, or too large for the memory?")


def _picture_by_picture(parsed: Parsed, own: int) -> Parsed:
    """What was said of a picture beside what was read in it, behind the document's `own` passages."""
    document = parsed.document
    added = sorted(document.passages[own:], key=lambda passage: passage.images)
    return replace(parsed, document=replace(document, passages=(*document.passages[:own], *added)))


def _picture_rows(parsed: Parsed) -> Iterator[Row]:
    document, missing = parsed.document, parsed.missing()
    captions = document.captions or ("",) * len(document.images)
    readings = document.readings or ((),) * len(document.images)
    pictures = zip(document.images, captions, readings, strict=True)
    for n, (address, caption, lines) in enumerate(pictures):
        part = Part(
            id=part_id(document.id, "image", n),
            kind="image",
            document_id=document.id,
            source=address,
            text=caption,
            metadata=document.metadata,
            tenant=document.tenant,
        )
        reading = format_reading(Reading(RULES, lines)) if lines else None
        row = part_row(part, address=address, reading=reading)
        bad = missing.get(address)
        yield refuse(row, bad.stage, bad.reason) if bad else row


def _document_part(document: Document, n: int) -> Row:
    """A row for what is refused before it becomes an image or a chunk."""
    part = Part(f"{document.id}#refused-{n}", "chunk", document.id, document.source, tenant=document.tenant)
    return part_row(part) | {"key": store_key(document.tenant, part.id)}


class CheckParts:
    """Refuse the parts that the index cannot keep: metadata of another type, or a field beyond the limits.

    A store would refuse the whole batch for one such part. Of documents that are `held` as they are in the
    index only what was refused goes on.
    """

    def __init__(self, types: Mapping[str, str], held: Collection[str] = frozenset()) -> None:
        self._types, self._held = types, held

    def __call__(self, batch: pa.Table) -> pa.Table:
        rows = batch.to_pylist()
        return table(self._checked(row) for row in rows if row["reason"] or not self._is_held(row))

    def _is_held(self, row: Row) -> bool:
        return row["document_key"] in self._held

    def _checked(self, row: Row) -> Row:
        if row["reason"] is not None or row["kind"] == DOCUMENT:
            return row
        part = row_part(row)
        if reason := conflict(part.metadata, self._types):
            return refuse(row, "metadata", reason)
        try:
            check_parts([part])
        except StoreError as exc:
            return refuse(row, "store", str(exc))
        return row


class LoadPictures:
    """Image rows -> content hash, preview, perceptual hash, and pixels at every scale.

    Instead of pixels the vector, if it is cached; `signs` caches the perceptual hashes. Under `readings` is
    kept by content what is known to stand in a picture. One that its readers die of (`in_hand`) is refused.
    Raises MmragError where the disk takes no preview.
    """

    def __init__(
        self,
        scales: Sequence[int],
        cache: VectorCache,
        signs: VectorCache,
        previews: Path,
        readings: Path,
        max_bytes: int,
        in_hand: InHand = _NOTHING_NOTED,
    ) -> None:
        self._scales, self._cache, self._signs = scales, cache, signs
        self._previews, self._readings, self._max_bytes = previews, readings, max_bytes
        self._in_hand = in_hand

    def __call__(self, batch: pa.Table) -> pa.Table:
        new: dict[str, Array] = {}
        rows = batch.to_pylist()
        killers = self._in_hand.killers(row["address"] for row in rows if _is_open(row, "image"))
        rows = [self._load(row, new, killers) if _is_open(row, "image") else row for row in rows]
        self._in_hand("")
        self._signs.put(new)
        return table(rows)

    def _load(self, row: Row, new: dict[str, Array], killers: Collection[str]) -> Row:
        start = time.perf_counter()
        self._in_hand(row["address"], row["key"])  # many documents may show it
        try:
            _require_harmless(row["address"], killers)
            with disk_errors(self._previews):
                loaded = self._read(row, new)
                if row["reading"]:
                    save_reading(self._readings, loaded["content"], parse_reading(row["reading"]))
        except BadImage as exc:
            loaded = refuse(row, "decode", f"{row['address']}: {exc}")
        except BadPart as exc:
            stage = stage_of(exc, "read")
            if stage == AWAY and not files.is_remote(row["address"]):
                stage = UNAVAILABLE  # it was there when its document was read, in this run
            loaded = refuse(row, stage, str(exc))
        return loaded | {"reading": None, "load_s": time.perf_counter() - start}

    def _read(self, row: Row, new: dict[str, Array]) -> Row:
        """The loaded row; signs that had to be computed go to `new`."""
        data = read_bytes(row["address"], self._max_bytes)
        content = hashlib.sha256(data).hexdigest()
        vector, signs = (cache.get([content]).get(content) for cache in (self._cache, self._signs))
        known = row | {"content": content} | ({} if vector is None else {"vector": vector.tobytes()})
        if vector is not None and signs is not None and has_preview(self._previews, content):
            return known | {"perceptual": perceptual_hash.packed(signs)}
        picture = images.decode(data)
        save_preview(self._previews, content, picture)
        scales = self._scales if vector is None else ()
        *pixels, small = images.pyramid(picture, (*scales, perceptual_hash.SIDE))
        new[content] = perceptual_hash.signs(small)
        known |= {"perceptual": perceptual_hash.packed(new[content])}
        return known | {"pixels": b"".join(scale.tobytes() for scale in pixels)} if pixels else known


class Encode:
    """Pixels and chunk text -> vectors. Loads each model at its first batch, once a worker.

    A picture or text that occurs again, in this batch or in the cache, is not encoded again.
    """

    def __init__(
        self,
        load_encoder: Callable[[], Encoder],
        load_embedder: Callable[[], Embedder],
        image_cache: VectorCache,
        text_cache: VectorCache,
        record: Record = unrecorded,
    ) -> None:
        self._encoder, self._embedder = Lazy(load_encoder), Lazy(load_embedder)
        self._image_cache, self._text_cache = image_cache, text_cache
        self._record = record

    def __call__(self, batch: pa.Table) -> pa.Table:
        start = time.perf_counter()
        rows = batch.to_pylist()
        pictures = {r["content"]: r["pixels"] for r in rows if _is_open(r, "image") and r["vector"] is None}
        texts = {text_content(r["text"]): r["text"] for r in rows if _is_open(r, "chunk")}
        vectors, new_pictures = _through(self._image_cache, pictures, self._encode_pictures)
        text_vectors, new_texts = _through(self._text_cache, texts, self._embed_texts)
        vectors |= text_vectors
        seconds = time.perf_counter() - start
        share = seconds / max(1, len(pictures) + len(texts))
        new = new_pictures | new_texts
        if new:
            self._record(ENCODE_SECONDS, seconds)
        return table(self._with_vector(row, vectors, new, share) for row in rows)

    def _encode_pictures(self, pictures: Mapping[str, bytes]) -> Array:
        encoder = self._encoder()
        return encoder.encode_images([split_pixels(data, encoder.scales) for data in pictures.values()])

    def _embed_texts(self, texts: Mapping[str, str]) -> Array:
        return self._embedder().embed_passages(list(texts.values()))

    def _with_vector(self, row: Row, vectors: Mapping[str, Any], new: set[str], share: float) -> Row:
        row = row | {"pixels": None}
        if row["reason"] is not None or row["kind"] == DOCUMENT or row["vector"] is not None:
            return row
        content = row["content"] if row["kind"] == "image" else text_content(row["text"])
        if content not in vectors:
            return refuse(row, "encode", "the model gave a vector that is not finite")
        encoded = content in new
        new.discard(content)  # of rows with equal content, the first one stands for the work
        return row | {"vector": vectors[content].tobytes(), "encoded": encoded, "encode_s": share}


def _through(
    cache: VectorCache, items: Mapping[str, Any], compute: Callable[[Mapping[str, Any]], Array]
) -> tuple[dict[str, Any], set[str]]:
    """Vectors by content hash, computed only where the cache has none, and which were computed.

    A vector that is not finite is left out.
    """
    vectors: dict[str, Any] = dict(cache.get(items))
    missing = {content: item for content, item in items.items() if content not in vectors}
    if not missing:
        return vectors, set()
    computed = dict(zip(missing, compute(missing), strict=True))
    finite = {content: vector for content, vector in computed.items() if np.isfinite(vector).all()}
    cache.put(finite)
    return vectors | finite, set(finite)


def split_pixels(data: bytes, scales: Sequence[int]) -> list[Array]:
    """The arrays (side, side, 3) of each scale, as views of one buffer."""
    pixels, start, arrays = np.frombuffer(data, dtype=np.uint8), 0, []
    for side in scales:
        size = side * side * 3
        arrays.append(pixels[start : start + size].reshape(side, side, 3))
        start += size
    return arrays


def text_content(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _is_open(row: Row, kind: str) -> bool:
    return row["kind"] == kind and row["reason"] is None
