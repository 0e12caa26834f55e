"""A PDF as a document: of each page its text, and its picture as it is printed. Knows nothing of PDFium.

Each text names its page as its source (`manual.pdf#page=3`), and belongs to that page's picture; its lines
are a reading of the picture, as OCR makes of others. A page that cannot be read costs itself. What touches
the file runs in a process of its own (`pdf_child`).
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pipelines.core.errors import BadPart, BadText, MissingDependency, install_line
from pipelines.core.images import PREVIEW_SIDE
from pipelines.core.plain import tidy
from pipelines.core.readings import has_place
from pipelines.core.types import Document, Line, Passage
from pipelines.ingest.sources import files, inside, pdf_child
from pipelines.ingest.sources.records import Item, Parsed, Rejected, SourceConfig
from pipelines.ingest.sources.text import paragraphs, shorten

NEEDS = f"PDF documents need: {install_line('pdf')}"
_MAX_PAGES = 2000
_MAX_DEATHS = 5  # of the process over one document
_WAIT_S = 600.0  # for a document's texts, or for one picture, on a busy machine too
_MISSING = 4
_MAX_HELD_BYTES = 128 * 2**20


def is_available() -> bool:
    return find_spec("pypdfium2") is not None


def parse_pdf(item: Item, config: SourceConfig) -> Parsed:
    """The PDF's document. Raises BadText when no page of it can be read; MissingDependency without PDFium."""
    name = files.base_name(item.address)
    try:
        data = _whole(item.address, config.max_file_bytes)
        read = _read_texts(data, config.max_text_bytes)
    except BadPart as exc:
        raise BadText(f"{name}: {exc}" if not str(exc).startswith(item.address) else str(exc)) from exc
    if not read.texts:
        raise BadText(f"{name}: {read.refused[0] if read.refused else 'holds no page'}")
    sources = [inside.page(item.address, number) for number in read.texts]
    said = [paragraphs(text) for text in read.texts.values()]
    document = Document(
        id=item.document_id,
        source=item.address,
        passages=tuple(
            Passage(paragraph, (ordinal,), sources[ordinal])
            for ordinal, of_page in enumerate(said)
            for paragraph in of_page
        ),
        images=tuple(sources),
        captions=tuple(shorten(of_page[0]) if of_page else "" for of_page in said),
        readings=tuple(read.lines.values()),
        tenant=item.tenant,
    )
    rejected = (
        Rejected(item.document_id, item.address, "parse", f"{name}: {reason}") for reason in read.refused
    )
    return Parsed(document, tuple(rejected))


def read_page(address: str, number: int, max_bytes: int) -> bytes:
    """The page's picture as BMP, its long side at most `PREVIEW_SIDE`. Raises BadPart, MissingDependency.

    `max_bytes` bounds the PDF.
    """
    data = _whole(address, max_bytes)
    picture, died = _run(data, "page", number, PREVIEW_SIDE)
    if died or not picture:
        raise BadPart(f"{address}: page {number:,} {died or 'gives no picture'}")
    return picture


def _whole(address: str, max_bytes: int) -> bytes:
    """The PDF's bytes, which are held for its next page unless it may have changed. Raises BadPart."""
    stamp = files.stamp(address)
    if not stamp:
        return files.read_bytes(address, max_bytes)
    data = _read_once(address, stamp, max_bytes)
    if len(data) > _MAX_HELD_BYTES:
        _read_once.cache_clear()
    return data


@lru_cache(maxsize=1)  # a worker reads pages in their order
def _read_once(address: str, stamp: str, max_bytes: int) -> bytes:
    return files.read_bytes(address, max_bytes)


@dataclass(slots=True)
class _Texts:
    """By page, from 1; and why others are left out."""

    texts: dict[int, str] = field(default_factory=dict)
    lines: dict[int, tuple[Line, ...]] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)


def _read_texts(data: bytes, max_chars: int) -> _Texts:
    read = _Texts()
    pages, last, is_cut = 0, 0, False
    for deaths in range(1, _MAX_DEATHS + 1):
        out, died = _run(data, "text", last + 1, _MAX_PAGES, max(0, max_chars), PREVIEW_SIDE)
        for fact in _facts(out):
            if "pages" in fact:
                pages = fact["pages"]
                continue
            last = fact["page"]
            if "error" in fact:
                read.refused.append(f"page {last:,}: {fact['error']}")
                continue
            read.texts[last] = fact["text"]
            read.lines[last] = _placed(fact["lines"])
            max_chars -= len(fact["text"])
            if fact["is_cut"] and not is_cut:
                is_cut = True
                read.refused.append(f"page {last:,}: text from here on is left out (max_text_bytes)")
        if not died:
            break
        if not pages:
            raise BadPart(died)
        last += 1  # this page is what it died of
        more = "" if deaths < _MAX_DEATHS else ", and all pages after it are left out"
        read.refused.append(f"page {last:,} {died}{more}")
        if last >= min(pages, _MAX_PAGES):
            break
    if pages > _MAX_PAGES:
        read.refused.append(f"has {pages:,} pages, of which {_MAX_PAGES:,} are read; split it")
    return read


def _placed(lines: Sequence[tuple[str, Sequence[float]]]) -> tuple[Line, ...]:
    """All lines of a page, those too that its picture does not show; none where it shows none."""
    of_page = tuple(
        Line(text, (left, top, right, bottom), 1.0)
        for said, (left, top, right, bottom) in lines
        if (text := tidy(said))
    )
    return of_page if any(map(has_place, of_page)) else ()


def _facts(out: bytes) -> Iterator[dict[str, Any]]:
    for line in out.splitlines(keepends=True):
        if line.endswith(b"\n"):  # else it was cut off
            yield json.loads(line)


def _run(data: bytes, *arguments: object) -> tuple[bytes, str]:
    """What the process wrote, and what it died of ("" where it did not)."""
    command = [sys.executable, "-P", str(Path(pdf_child.__file__)), *map(str, arguments)]
    try:
        done = subprocess.run(command, input=data, capture_output=True, timeout=_WAIT_S, check=False)
    except subprocess.TimeoutExpired as exc:
        return exc.stdout or b"", f"takes more than {_WAIT_S:.0f} s"
    if done.returncode == 0:
        return done.stdout, ""
    if done.returncode > 0:  # it ended by itself
        said = done.stderr.decode(errors="replace").splitlines() or ["no readable PDF"]
        if (
            done.returncode == _MISSING
        ):  # as a fact about this PDF it would be remembered until the file changes
            raise MissingDependency(f"{NEEDS}, on every node ({said[-1]})")
        return done.stdout, said[-1]
    limits = f"{pdf_child.PAGE_CPU_S} s or {pdf_child.MEMORY_BYTES:,} bytes of memory"
    return done.stdout, f"takes more than {limits}, or is damaged"
