"""HTML pages as documents: their text in order, and which text belongs to which picture."""

from __future__ import annotations

import time
from pathlib import Path

import fsspec
import pytest

from pipelines.core.errors import BadText
from pipelines.core.types import Document
from pipelines.ingest.sources import Item, Parsed, SourceConfig, list_items, parse

CONFIG = SourceConfig()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "site"
    (folder / "img").mkdir(parents=True)
    for name in ("a.png", "b.png", "c d.png"):
        (folder / "img" / name).write_bytes(b"picture")
    return folder


def parsed(folder: Path, html: str | bytes, config: SourceConfig = CONFIG) -> Parsed:
    (folder / "page.html").write_bytes(html if isinstance(html, bytes) else html.encode())
    [item] = list_items([str(folder)], config)
    assert isinstance(item, Item)
    return parse(item, config)


def read(folder: Path, html: str | bytes) -> Document:
    result = parsed(folder, html)
    assert not result.rejected
    return result.document


def texts(document: Document) -> list[str]:
    return [passage.text for passage in document.passages]


def linked(document: Document) -> list[tuple[str, tuple[int, ...]]]:
    return [(passage.text, passage.images) for passage in document.passages]


def test_text_stands_under_its_headings(folder: Path) -> None:
    document = read(
        folder,
        "<html lang=zh><title>The page</title><h1>2.1. Tools</h1><p>One <b>bold</b>\n word.</p>loose"
        "<h2>Chapter 3. Pens</h2><ul><li>thin<li>thick</ul><h1>End</h1><pre>x  y</pre>",
    )
    assert texts(document) == [
        "Tools\nOne bold word.",
        "Tools\nloose",
        "Tools › Pens\nthin",
        "Tools › Pens\nthick",
        "End\nx y",
    ]
    assert dict(document.metadata) == {"title": "The page", "language": "zh"}


def test_navigation_scripts_and_comments_are_left_out(folder: Path) -> None:
    document = read(
        folder,
        "<body><nav>menu</nav><div class=navheader><img src=img/a.png>Prev</div><script>x()</script>"
        "<!-- no --><style>p{}</style><p hidden>secret</p><div class=toc><a>1</a></div>"
        "<p>Text<script>y</script> goes on</p><footer>imprint</footer>",
    )
    assert texts(document) == ["Text goes on"]
    assert document.images == ()


def test_a_picture_in_a_line_belongs_to_that_line(folder: Path) -> None:
    document = read(
        folder, "<h1>Use</h1><p>First</p><p>Click <img src='img/a.png' alt='the pen'> here</p><p>Last</p>"
    )
    assert linked(document) == [("Use\nFirst", ()), ("Use\nClick here the pen", (0,)), ("Use\nLast", ())]
    assert document.captions == ("the pen",)


def test_a_picture_on_its_own_belongs_to_its_neighbours_under_the_same_heading(folder: Path) -> None:
    document = read(
        folder,
        "<h1>A</h1><p>far</p><p>before</p><p><img src=img/a.png></p><p>after</p><p>far</p>"
        "<h1>B</h1><p><img src=img/b.png></p><h1>C</h1><p>other</p>",
    )
    assert linked(document) == [
        ("A\nfar", ()),
        ("A\nbefore", (0,)),
        ("A\nafter", (0,)),
        ("A\nfar", ()),
        ("B", (1,)),
        ("C\nother", ()),
    ]
    assert document.captions == ("A", "B")


def test_a_figures_title_is_all_its_pictures_and_a_caption_its_own(folder: Path) -> None:
    document = read(
        folder,
        "<p>Text</p><div class=figure><p class=title><b>Figure 2.1. Brushes</b></p>"
        "<div class=mediaobject><img src=img/a.png alt='Brushes'><div class=caption><p>Round</p></div></div>"
        "<div class=mediaobject><img src=img/b.png><div class=caption><p>Flat.</p></div></div></div>",
    )
    assert linked(document) == [("Text", (0, 1)), ("Brushes", (0, 1)), ("Round", (0,)), ("Flat", (1,))]
    assert document.captions == ("Brushes: Round", "Brushes: Flat")


def test_a_html5_figure_has_its_figcaption(folder: Path) -> None:
    document = read(
        folder,
        "<h2>Cats</h2><figure><img src=img/a.png alt='a cat'>"
        "<figcaption>Tom <i>asleep</i></figcaption></figure>",
    )
    assert linked(document) == [("Cats\nTom asleep. a cat", (0,))]
    assert document.captions == ("Tom asleep",)


