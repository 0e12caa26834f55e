"""The GIMP manual's words -> its pictures, in English and Chinese.

A query is a heading (with the page's before it: "Crop: Options"), with the pictures of its section, or the
paragraph that stands before pictures, with these: of one section one of the two kinds, drawn by its
SHA-256, and in one language, in Chinese where it was translated. A document is a picture with what else its
section says near it, in both languages; what is asked is withheld from all: an index of pages would find
the text itself. Around a Chinese heading the documents are mostly English: little was translated. Left out
are pictures that stand in several sections or have no side of 64 pixels (icons), words that stand twice,
and those of the Chinese manual that were not translated. A page is on one side, in both languages.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
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
KINDS = "heading", "paragraph"
_NO_TEXT = "navheader", "navfooter", "toc", "indexdiv"
_HEADINGS = frozenset(f"h{level}" for level in range(1, 7))
_READ = {*_HEADINGS, "p", "img"}
_HAN = re.compile(r"[\u4e00-\u9fff]")
_NUMBERING = re.compile(r"^(?:[\d.]+|第\s*\S+\s*章\s*\.?|Chapter\s+\d+\.|Appendix\s+\w+\.)\s*")


@dataclass(slots=True)
class Passage:
    """A heading or a paragraph of a page. `section`: how many headings there are up to it. `pictures`: those
    that stand below it, as the page names them."""

    kind: str
    text: str
    section: int
    pictures: list[str] = field(default_factory=list)


Pages = dict[str, list[Passage]]
Section = tuple[str, int]
"""A page, and a section's number in it: the same in both languages."""


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
    asked: dict[Section, list[Question]] = {}
    for language in MANUALS:  # Chinese comes last, and replaces the English questions of its sections
        asked |= questions(language, pages[language], set(pictures))
    all_asked = [question for of_section in asked.values() for question in of_section]
    withheld = {question.row["text"] for question in all_asked}
    write(out, [document(picture, pages, withheld) for picture in pictures], all_asked)


def _passages(manual: Path) -> Pages:
    return {page.stem: passages(page.read_bytes()) for page in sorted(manual.glob("*.html"))}


def passages(page: bytes) -> list[Passage]:
    """The page's headings and paragraphs in their order, those without pictures, too."""
    parser = etree.HTMLParser(encoding="utf-8", no_network=True, remove_comments=True, remove_pis=True)
    found = [Passage("heading", "", 0)]
    heading = paragraph = found[0]
    for element in _read(etree.fromstring(page, parser)):
        if element.tag == "img":
            for one in (heading,) if paragraph is heading else (heading, paragraph):
                one.pictures.append(element.get("src", ""))
        elif element.tag in _HEADINGS:
            title = next((one.text for one in found if one.text and one.kind == "heading"), "")
            words = _NUMBERING.sub("", _words(element))
            heading = paragraph = Passage(
                "heading", f"{title}: {words}" if title else words, heading.section + 1
            )
            found.append(heading)
        elif element.get("class") != "title":  # a figure's, which names the picture
            paragraph = Passage("paragraph", _words(element), heading.section)
            found.append(paragraph)
    return [one for one in found if one.text]


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


def _words(element: etree._Element) -> str:
    return " ".join("".join(map(str, element.itertext())).split())


def candidates(pages: Pages, manual: Path) -> list[str]:
    """The pictures that stand in one section alone, and are large enough."""
    stands = Counter(
        picture
        for found in pages.values()
        for passage in found
        if passage.kind == "heading"
        for picture in dict.fromkeys(passage.pictures)
    )
    return [picture for picture in sorted(stands) if stands[picture] == 1 and _is_large(manual, picture)]


def _is_large(manual: Path, picture: str) -> bool:
    if not (manual / picture).resolve().is_relative_to((manual / "images").resolve()):
        return False
    if not (manual / picture).is_file():
        return False
    with Image.open(manual / picture) as image:
        return max(image.size) >= MIN_SIDE


def questions(language: str, pages: Pages, known: set[str]) -> dict[Section, list[Question]]:
    """Those of one kind for each section that has any."""
    texts = Counter(passage.text for found in pages.values() for passage in found)
    sections: dict[Section, dict[str, list[Question]]] = {}
    for page, found in pages.items():
        for number, passage in enumerate(found):
            relevant = [
                one.removeprefix("images/") for one in dict.fromkeys(passage.pictures) if one in known
            ]
            least = MIN_CHARACTERS[language] if passage.kind == "paragraph" else 1
            ours = _language(passage.text) == language and len(passage.text) >= least
            if relevant and ours and texts[passage.text] == 1:
                name = f"{language}-{page}-{number}-{passage.kind}"
                row = {"id": name, "text": passage.text, "language": language, "relevant": relevant}
                kinds = sections.setdefault((page, passage.section), {})
                kinds.setdefault(passage.kind, []).append(Question(page, row))
    return {
        section: kinds.get(_drawn(*section)) or next(iter(kinds.values()))
        for section, kinds in sections.items()
    }


def _drawn(page: str, section: int) -> str:
    return KINDS[hashlib.sha256(f"{page}#{section}".encode()).digest()[0] % len(KINDS)]


def document(picture: str, pages: Mapping[str, Pages], withheld: Set[str]) -> dict[str, str]:
    """The picture with its page's title, its section's heading and what is said near it, less `withheld`."""
    page = next(name for name, found in pages["en"].items() if any(picture in one.pictures for one in found))
    said = [
        passage.text
        for language in pages
        for passage in _near(picture, pages[language].get(page, []))
        if passage.text not in withheld
    ]
    row = {"id": picture.removeprefix("images/"), "image": picture}
    return row | ({"text": "\n\n".join(dict.fromkeys(said))} if said else {})


def _near(picture: str, found: Sequence[Passage]) -> list[Passage]:
    """The passages about it: the page's first heading, and of its section the heading and the paragraphs from
    the picture before it to the next."""
    headings = [one for one in found if one.kind == "heading"]
    heading = next((one for one in headings if picture in one.pictures), None)
    if heading is None:
        return []
    section = [one for one in found if one.section == heading.section and one.kind == "paragraph"]
    shown = [place for place, one in enumerate(section) if one.pictures]
    at = next((place for place in shown if picture in section[place].pictures), -1)
    first = max((place + 1 for place in shown if place < at), default=0)
    last = min((place for place in shown if place > at), default=len(section))
    return [headings[0], heading, *section[first:last]]


def _language(text: str) -> str:
    """Chinese where at least a third of the characters are: "第 2.7 节" stands in English paragraphs, too."""
    return "zh" if 3 * len(_HAN.findall(text)) >= len(text) else "en"
