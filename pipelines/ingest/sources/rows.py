"""A described document: the fields of a manifest's row or of a side-car, checked. Reads no manifest.

Fields: `id`, `image` or `images`, `text`, `caption`, `source`, `tenant`, `metadata` (an object), and
LLaVA's `conversations` (`[{"from", "value"}]`), whose turns are text too, without their `<image>` marks.
Every other field is metadata as well, and metadata are single texts, numbers and truth values.

A manifest whose rows have no `id` may also be the corpus of a public benchmark (`own_names`):

- BEIR's (github.com/beir-cellar/beir): `{"_id", "title", "text", "metadata"?}`. The title stands before the
  text, as BEIR's own models are given it; lists and objects in its `metadata` are left out;
- M-BEIR's (huggingface.co/datasets/TIGER-Lab/M-BEIR): `{"did", "txt", "img_path"}`; the rest is metadata.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace

from pipelines.core.errors import BadPart, NotAllowed, SourceError
from pipelines.core.plain import storable, tidy
from pipelines.core.prompts import IMAGE_TOKEN
from pipelines.core.types import Document, Metadata, Passage, Scalar
from pipelines.ingest.sources import files, inside
from pipelines.ingest.sources.failures import rejected_picture
from pipelines.ingest.sources.records import FORBIDDEN, MAY_RETURN, Item, Parsed, Rejected, SourceConfig
from pipelines.ingest.sources.text import paragraphs, shorten

TOO_MANY_DIGITS = "broken JSON: holds a number of more digits than are read"
KNOWN = frozenset(
    {"id", "image", "images", "text", "caption", "source", "tenant", "metadata", "conversations"}
)
_BEIR = {"_id": "id"}
_M_BEIR = {"did": "id", "txt": "text", "img_path": "image"}
"""What a benchmark's fields are called here."""
MAX_ID_BYTES = 1024
_INT64 = 2**63


@dataclass(frozen=True, slots=True)
class Cells:
    """A row as its file gives it, or why it cannot be read. `line` counts from 1.

    `pictures` are the addresses of those that the row holds itself.
    """

    line: int
    values: Mapping[str, object] | None = None
    reason: str = ""
    pictures: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Row:
    """`images` are the paths as the row wrote them; `tenant` is None where it names none."""

    id: str = ""
    images: tuple[str, ...] = ()
    text: str = ""
    caption: str = ""
    source: str = ""
    tenant: str | None = None
    metadata: Metadata = field(default_factory=dict)


def benchmark_names(names: Collection[str]) -> dict[str, str]:
    """Of fields with these names, those that a benchmark calls otherwise, and what they are called here."""
    if "id" not in names:
        if "_id" in names and "text" in names:
            return _BEIR
        if "did" in names and ("txt" in names or "img_path" in names):
            return _M_BEIR
    return {}


def own_names(cells: Mapping[str, object]) -> dict[str, object]:
    """The fields as `read_row` takes them. Raises BadPart where one is given by both names, and differs."""
    row, names = dict(cells), benchmark_names(cells)
    for theirs, ours in names.items():
        value = row.pop(theirs, None)
        if value in (None, ""):
            continue
        if row.get(ours) not in (None, "") and str(row[ours]) != str(value):
            raise BadPart(f"fields {theirs!r} and {ours!r} differ, and mean the same; keep one of them")
        row[ours] = value
    if "_id" in names:
        title, text = _text(row.pop("title", None), "title"), _text(row.get("text"), "text")
        row["text"] = f"{title} {text}".strip()
        if isinstance(own := row.get("metadata"), Mapping):
            row["metadata"] = {name: one for name, one in own.items() if not isinstance(one, list | dict)}
    return row