def test_a_definition_begins_with_its_term_and_shares_its_picture(folder: Path) -> None:
    document = read(
        folder,
        "<h1>Keys</h1><dl><dt><img src=img/a.png> Save</dt><dd><p>Writes.</p><p>At once.</p></dd>"
        "<dt>Quit<dd>Ends.<dd><img src=img/b.png></dl><p>Done</p>",
    )
    assert linked(document) == [
        ("Keys\nSave: Writes.", (0,)),
        ("Keys › Save\nAt once.", ()),
        ("Keys\nQuit: Ends.", (1,)),
        ("Keys\nDone", (1,)),
    ]
    assert document.captions == ("Save", "Keys › Quit")


def test_a_figure_is_not_given_to_the_next_definition(folder: Path) -> None:
    html = "<dl><dt>A<dd><p>about a</p><p><img src=img/a.png></p><dt>B<dd><p>about b</p></dl>"
    assert linked(read(folder, html)) == [("A: about a", (0,)), ("B: about b", ())]


def test_a_table_row_is_one_passage(folder: Path) -> None:
    document = read(folder, "<table><tr><th>Socket<th>Holes<tr><td>AM4<td>54 mm<td></table>")
    assert texts(document) == ["Socket │ Holes", "AM4 │ 54 mm"]


def test_a_repeated_picture_is_listed_once(folder: Path) -> None:
    document = read(folder, "<p>a <img src=img/a.png></p><p>b <img src='./img/../img/a.png?v=2#x'></p>")
    assert len(document.images) == 1
    assert [images for _, images in linked(document)] == [(0,), (0,)]


def test_icons_of_notes_spacers_and_decoration_are_no_pictures(folder: Path) -> None:
    document = read(
        folder,
        "<div class=note><table><tr><td><img alt='[Note]' src=img/a.png></td><th>Note</th></tr>"
        "<tr><td><p>Take care.</p></td></tr></table></div><img src=img/a.png width=1 height=1>"
        "<img src=img/b.png role=presentation><img src='data:image/gif;base64,R0lGOD'><img alt='none'>",
    )
    assert linked(document) == [("Take care.", ())]


@pytest.mark.parametrize(
    ("src", "address"),
    [("img/c%20d.png", "img/c d.png"), ("/img/a.png", "img/a.png"), (" img/a.png ", "img/a.png")],
)
def test_addresses_are_read_as_a_browser_reads_them(folder: Path, src: str, address: str) -> None:
    assert read(folder, f"<img src='{src}'>").images == (str(folder / address),)


def test_a_picture_in_a_bucket_is_written_as_an_address_and_read_by_its_key(folder: Path) -> None:
    (folder / "page.html").write_text("<img src='s3://open/c%20d.png?v=1'>")
    config = SourceConfig(allowed_addresses=("s3://open",))
    [item] = list_items([str(folder)], config)
    assert isinstance(item, Item)
    assert parse(item, config).document.images == ("s3://open/c d.png",)


def test_a_page_in_a_bucket_has_its_base_there() -> None:
    config = SourceConfig(allowed_addresses=("fsspec+memory://pages",))
    html = b"<head><base href='img/'></head><p>x</p><img src='a.png'><img src='../../out.png'>"
    fsspec.filesystem("memory").pipe("/pages/site/page.html", html)
    [item] = list_items(["fsspec+memory://pages/site/page.html"], config)
    assert isinstance(item, Item)
    assert parse(item, config).document.images == (
        "fsspec+memory://pages/site/img/a.png",
        "fsspec+memory://pages/out.png",
    )


def test_lazy_pictures_and_a_base_are_understood(folder: Path) -> None:
    html = "<head><base href='img/'></head><img src='data:image/gif;base64,R0' data-src='a.png'>"
    assert read(folder, html).images == (str(folder / "img/a.png"),)


