"""Where documents come from: SOURCE arguments in, items out, and each item's document.

`list_items` runs on the driver, streams, and is cheap: it decodes no picture and parses no page.
`parse` runs anywhere and reads one document's texts. A source that is missing or of no known form raises
SourceError, and so do sources none of which can be read; whatever else is wrong with one is data. Nothing
here knows Ray, stores or pixels.

In a passage, a line break parts its heading from its text; there is no other line break in it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from pipelines.core.errors import BadPart, MissingDependency, SourceError
from pipelines.ingest.metadata import type_name
from pipelines.ingest.sources import files, pdf, rows
from pipelines.ingest.sources.contents import opened, read_bytes
from pipelines.ingest.sources.failures import stage_of
from pipelines.ingest.sources.folder import (
    PAGES,
    PICTURES,
    TEXTS,
    list_file,
    list_folder,
    parse_picture,
    parse_text,
    suffix,
)
from pipelines.ingest.sources.html import parse_html
from pipelines.ingest.sources.manifest import MANIFESTS, list_manifest
from pipelines.ingest.sources.pdf import parse_pdf
from pipelines.ingest.sources.records import (
    AWAY,
    FORBIDDEN,
    RULES,
    UNAVAILABLE,
    Form,
    Item,
    Parsed,
    Rejected,
    SourceConfig,
)
from pipelines.ingest.sources.rows import parse_row
from pipelines.ingest.sources.webdataset import list_tar

__all__ = [
    "AWAY",
    "FORBIDDEN",
    "RULES",
    "UNAVAILABLE",
    "Item",
    "Listing",
    "Parsed",
    "Rejected",
    "SourceConfig",
    "list_items",
    "opened",
    "parse",
    "read_bytes",
    "stage_of",
]

log = logging.getLogger(__name__)

_Lister = Callable[[str, SourceConfig], Iterator[Item | Rejected]]

_ACCEPTED = (
    "a folder of pictures (with .txt, .md or .json beside them) or of HTML pages, "
    "a .jsonl, .json, .csv or .parquet manifest, a WebDataset .tar, "
    "or one picture, .txt, .md, .html or .pdf file"
)

_PARSERS: dict[Form, Callable[[Item, SourceConfig], Parsed]] = {
    "picture": parse_picture,
    "text": parse_text,
    "row": parse_row,
    "html": parse_html,
    "pdf": parse_pdf,
}


@dataclass(frozen=True, slots=True)
class Listing:
    """What sources hold, as a stream that is read once.

    `scopes` maps the address of each source to whether it is a folder.
    """

    found: Iterator[Item | Rejected]
    scopes: Mapping[str, bool]

    def __iter__(self) -> Iterator[Item | Rejected]:
        return self.found


def list_items(
    sources: Sequence[str],
    config: SourceConfig,
    *,
    whole: bool = False,
    known: Collection[str] | None = None,
    types: Mapping[str, str] | None = None,
) -> Listing:
    """Every document of the sources, in a stable order. Some may have the same (tenant, id).

    Cells of a CSV, which has no types, are read as the `types` of metadata fields that the index has fixed,
    or that a source before it fixes.
    A source that is missing holds nothing any more if its address is one of those `known` from before.
    Raises SourceError at once for another that is missing, and for one of no known form (MissingDependency
    where its form needs an extra). One that turns out to be unreadable while it streams is refused at the
    end; if none can be read, or a folder cannot be listed, or all must be read (`whole`), SourceError is
    raised.
    """
    types = dict(types or {})
    classified = dict(_classify(source, config, known, types) for source in sources)
    scopes = {address: lister is list_folder for address, lister in classified.items()}
    return Listing(_listed(classified, config, whole, types), scopes)


def parse(item: Item, config: SourceConfig) -> Parsed:
    """The item's document, and the parts of it that cannot be used.

    Raises BadText or BadPart when there is no usable document.
    """
    return _PARSERS[item.form](item, config)


def _listed(
    classified: Mapping[str, _Lister], config: SourceConfig, whole: bool, types: dict[str, str]
) -> Iterator[Item | Rejected]:
    unreadable: dict[str, SourceError] = {}
    untyped = sum(suffix(address) == ".csv" for address in classified)
    for address, lister in classified.items():
        is_empty = True
        untyped -= suffix(address) == ".csv"
        try:
            for found in lister(address, config):
                is_empty = False
                if untyped and isinstance(found, Item):
                    _fix_types(types, found)
                yield replace(found, scope=address) if isinstance(found, Rejected) else found
        except SourceError as exc:
            if whole or lister is list_folder:
                raise
            unreadable[address] = exc
            if len(unreadable) == len(classified):
                raise  # a wrong command, rather than a bad file
        else:
            if is_empty:
                log.warning("%s: %s", address, "is gone" if lister is _list_gone else "holds no document")
    for address, error in unreadable.items():
        yield Rejected(files.base_name(address), address, "list", str(error), address)


def _fix_types(types: dict[str, str], item: Item) -> None:
    """As `metadata.extend` will: the first value of a field gives it its type."""
    for name, value in rows.unpack(item.payload).metadata.items():
        types.setdefault(name, type_name(value))


def _list_gone(address: str, config: SourceConfig) -> Iterator[Item | Rejected]:
    return iter(())


def _classify(
    source: str, config: SourceConfig, known: Collection[str] | None, types: Mapping[str, str]
) -> tuple[str, _Lister]:
    """The source's canonical address, and how it is listed. The one place that knows the forms."""
    if not source.strip():  # of an unset variable: as a path it would be the working directory
        raise SourceError(f"an empty SOURCE; name {_ACCEPTED}")
    try:
        if files.is_remote(source):
            address = files.remote_address(source, config)
            filesystem, path = files.open_filesystem(address)
            is_folder = files.remote_is_folder(filesystem, path, address)
        else:
            address = files.local_address(source)
            is_folder = files.is_folder(address, source)
    except BadPart as exc:
        raise SourceError(str(exc)) from exc
    if is_folder is None and known is not None and address in known:
        return address, _list_gone
    if is_folder is None:
        unknown = "" if known is None else ", nor does the index know documents of it"
        if files.is_remote(source) and "?" in source:
            unknown += " (no options of a store are read behind '?'; AWS_ENDPOINT_URL names another S3)"
        raise SourceError(f"{source}: does not exist{unknown}; a SOURCE is {_ACCEPTED}")
    if is_folder:
        return address, list_folder
    form = suffix(address)
    if form in MANIFESTS:
        return address, partial(list_manifest, types=types)
    if form == ".tar":
        return address, list_tar
    if address.lower().endswith((".tar.gz", ".tgz")):
        raise SourceError(f"{source}: is compressed, so no picture in it can be read alone; gunzip it first")
    if form == ".pdf" and not pdf.is_available():
        raise MissingDependency(f"{source}: {pdf.NEEDS}")
    if form in PICTURES | TEXTS | PAGES | {".pdf"}:
        return address, list_file
    raise SourceError(f"{source}: of no known form; a SOURCE is {_ACCEPTED}")