def read_row(cells: Mapping[str, object]) -> Row:
    """The row that these fields describe. Raises BadPart that names the field."""
    images = (*_paths(cells.get("image"), "image"), *_paths(cells.get("images"), "images"))
    tenant = cells.get("tenant")
    own = cells.get("metadata")
    if own is not None and not isinstance(own, Mapping):
        raise BadPart(f"field 'metadata' is {_kind(own)}; it must be an object")
    for name in own or ():  # a map of Parquet
        if not isinstance(name, str):
            raise BadPart(f"field 'metadata' has a name that is {_kind(name)}; it must be a text")
    others = {name: value for name, value in cells.items() if name not in KNOWN}
    return Row(
        id=_id(cells.get("id")),
        images=tuple(dict.fromkeys(images)),
        text="\n\n".join(
            filter(None, (_text(cells.get("text"), "text"), *_turns(cells.get("conversations"))))
        ),
        caption=_text(cells.get("caption"), "caption"),
        source=_text(cells.get("source"), "source"),
        tenant=None if tenant is None else _text(tenant, "tenant"),
        metadata=_metadata(others | dict(own or {})),
    )


def read_side_car(text: str) -> tuple[Row, str]:
    """The row that the JSON beside a picture holds, and why only its id and tenant could be used, or "".

    Raises BadPart where not even these can be: whose document this is, and under which id, nobody can tell.
    """
    cells = load_object(text)
    try:
        return read_row({name: value for name, value in cells.items() if name not in ("image", "images")}), ""
    except BadPart as exc:
        return read_row({name: cells.get(name) for name in ("id", "tenant")}), str(exc)


def check_columns(names: Sequence[str], address: str) -> None:
    """Raises SourceError for a table that cannot name a document."""
    if not {"id", "image", "images", "text"} & {*names, *benchmark_names(names).values()}:
        listed = ", ".join(repr(name) for name in names[:20]) or "none"
        raise SourceError(f"{address}: needs a column 'id', 'image', 'images' or 'text'; it has {listed}")
    if doubled := sorted(name for name, count in Counter(names).items() if count > 1):
        raise SourceError(f"{address}: has the column {doubled[0]!r} more than once")


def load_object(text: str) -> Mapping[str, object]:
    """The JSON object. Raises BadPart for other JSON, broken JSON, and NaN or Infinity."""
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
    except RecursionError as exc:
        raise BadPart("JSON is nested too deeply") from exc
    except json.JSONDecodeError as exc:
        raise BadPart(f"broken JSON: {exc.msg} at character {exc.pos + 1}") from exc
    except ValueError as exc:
        raise BadPart(TOO_MANY_DIGITS) from exc
    if not isinstance(value, dict):
        raise BadPart(f"JSON is {_kind(value)}, not an object")
    return value


def _refuse_constant(name: str) -> object:
    raise BadPart(f"JSON holds {name}, which is no number")


def check_id(identity: str) -> str:
    """The id. Raises BadPart for one that the stores cannot keep."""
    if identity != storable(identity):
        raise BadPart(f"id {storable(identity)!r} holds invisible or broken characters")
    if len(identity.encode()) > MAX_ID_BYTES:
        raise BadPart(f"id {identity[:60]!r}… has more than {MAX_ID_BYTES} bytes")
    return identity


def _id(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise BadPart(f"field 'id' is {_kind(value)}; it must be a text or a whole number")
    return check_id(str(value).strip())


def _paths(value: object, name: str) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, str | list | tuple):
        raise BadPart(f"field {name!r} is {_kind(value)}; it must be a path or a list of paths")
    found = [value] if isinstance(value, str) else value
    for path in found:
        if not isinstance(path, str):
            raise BadPart(f"field {name!r} holds {_kind(path)}; it must be a path or a list of paths")
    if not all(files.is_utf8(path) for path in found):
        raise BadPart(f"field {name!r} holds a path with broken characters")
    return tuple(path.strip() for path in found if path.strip())


def _text(value: object, name: str) -> str:
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise BadPart(f"field {name!r} is {_kind(value)}; it must be a text")
    return storable(str(value)).strip()


def _turns(value: object) -> tuple[str, ...]:
    """What is said in LLaVA's conversation, turn by turn."""
    turns = () if value is None else value
    if not isinstance(turns, Sequence) or not all(
        isinstance(turn, Mapping) and isinstance(turn.get("value"), str) for turn in turns
    ):
        raise BadPart("field 'conversations' must be a list of turns, each with a text 'value'")
    return tuple(storable(turn["value"].replace(IMAGE_TOKEN, " ")).strip() for turn in turns)


