"""A folder as a source: its pictures with their side-cars, its texts, or its HTML pages.

The rule: a folder with an .html or .htm file anywhere in it is a corpus of pages, and its pictures
are read where a page shows them; `pictures_beside_html` reads pictures and texts of their own too.
In any other folder every picture is a document, with the `.txt`, `.md` and `.json` beside it that
have its name (`cat.txt` or `cat.jpg.txt` for `cat.jpg`), and so is every `.txt` and `.md` without a
picture. In both a PDF is a document. A `.json` without a picture and files of other forms are left alone.
Hidden names are skipped.

An id is the file's path below the folder, behind the folder's own name: two folders that both hold
`1.png` stay apart. Of two of one name the first stands, whether they are read in one run or in two
(`plan`, `namesakes`).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

from pipelines.core.errors import BadPart, BadText, SourceError
from pipelines.ingest.sources import files, pdf, rows
from pipelines.ingest.sources.failures import passes, rejected_picture
from pipelines.ingest.sources.records import Form, Item, Parsed, Rejected, SourceConfig
from pipelines.ingest.sources.walk import Directory, Refused, address_of, walk

PICTURES = frozenset({".jpg", ".jpeg", ".png", ".gif", ".webp", ".tif", ".tiff", ".bmp"})
TEXTS = frozenset({".txt", ".md"})
PAGES = frozenset({".html", ".htm"})
_FORMS: dict[str, Form] = {".html": "html", ".htm": "html", ".pdf": "pdf"}
_SIDE_CARS = TEXTS | {".json"}
_MANIFESTS = frozenset({".jsonl", ".ndjson", ".csv", ".parquet", ".tar"})

log = logging.getLogger(__name__)


def suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()  # noqa: PTH122


def document_id(root: str, below: str) -> str:
    """`manual/de/index.html` for de/index.html below /data/manual."""
    name = files.base_name(root)
    return f"{name}/{below}" if name else below


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a file is listed: its directory, and the folder whose document it is."""

    directory: Directory
    root: str
    scope: str
    config: SourceConfig

    def id_of(self, name: str) -> str:
        return document_id(self.root, self.directory.path_of(name))

    def address_of(self, name: str) -> str:
        return address_of(self.directory, name, self.root, self.config)

    def target_of(self, name: str) -> str:
        """By which the ledger knows it, also where `address_of` refuses it."""
        address = f"{self.directory.address.rstrip('/')}/{name}"
        return files.printable(os.path.realpath(address) if name in self.directory.links else address)

    def stamps_of(self, *names: str) -> tuple[str, ...]:
        known = self.directory.stamps
        return tuple(known[name] for name in names) if known else ()

    def rejected(self, name: str, reason: str) -> Rejected:
        shown = files.printable(name)
        source = f"{self.directory.address.rstrip('/')}/{shown}"
        return Rejected(files.printable(self.id_of(name)), source, "list", reason)


def list_folder(root: str, config: SourceConfig) -> Iterator[Item | Rejected]:
    """The documents of the folder whose canonical address is `root`."""
    is_corpus_of_pages = _holds_pages(root, config)
    left_out = manifests = 0
    for directory in walk(root, config):
        if isinstance(directory, Refused):
            yield Rejected(document_id(root, directory.path), directory.address, "list", directory.reason)
            continue
        # A folder that is named like a picture is walked like any other, but its owner should hear of it.
        if directory.below and suffix(directory.below) in PICTURES:
            name = document_id(root, directory.below)
            yield Rejected(name, directory.address, "list", f"{directory.below}: is a folder, not a picture")
        place = _Place(directory, root, root, config)
        pictures = [name for name in directory.names if suffix(name) in PICTURES]
        side_cars = _side_cars(directory, pictures)
        taken = {side_car for beside in side_cars.values() for side_car in beside}
        texts = [name for name in directory.names if suffix(name) in TEXTS and name not in taken]
        manifests += sum(suffix(name) in _MANIFESTS for name in directory.names)
        if is_corpus_of_pages and not config.pictures_beside_html:
            left_out += len(pictures) + len(texts)
            pictures, texts = [], []
        for name in directory.names:
            if suffix(name) in PAGES:
                yield from _file_item("html", place, name)
            elif suffix(name) == ".pdf":
                if pdf.is_available():
                    yield from _file_item("pdf", place, name)
                else:
                    yield place.rejected(name, f"{files.printable(name)}: {pdf.NEEDS}")
        for name in pictures:
            yield from _picture_item(place, name, side_cars.get(name, []))
        for name in texts:
            yield from _file_item("text", place, name)
    if left_out:
        log.info(
            "%s holds HTML: %d pictures and texts are read only where a page shows them "
            "(pictures_beside_html: true reads each of them too)",
            root,
            left_out,
        )
    if manifests:
        log.warning(
            "%s: its %d .jsonl, .csv, .parquet or .tar files are not read; name each as SOURCE",
            root,
            manifests,
        )