@pytest.mark.parametrize(
    ("src", "reason"),
    [
        ("img/missing.png", "does not exist"),
        ("../secret.png", "leaves"),
        ("/../secret.png", "leaves"),
        ("..%2fsecret.png", "leaves"),
        ("/etc/passwd", "does not exist"),
        ("file:///etc/passwd", "leaves"),
        ("https://example.org/a.png", "is on the network"),
        ("//example.org/a.png", "is on the network"),
        ("http://[broken/a.png", "no address"),
        ("s3://bucket/a.png", "allowed_addresses"),
        ("javascript:alert(1)", "no address of a picture"),
        ("img/a.svg", "not a form of picture that is read"),
        ("data:image/png;base64," + "A" * 5000, "save it as a file"),
        ("a%00.png", "NUL"),
    ],
)
def test_an_unusable_picture_is_rejected_once_and_the_page_stays(folder: Path, src: str, reason: str) -> None:
    (folder.parent / "secret.png").write_bytes(b"x")
    result = parsed(folder, f"<p>Text</p><img src='{src}'><img src='{src}'>")
    assert texts(result.document) == ["Text"]
    assert list(result.pictures()) == []
    [rejected] = result.rejected
    assert reason in rejected.reason
    assert rejected.document_id == "site/page.html"
    assert len(rejected.reason) < 300


def test_a_base_that_no_path_can_have_costs_the_pictures_and_not_the_page(folder: Path) -> None:
    result = parsed(folder, "<head><base href='a%00/'></head><p>Text</p><img src='a.png'>")
    assert texts(result.document) == ["Text"]
    assert "NUL" in result.rejected[0].reason


def test_a_page_depends_on_the_pictures_it_wants(folder: Path) -> None:
    assert parsed(folder, "<p>x</p><img src=img/missing.png>").wanted == (str(folder / "img/missing.png"),)


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        ("<p>图层</p>".encode(), "图层"),
        ("<meta charset=gb2312><p>图层</p>".encode("gb18030"), "图层"),
        ('<?xml version="1.0" encoding="big5"?><p>圖層</p>'.encode("big5"), "圖層"),
        (
            "<meta http-equiv=Content-Type content='text/html; charset=ISO-8859-1'><p>Käse “</p>".encode(
                "cp1252"
            ),
            "Käse “",
        ),
        ("<p>图层</p>".encode("utf-16"), "图层"),
        ("<meta charset=utf-16><p>图层</p>".encode(), "图层"),
        ("<meta charset=UTF-16BE><p>图层</p>".encode(), "图层"),
        ('<?xml version="1.0" encoding="utf-16le"?><p>图层</p>'.encode(), "图层"),
        ("<meta charset=utf-8><p>图层</p>".encode("utf-16"), "图层"),
        (b"\xef\xbb\xbf<meta charset=latin1><p>\xc3\xa4</p>", "ä"),
    ],
)
def test_charsets(folder: Path, raw: bytes, text: str) -> None:
    assert texts(read(folder, raw)) == [text]


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"<p>\xff</p>", "not UTF-8 text"),
        (b"<meta charset=utf-16><p>\xff</p>", "not UTF-8 text"),
        (b"<meta charset=klingon><p>x</p>", "unknown charset 'klingon'"),
        (b"<meta charset=hex><p>x</p>", "'hex', which is none"),
        (b"<meta charset=punycode><p>x</p>", "not read"),
        (b"", "is empty"),
        (b"   ", "no HTML"),
        (b"<script>x</script>", "holds neither text nor pictures"),
        (b"<div>" * 50_000 + b"deep", "nested more than 256 deep"),
        (b"<p>" + b"<b>" * 50_000 + b"deep", "nested more than 256 deep"),
        (b"<p>" + b"word " * 2_000_000, "more than the 8,388,608 allowed"),
    ],
)
def test_an_unusable_page_is_one_clear_line(folder: Path, raw: bytes, reason: str) -> None:
    with pytest.raises(BadText, match=reason) as error:
        parsed(folder, raw)
    assert "page.html" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "html",
    [
        '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;">]><p>&b;</p>',
        '<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]><p>&a;</p>',
        "<dl><dt>x</dt></dl>" * 20_000,
        "<div class=figure>" * 100 + "<img src=img/a.png>" * 20_000,
        "<p>x" * 20_000,
        "<table><tr>" + "<td>x" * 20_000,
    ],
)
def test_hostile_pages_cost_no_more_than_their_size(folder: Path, html: str) -> None:
    start = time.perf_counter()
    document = parsed(folder, html).document
    assert time.perf_counter() - start < 10
    assert sum(len(text) for text in texts(document)) < 50 * len(html) + 1000
    assert "root:" not in "".join(texts(document))
