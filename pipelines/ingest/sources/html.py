"""An HTML page as a document: its text in reading order, and its pictures with the text around them.

Reads one local file, hardened: no network, no entities of its own, bounded size and depth. Which
text belongs to which picture is decided in `blocks`; this module knows HTML's tags, `blocks` does not.

Left out: navigation (`nav`, `footer`, DocBook's navheader, navfooter, toc and index), scripts,
forms' choices, hidden elements, pictures that mark themselves as decoration (role=presentation, the
icon of a DocBook note) and spacers of up to 8 pixels or 4 KiB of data: URI.
"""

from __future__ import annotations

import posixpath
import re
from urllib.parse import unquote, urlsplit

from lxml import etree

from pipelines.core.errors import BadPart, BadText, NotAllowed
from pipelines.core.plain import storable, tidy
from pipelines.core.types import Document, Scalar
from pipelines.ingest.sources import files
from pipelines.ingest.sources.blocks import Blocks
from pipelines.ingest.sources.failures import rejected_picture
from pipelines.ingest.sources.records import FORBIDDEN, Item, Parsed, Rejected, SourceConfig
from pipelines.ingest.sources.text import decode

_SKIPPED = frozenset(
    {"script", "style", "template", "noscript", "head", "nav", "footer", "select", "svg", "iframe", "object"}
)
_SKIPPED_CLASSES = frozenset(
    {"navheader", "navfooter", "toc", "indexdiv", "list-of-figures", "list-of-tables"}
)
_ADMONITIONS = frozenset({"note", "tip", "warning", "caution", "important"})
_HEADINGS = {f"h{level}": level for level in range(1, 7)}
_BLOCKS = frozenset(
    {"address", "article", "aside", "blockquote", "body", "caption", "center", "dd", "details", "div", "dl"}
    | {
        "dt",
        "fieldset",
        "figcaption",
        "figure",
        "form",
        "header",
        "hr",
        "html",
        "li",
        "main",
        "ol",
        "p",
        "pre",
    }
    | {"section", "summary", "table", "tbody", "tfoot", "thead", "tr", "ul"}
)
_CELLS = frozenset({"td", "th"})
_FRAME_CLASSES = frozenset({"figure", "informalfigure", "mediaobject", "screenshot", "wp-caption", "thumb"})
_CAPTION_CLASSES = frozenset({"caption", "wp-caption-text", "thumbcaption"})

_CHARSET = re.compile(rb"""(?:charset|encoding)\s*=\s*["']?\s*([A-Za-z0-9_.:\-]+)""", re.IGNORECASE)
_PICTURE_SUFFIX = re.compile(r"\.(jpe?g|png|gif|webp|tiff?|bmp)$", re.IGNORECASE)
_NO_PICTURE = re.compile(r"\.(svgz?|pdf|eps|ico|html?|mp4|webm)$", re.IGNORECASE)
_MAX_DECORATION_DATA_URI = 4096
_MAX_SPACER_PIXELS = 8
_MAX_TITLE_CHARS = 300


def parse_html(item: Item, config: SourceConfig) -> Parsed:
    """The page's document. Raises BadText when it is too large, no text, or holds nothing; NotAllowed where
    that is for pictures that may not be read."""
    name = files.base_name(item.address)
    try:
        raw = files.read_bytes(item.address, config.max_text_bytes)
    except BadPart as exc:
        raise BadText(str(exc)) from exc
    declared = _CHARSET.search(raw[:4096])
    text = decode(raw, name, declared[1].decode("ascii") if declared else None)
    root = _tree(text, name)
    page = _Page(root, item, config)
    page.read()
    passages, captions = page.blocks.finish(page.title)
    rejected = tuple(page.rejected.values())
    if not passages and not page.images:
        is_forbidden = any(one.stage == FORBIDDEN for one in rejected)
        raise (NotAllowed if is_forbidden else BadText)(f"{name}: holds neither text nor pictures")
    metadata: dict[str, Scalar] = {}
    if page.title:
        metadata["title"] = page.title
    language = tidy(root.get("lang") or root.get("xml:lang") or "")
    if language:
        metadata["language"] = language
    document = Document(
        id=item.document_id,
        source=item.address,
        passages=passages,
        images=tuple(page.images),
        captions=captions,
        metadata=metadata,
        tenant=item.tenant,
    )
    return Parsed(document, rejected, tuple(dict.fromkeys(page.wanted)))