def _metadata(values: Mapping[str, object]) -> dict[str, Scalar]:
    return {storable(name): _scalar(name, value) for name, value in values.items() if value is not None}


def _scalar(name: str, value: object) -> Scalar:
    if isinstance(value, str):
        return storable(value)
    if isinstance(value, bool):
        return value
    if isinstance(value, int) and -_INT64 <= value < _INT64:
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    raise BadPart(
        f"metadata field {name!r} is {_kind(value)}; it must be a text, a finite number, true or false"
    )


def _kind(value: object) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return f"{value}"
    if isinstance(value, int) and not isinstance(value, bool):
        return "a number beyond 64 bits" if abs(value) >= _INT64 else "a number"
    if value is None:
        return "null"
    names = {bool: "true or false", float: "a number", str: "a text", list: "a list", dict: "an object"}
    return names.get(type(value), f"a {type(value).__name__}")


def pack(row: Row) -> bytes:
    """The row as an item's payload: equal rows give equal bytes."""
    return json.dumps(asdict(row), ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()


def row_item(row: Row, address: str, inputs: tuple[str, ...], config: SourceConfig) -> Item:
    """The item of a row that has its id, of the file at `address`. Raises BadPart beyond the bound."""
    tenant = config.tenant if row.tenant is None else row.tenant
    # The id and the tenant stand in the item; what a payload holds is what makes a row another row.
    payload = pack(replace(row, id="", tenant=None))
    if len(payload) > config.max_row_bytes:
        raise BadPart(
            f"has {len(payload):,} bytes, more than the {config.max_row_bytes:,} of sources.max_row_bytes"
        )
    return Item("row", row.id, address, address, files.parent(address), payload, inputs, tenant)


def unpack(payload: bytes) -> Row:
    if not payload:
        return Row()
    fields = json.loads(payload)
    return Row(**fields | {"images": tuple(fields["images"])})


def parse_row(item: Item, config: SourceConfig) -> Parsed:
    """The document of a row; a picture that cannot be used is rejected alone."""
    row = unpack(item.payload)
    images = [address for address in item.inputs if inside.split(address)]
    rejected: list[Rejected] = []
    for path in row.images:
        address = ""
        try:
            address = files.resolve(path, files.parent(item.address), item.root, config)
            files.check(address, path, config)
            images.append(address)
        except BadPart as exc:
            rejected.append(bad := rejected_picture(item, exc, item.address, address))
            if bad.picture:
                images.append(bad.picture)
    return assemble(item, row, images, (row.text,), rejected)


def assemble(
    item: Item, row: Row, images: Sequence[str], texts: Sequence[str], rejected: Sequence[Rejected] = ()
) -> Parsed:
    """A document whose texts all belong to all of its pictures. Raises BadPart when nothing is left of it
    for good, NotAllowed for a picture's sake; where that may return, it is empty beside what is rejected."""
    images = tuple(dict.fromkeys(images))
    said = [paragraph for text in texts for paragraph in paragraphs(text)]
    caption = tidy(row.caption)
    if not said and not caption and not images:
        if any(one.stage in MAY_RETURN for one in rejected):
            return Parsed(Document(item.document_id, item.address, tenant=item.tenant), tuple(rejected))
        if forbidden := [one.reason for one in rejected if one.stage == FORBIDDEN]:
            raise NotAllowed(forbidden[0])
        raise BadPart(rejected[0].reason if rejected else "holds neither a picture nor text")
    passages = ([caption] if caption else []) + said
    shown = caption or shorten(said[0] if said else "")
    document = Document(
        id=item.document_id,
        source=row.source or (images[0] if images else item.address),
        passages=tuple(Passage(text, tuple(range(len(images)))) for text in passages),
        images=images,
        captions=(shown,) * len(images),
        metadata=row.metadata,
        tenant=item.tenant,
    )
    return Parsed(document, tuple(rejected))
