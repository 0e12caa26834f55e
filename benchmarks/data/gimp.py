"""The GIMP manual's words -> its pictures, in English and Chinese.

The documents are pictures alone: an index of the pages themselves would find the text and not look. A query
is a heading (with the page's before it: "Crop: Options"), with the pictures of its section, or the paragraph
that stands before pictures, with these. Left out are pictures that stand in several sections or have no side
of 64 pixels (icons), words that stand twice, and those of the Chinese manual that were not translated. A page
is on one side, in both languages.
"""

from __future__ import annotations

import re
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lxml import etree
from PIL import Image

from .judged import Question, write
from .packages import Package, fetch, unpack

TASK = "retrieval"
LICENCE = "GFDL-1.2-or-later"
MANUALS = {
    "en": (
        Package(
            "debian",
            "gimp-help-en",
            "2.10.34-2",
            "a2deec76763aaf2fcdd197bac0736cdcb0770ba993d48d233329e1c92b0bfe36",
        ),
        "usr/share/gimp/2.0/help/en",
    ),
    "zh": (
        Package(
            "debian",
            "gimp-help-zh-cn",
            "2.10.34-2",
            "4b2c2c8c0e92dde4d278d668e0ae83fd3731ef1e717d76240ae60339b703efda",
        ),
        "usr/share/gimp/2.0/help/zh_CN",
    ),
}
MIN_SIDE = 64
MIN_CHARACTERS = {"en": 40, "zh": 15}
"""Of a paragraph; "as follows:" asks for nothing."""
_NO_TEXT = "navheader", "navfooter", "toc", "indexdiv"
_HEADINGS = frozenset(f"h{level}" for level in range(1, 7))
_READ = {*_HEADINGS, "p", "img"}
_HAN = re.compile(r"[\u4e00-\u9fff]")
_NUMBERING = re.compile(r"^(?:[\d.]+|第\s*\S+\s*章\s*\.?|Chapter\s+\d+\.|Appendix\s+\w+\.)\s*")


@dataclass(frozen=True, slots=True)
class Passage:
    """A heading or a paragraph of a page, and the pictures that it has, as the page names them."""

    kind: str
    text: str
    pictures: tuple[str, ...]


def fetch_manual(language: str, work: Path) -> Path:
    """The manual's folder, with pages and images."""
    package, below = MANUALS[language]
    return unpack(fetch(package, work / "downloads"), below, work / "manuals" / language)


def build(work: Path, out: Path) -> None:
    manuals = {language: fetch_manual(language, work) for language in MANUALS}
    pages = {language: _passages(manual) for language, manual in manuals.items()}
    pictures = candidates(pages["en"], manuals["en"])
    for picture in pictures:  # they are the same files in both languages
        (out / picture).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(manuals["en"] / picture, out / picture)
    documents = [{"id": picture.removeprefix("images/"), "image": picture} for picture in pictures]
    asked = [one for language in MANUALS for one in questions(language, pages[language], set(pictures))]
    write(out, documents, asked)


def _passages(manual: Path) -> dict[str, list[Passage]]:
    return {page.stem: list(passages(page.read_bytes())) for page in sorted(manual.glob("*.html"))}


def passages(page: bytes) -> Iterator[Passage]:
    """The page's headings and paragraphs in their order, those without pictures, too."""
    parser = etree.HTMLParser(encoding="utf-8", no_network=True, remove_comments=True, remove_pis=True)
    title = ""
    heading, paragraph = ("", []), ("", [])
    for element in _read(etree.fromstring(page, parser)):
        if element.tag == "img":
            for _, pictures in (heading, paragraph):
                pictures.append(element.get("src", ""))
        elif element.tag in _HEADINGS:
            yield from _ended(heading, paragraph)
            words = _NUMBERING.sub("", _words(element))
            heading, paragraph = (f"{title}: {words}" if title else words, []), ("", [])
            title = title or words
        elif element.get("class") != "title":  # a figure's, which names the picture
            yield from _ended(("", []), paragraph)
            paragraph = (_words(element), [])
    yield from _ended(heading, paragraph)


def _read(root: etree._Element) -> Iterator[etree._Element]:
    walker = etree.iterwalk(root, events=("start",))
    for _, element in walker:
        if element.get("class") in _NO_TEXT:
            walker.skip_subtree()
        elif (
            element.tag == "p" or element.tag in _HEADINGS or (element.tag == "img" and not _is_sign(element))
        ):
            yield element


def _is_sign(element: etree._Element) -> bool:
    """The picture beside a note or a warning."""
    return (element.get("alt") or "").startswith("[")


def _ended(*passages: tuple[str, list[str]]) -> Iterator[Passage]:
    for kind, (text, pictures) in zip(("heading", "paragraph"), passages, strict=True):
        if text:
            yield Passage(kind, text, tuple(dict.fromkeys(pictures)))


def _words(element: etree._Element) -> str:
    return " ".join("".join(map(str, element.itertext())).split())


def candidates(pages: dict[str, list[Passage]], manual: Path) -> list[str]:
    """The pictures that stand in one section alone, and are large enough."""
    stands = Counter(
        picture
        for found in pages.values()
        for passage in found
        if passage.kind == "heading"
        for picture in passage.pictures
    )
    return [picture for picture in sorted(stands) if stands[picture] == 1 and _is_large(manual, picture)]


def _is_large(manual: Path, picture: str) -> bool:
    if not (manual / picture).resolve().is_relative_to((manual / "images").resolve()):
        return False
    if not (manual / picture).is_file():
        return False
    with Image.open(manual / picture) as image:
        return max(image.size) >= MIN_SIDE


def questions(language: str, pages: dict[str, list[Passage]], known: set[str]) -> Iterator[Question]:
    texts = Counter(passage.text for found in pages.values() for passage in found)
    for page, found in pages.items():
        for number, passage in enumerate(found):
            relevant = [one.removeprefix("images/") for one in passage.pictures if one in known]
            least = MIN_CHARACTERS[language] if passage.kind == "paragraph" else 1
            ours = _language(passage.text) == language and len(passage.text) >= least
            if relevant and ours and texts[passage.text] == 1:
                name = f"{language}-{page}-{number}-{passage.kind}"
                row = {"id": name, "text": passage.text, "language": language, "relevant": relevant}
                yield Question(page, row)


def _language(text: str) -> str:
    """Chinese where at least a third of the characters are: "第 2.7 节" stands in English paragraphs, too."""
    return "zh" if 3 * len(_HAN.findall(text)) >= len(text) else "en"