def list_file(address: str, config: SourceConfig) -> Iterator[Item | Rejected]:
    """One picture, text, page or PDF, with the id that it would have as part of its folder.

    Raises SourceError for a picture whose folder cannot be listed: its texts may lie there.
    """
    root, name = files.parent(address), files.base_name(address)
    names = [name]
    if suffix(name) in PICTURES and not files.is_remote(address):
        try:
            names = sorted(os.listdir(root))  # noqa: PTH208 (plain strings; for its side-cars)
        except OSError as exc:
            raise SourceError(f"{address}: what lies beside it cannot be listed ({exc.strerror})") from exc
    place = _Place(Directory("", root, tuple(names)), root, address, config)
    if suffix(name) in PICTURES:
        yield from _picture_item(place, name, _side_cars(place.directory, [name]).get(name, []))
    else:
        yield from _file_item(_FORMS.get(suffix(name), "text"), place, name)


def _holds_pages(root: str, config: SourceConfig) -> bool:
    return any(
        suffix(name) in PAGES
        for directory in walk(root, config)
        if isinstance(directory, Directory)
        for name in directory.names
    )


def _side_cars(directory: Directory, pictures: list[str]) -> dict[str, list[str]]:
    """Picture → the side-cars beside it."""
    named: dict[str, list[str]] = {}
    for name in directory.names:
        if suffix(name) in _SIDE_CARS:
            named.setdefault(PurePosixPath(name).stem, []).append(name)
    found = {name: named.get(PurePosixPath(name).stem, []) + named.get(name, []) for name in pictures}
    return {name: beside for name, beside in found.items() if beside}


def _file_item(form: Form, place: _Place, name: str) -> Iterator[Item | Rejected]:
    try:
        address = place.address_of(name)
        identity = rows.check_id(place.id_of(name))
    except BadPart as exc:
        yield place.rejected(name, str(exc))
        return
    yield Item(
        form,
        identity,
        address,
        place.scope,
        place.root,
        inputs=(address,),
        tenant=place.config.tenant,
        stamps=place.stamps_of(name),
    )


def _picture_item(place: _Place, name: str, side_cars: list[str]) -> Iterator[Item | Rejected]:
    """The picture, with what its usable side-cars say; an unusable one is rejected alone. But the picture
    waits for one that may be readable later, and for a `.json` that tells no id and tenant: whose document
    this is, nobody can tell then."""
    row = rows.Row()
    inputs: list[str] = []
    used: list[str] = []
    try:
        picture = place.address_of(name)
        identity = rows.check_id(place.id_of(name))
    except BadPart as exc:
        yield place.rejected(name, str(exc))
        return
    for side_car in side_cars:
        where, wrong = place.target_of(side_car), ""
        try:
            address = place.address_of(side_car)
            if suffix(side_car) == ".json":
                row, wrong = _read_side_car(address, place.config)
            inputs.append(address)
            used.append(side_car)
        except BadPart as exc:
            yield Rejected(row.id or identity, where, "list", str(exc))
            if suffix(side_car) == ".json" or passes(exc):
                return
        if wrong:
            yield Rejected(row.id or identity, where, "list", f"{side_car}: {wrong}")
    yield Item(
        "picture",
        row.id or identity,
        picture,
        place.scope,
        place.root,
        rows.pack(row) if row != rows.Row() else b"",
        (picture, *inputs),
        place.config.tenant if row.tenant is None else row.tenant,
        place.stamps_of(name, *used),
    )


def _read_side_car(address: str, config: SourceConfig) -> tuple[rows.Row, str]:
    """As `rows.read_side_car`, of a file."""
    text = files.read_text(address, config.max_row_bytes)
    try:
        return rows.read_side_car(text)
    except BadPart as exc:
        raise BadPart(f"{files.base_name(address)}: {exc}") from exc


def parse_picture(item: Item, config: SourceConfig) -> Parsed:
    """A picture and its side-cars: `inputs` names the picture first."""
    picture, *side_cars = item.inputs
    row = rows.unpack(item.payload)
    texts = [row.text]
    images: list[str] = []
    rejected: list[Rejected] = []
    for address in (picture, *side_cars):
        try:
            if address == picture:
                images.append(files.locate(address, item.root, item.root, config))
            elif suffix(address) != ".json":  # which is in the payload
                texts.append(files.read_text(address, config.max_text_bytes))
        except BadPart as exc:
            own = address if address == picture else ""
            rejected.append(bad := rejected_picture(item, exc, address, own))
            if bad.picture:
                images.append(bad.picture)
    return rows.assemble(item, row, images, texts, rejected)


def parse_text(item: Item, config: SourceConfig) -> Parsed:
    """A text without a picture. Raises BadText."""
    try:
        text = files.read_text(item.address, config.max_text_bytes)
        return rows.assemble(item, rows.Row(), (), (text,))
    except BadPart as exc:
        raise BadText(str(exc)) from exc