def _tree(text: str, name: str) -> etree._Element:
    # The parser's own detection of the charset is overruled: it has been decoded above, strictly.
    parser = etree.HTMLParser(
        encoding="utf-8",
        no_network=True,
        huge_tree=False,
        remove_comments=True,
        remove_pis=True,
        recover=True,
    )
    try:
        root = etree.fromstring(storable(text).encode(), parser)
    except etree.XMLSyntaxError as exc:
        raise BadText(f"{name}: no HTML ({exc.msg})") from exc
    # The parser drops what is nested deeper than it reads: half a page would pass for a whole one.
    if parser.error_log.filter_types([etree.ErrorTypes.ERR_RESOURCE_LIMIT]):
        raise BadText(f"{name}: its elements are nested more than 256 deep; simplify it")
    if root is None:
        raise BadText(f"{name}: no HTML (it holds no element)")
    return root


class _Page:
    """One walk over the tree, which fills `blocks`, `images` and `rejected`."""

    def __init__(self, root: etree._Element, item: Item, config: SourceConfig) -> None:
        self._root = root
        self._item = item
        self._config = config
        self._base = _base_folder(root, item)
        self._caption: etree._Element | None = None  # the one that is open: blocks inside it are not its end
        self._addresses: dict[str, str] = {}  # by what the page writes; "" of those that are no use
        self._ordinals: dict[str, int] = {}
        self.blocks = Blocks()
        self.images: list[str] = []
        self.wanted: list[str] = []
        self.rejected: dict[str, Rejected] = {}
        self.title = _title(root)

    def read(self) -> None:
        walker = etree.iterwalk(self._root, events=("start", "end"))
        skipped: etree._Element | None = None
        for event, element in walker:
            if skipped is None and event == "start" and _is_skipped(element):
                skipped = element
                walker.skip_subtree()
            if skipped is not None:
                if element is skipped and event == "end":
                    skipped = None
                    self.blocks.text(element.tail or "")
            elif event == "start":
                self._start(element)
                self.blocks.text(element.text or "")
            else:
                self._end(element)
                self.blocks.text(element.tail or "")

    def _start(self, element: etree._Element) -> None:
        tag = element.tag
        if tag == "img":
            self._picture(element)
        elif tag == "br":
            self.blocks.text("\n")
        elif self._caption is not None:
            self.blocks.text(" " if tag in _BLOCKS else "")
        elif tag in _HEADINGS or tag in _BLOCKS:
            self.blocks.close()
            if _is_frame(element):
                self.blocks.open_frame()
            elif self.blocks.in_frame and _is_caption(element):
                self._caption = element
            if tag == "dl":
                self.blocks.open_list()

    def _end(self, element: etree._Element) -> None:
        tag = element.tag
        if self._caption is not None:
            self.blocks.text(" " if tag in _BLOCKS else "")
            if self._caption is element:
                self._caption = None
                self.blocks.caption()
        elif tag in _HEADINGS and not self.blocks.in_frame:
            self.blocks.heading(_HEADINGS[tag])
        elif tag in _CELLS:
            self.blocks.cell()
        elif tag in _HEADINGS or tag in _BLOCKS:
            if tag == "dt":
                self.blocks.term()
            else:
                self.blocks.close()
            if tag == "dl":
                self.blocks.close_list()
            if _is_frame(element):
                self.blocks.close_frame()

    def _picture(self, element: etree._Element) -> None:
        src = (element.get("src") or "").strip()
        if not src or src.startswith("data:"):
            src = (element.get("data-src") or src).strip()  # lazy loading puts a spacer into src
        if not src or _is_decoration(element, src):
            return
        if src not in self._addresses:
            self._addresses[src] = self._address(src)
        address = self._addresses[src]
        if not address:
            return
        if address not in self._ordinals:
            self._ordinals[address] = len(self.images)
            self.images.append(address)
        self.blocks.picture(self._ordinals[address], _described(element))

    def _address(self, src: str) -> str:
        """Of the picture; "" where it cannot be used, for good."""
        address = ""
        try:
            address = self._resolve(src)
            files.check(address, src, self._config)
            return address
        except BadPart as exc:
            if address:
                self.wanted.append(address)
            self.rejected[src] = bad = rejected_picture(self._item, exc, self._item.address, address)
            return bad.picture

    def _resolve(self, src: str) -> str:
        if src.startswith("data:"):
            raise BadPart(
                f"{src[:30]}…: a picture inside the page ({len(src):,} characters); save it as a file"
            )
        try:
            parts = urlsplit(src)
        except ValueError as exc:
            raise BadPart(f"{src[:200]}: no address of a picture ({exc})") from exc
        if parts.scheme in ("http", "https") or (parts.netloc and not parts.scheme):
            raise BadPart(f"{src[:200]}: is on the network; save the picture beside the page")
        if parts.scheme and "://" not in src:
            raise BadPart(f"{src[:200]}: no address of a picture")
        path = unquote(parts.path)
        if parts.scheme:  # the key in a bucket is no URL
            path = src if parts.scheme == "file" else f"{parts.scheme}://{parts.netloc}{path}"
        if _NO_PICTURE.search(path):
            raise BadPart(f"{src[:200]}: not a form of picture that is read (jpg, png, gif, webp, tiff, bmp)")
        if path.startswith("/") and not parts.scheme:
            path = self._item.root + path  # a site's own root is the folder that was named
        return files.resolve(path, self._base, self._item.root, self._config)


