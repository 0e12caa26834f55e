"""Text made fit for stores and people: charsets, white space, paragraphs. Knows no files or forms."""

from __future__ import annotations

import codecs
import re

from pipelines.core.errors import BadText

# Control characters, lone surrogates, byte-order marks, soft hyphens and zero-width spaces: none can be
# seen, some cannot be stored, and all of them keep a word from being found. (U+200D joins emoji: it stays.)
_INVISIBLE = re.compile(
    "[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\u00ad\u200b\u2060\ufeff\ufffe\uffff\ud800-\udfff]"
)
_CJK = "\u3000-\u303f\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff00-\uffef"
# A line break inside Chinese text is layout, not a space between words.
_CJK_BREAK = re.compile(rf"(?<=[{_CJK}])[^\S\n]*\n\s*(?=[{_CJK}])")
_SPACE = re.compile(r"\s+")
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


def storable(text: str) -> str:
    """The text without the characters that stores refuse or people cannot see."""
    return _INVISIBLE.sub("", text)


def tidy(text: str) -> str:
    """One line: white space collapsed, invisible characters gone."""
    return _SPACE.sub(" ", _CJK_BREAK.sub("", storable(text))).strip()


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
    """Text from bytes: by byte-order mark, else `charset`, else UTF-8. Raises BadText; guesses nothing."""
    for mark, encoding in (
        (codecs.BOM_UTF8, "utf-8-sig"),
        (codecs.BOM_UTF32_LE, "utf-32"),
        (codecs.BOM_UTF32_BE, "utf-32"),
        (codecs.BOM_UTF16_LE, "utf-16"),
        (codecs.BOM_UTF16_BE, "utf-16"),
    ):
        if raw.startswith(mark):
            charset = encoding
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
    try:
        return raw.decode(codec)
    except UnicodeDecodeError as exc:
        raise BadText(
            f"{name}: not {charset or 'UTF-8'} text (at byte {exc.start}); save it as UTF-8"
        ) from exc
    except LookupError as exc:  # a codec of bytes to bytes, such as "hex"
        raise BadText(f"{name}: declares the charset {charset!r}, which is none; save it as UTF-8") from exc
