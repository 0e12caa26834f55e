"""Text made fit for stores and people: charsets, white space, paragraphs. Knows no files or forms."""

from __future__ import annotations

import codecs
import re

from pipelines.core.errors import BadText
from pipelines.core.plain import tidy

_PARAGRAPH = re.compile(r"\n[^\S\n]*\n\s*")

# Python's codecs that are no character sets of documents, or take quadratic time on hostile input.
_NOT_CHARSETS = {
    "punycode",
    "idna",
    "unicode_escape",
    "raw_unicode_escape",
    "utf-7",
    "undefined",
    "mbcs",
    "oem",
}
# As browsers read these labels: pages that declare the smaller set use the larger one.
_LARGER = {"gb2312": "gb18030", "gbk": "gb18030", "iso8859-1": "cp1252", "ascii": "cp1252"}


def paragraphs(text: str) -> tuple[str, ...]:
    """The paragraphs (parted by empty lines) of plain text, each on one line."""
    found = (
        tidy(paragraph) for paragraph in _PARAGRAPH.split(text.replace("\r\n", "\n").replace("\r", "\n"))
    )
    return tuple(paragraph for paragraph in found if paragraph)


def shorten(text: str, max_chars: int = 160) -> str:
    """At most `max_chars` characters, cut at a space where there is one."""
    if len(text) <= max_chars:
        return text
    head = text[: max_chars - 1]
    space = head.rfind(" ")
    return (head[:space] if space > max_chars // 2 else head).rstrip() + "…"


def decode(raw: bytes, name: str, charset: str | None = None) -> str:
    """Text from bytes: by byte-order mark, else `charset`, else UTF-8. Raises BadText; guesses nothing.

    `charset` is what the text itself declares, in ASCII: UTF-16 is then read as UTF-8, as browsers do (WHATWG
    HTML, "prescan a byte stream to determine its encoding").
    """
    marked = False
    for mark, encoding in (
        (codecs.BOM_UTF8, "utf-8-sig"),
        (codecs.BOM_UTF32_LE, "utf-32"),
        (codecs.BOM_UTF32_BE, "utf-32"),
        (codecs.BOM_UTF16_LE, "utf-16"),
        (codecs.BOM_UTF16_BE, "utf-16"),
    ):
        if raw.startswith(mark):
            charset, marked = encoding, True
            break
    codec = "utf-8"
    if charset is not None:
        try:
            codec = codecs.lookup(charset).name
        except (LookupError, ValueError) as exc:
            raise BadText(f"{name}: declares the unknown charset {charset!r}; save it as UTF-8") from exc
        if codec in _NOT_CHARSETS:
            raise BadText(f"{name}: declares the charset {charset!r}, which is not read; save it as UTF-8")
        codec = _LARGER.get(codec, codec)
        if not marked and codec.startswith(("utf-16", "utf-32")):  # its own letters say that it is not
            charset, codec = None, "utf-8"
    try:
        return raw.decode(codec)
    except UnicodeDecodeError as exc:
        raise BadText(
            f"{name}: not {charset or 'UTF-8'} text (at byte {exc.start}); save it as UTF-8"
        ) from exc
    except LookupError as exc:  # a codec of bytes to bytes, such as "hex"
        raise BadText(f"{name}: declares the charset {charset!r}, which is none; save it as UTF-8") from exc