def _base_folder(root: etree._Element, item: Item) -> str:
    """The folder that relative addresses count from."""
    folder = files.parent(item.address)
    base = root.find(".//base[@href]")
    href = (base.get("href") or "") if base is not None else ""
    # A <base> on the network belongs to the page's old home; its pictures, if any, were saved beside it.
    if not href or "//" in href or href.startswith("/"):
        return folder
    return files.joined(folder, posixpath.dirname(unquote(href)))


def _title(root: etree._Element) -> str:
    for path in (".//head/title", ".//h1", ".//h2"):
        element = root.find(path)
        if element is not None:
            title = tidy("".join(map(str, element.itertext())))[:_MAX_TITLE_CHARS]
            if title:
                return title
    return ""


def _classes(element: etree._Element) -> frozenset[str]:
    return frozenset((element.get("class") or "").split())


def _is_skipped(element: etree._Element) -> bool:
    if not isinstance(element.tag, str) or element.tag in _SKIPPED:
        return True
    if element.get("hidden") is not None or element.get("role") == "navigation":
        return True
    classes = _classes(element)
    if element.tag in ("div", "dl", "ul", "table") and classes & _SKIPPED_CLASSES:
        return True
    # "Note" over a note says nothing of its subject.
    in_heading = element.tag == "th" or "title" in classes
    return in_heading and _admonition(element) is not None


def _admonition(element: etree._Element) -> etree._Element | None:
    """The DocBook note, tip or warning whose own title or icon this element may be."""
    for depth, ancestor in enumerate(element.iterancestors("div", "section", "aside", "body")):
        if depth == 1:
            break
        if _classes(ancestor) & _ADMONITIONS:
            return ancestor
    return None


def _is_frame(element: etree._Element) -> bool:
    return element.tag == "figure" or (element.tag == "div" and bool(_classes(element) & _FRAME_CLASSES))


def _is_caption(element: etree._Element) -> bool:
    if element.tag == "figcaption":
        return True
    classes = _classes(element)
    return bool(classes & _CAPTION_CLASSES) or (
        "title" in classes and element.tag in ("p", "div", *_HEADINGS)
    )


def _is_decoration(element: etree._Element, src: str) -> bool:
    if src.startswith("data:") and len(src) <= _MAX_DECORATION_DATA_URI:
        return True
    if element.get("role") in ("presentation", "none"):
        return True
    sizes = [element.get(side) or "" for side in ("width", "height")]
    if any(size.isdecimal() and int(size[:6]) <= _MAX_SPACER_PIXELS for size in sizes):
        return True
    alt = (element.get("alt") or "").strip()
    return alt.startswith("[") and alt.endswith("]") and _admonition(element) is not None


def _described(element: etree._Element) -> str:
    """What the element itself says of its picture: not a file's name."""
    for attribute in ("alt", "title"):
        text = tidy(element.get(attribute) or "")
        if text and not _PICTURE_SUFFIX.search(text):
            return text
    return ""
