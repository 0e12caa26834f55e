"""Openclipart's pictures and their English names, from Debian's packages. Knows nothing of training."""

from __future__ import annotations

import collections
import re
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from .packages import Package, fetch, unpack

PACKAGES = {
    "png": Package(
        "debian",
        "openclipart-png",
        "1:0.18+dfsg-19",
        "f07f1545a2970c2cf3fa339bc2405da1a95cf2b1827bfa05bf73eb1c20291c02",
    ),
    "svg": Package(
        "debian",
        "openclipart-svg",
        "1:0.18+dfsg-19",
        "989712d90d57dfa3230049f553bb43b76c30ee4d4b8c5f6e106e33f7db5cbdc5",
    ),
}
CLIPART_SIDE = 320  # pixels; the largest scale is 224
CLIPART_MAX_PIXELS = 30_000_000
CLIPART_PER_NAME = 4
# Series whose names say little of the single picture, and flags: knowing one does not help to name another.
_GENERIC_FOLDERS = (
    *("shapes/stars", "special/", "computer/icons", "computer/buttons"),
    *("signs_and_symbols/flags", "signs_and_symbols/led"),
)
_GENERIC_KEYWORDS = frozenset(
    (
        *("hash", "computer", "icons", "icon", "action", "application", "mimeicon", "filesystem"),
        *("unsorted", "clipart", "image", "png", "svg", "inkscape", "colour"),
    )
)
_STOP_WORDS = frozenset(["of", "the", "a", "with", "and", "in", "on", "flag"])


@dataclass(frozen=True, slots=True)
class Clipart:
    picture: str
    label: str
    keywords: tuple[str, ...]
    words: frozenset[str]


def fetch_clipart(out: Path) -> None:
    """Debian's Openclipart pictures, and their SVG twins, whose metadata hold title, keywords and licence."""
    for form, package in PACKAGES.items():
        unpack(fetch(package, out / "downloads"), f"usr/share/openclipart/{form}", _clipart(out, form))


def _clipart(out: Path, form: str) -> Path:
    return out / "downloads" / "openclipart" / form


def read_clipart(out: Path) -> list[Clipart]:
    """Public-domain pictures with a usable English name, copied small and on white under pictures/."""
    base = _clipart(out, "svg")
    entries = []
    for svg in sorted(base.rglob("*.svg")):
        name = svg.relative_to(base).with_suffix("").as_posix()
        metadata = re.search(r"<metadata.*?</metadata>", svg.read_text("utf-8", errors="replace"), re.DOTALL)
        if metadata and not name.startswith(_GENERIC_FOLDERS):
            people = r"<dc:(creator|publisher|rights|contributor)>.*?</dc:\1>"
            about = re.sub(people, "", metadata[0], flags=re.DOTALL)
            licences = re.findall(r'license[^>]*resource="([^"]*)"', about)
            if any("PublicDomain" in licence for licence in licences):
                title = re.search(r"<dc:title>(.*?)</dc:title>", about, re.DOTALL)
                entries.append(
                    (name, title[1] if title else "", re.findall(r"<rdf:li>(.*?)</rdf:li>", about))
                )
    titles = collections.Counter(title.lower() for _, title, _ in entries)
    used: collections.Counter[str] = collections.Counter()
    found = []
    for name, title, keywords in entries:
        file_name = _clean(name.rsplit("/", 1)[-1])
        # A title shared by many is a collection's, not the picture's.
        own = titles[title.lower()] <= 3 and not re.search(
            r"collection|theme|untitled|created by|part of", title, re.I
        )
        label = (_clean(title) if own else "") or file_name
        used[label] += 1
        if not 3 <= len(label) <= 60 or used[label] > CLIPART_PER_NAME:
            continue
        words = [_clean(word) for word in keywords if not word.startswith("0x") and "theme" not in word]
        tags = tuple(dict.fromkeys(word for word in words if len(word) > 1 and word not in _GENERIC_KEYWORDS))
        picture = f"pictures/clipart/{name}.png"
        if _shrink(_clipart(out, "png") / f"{name}.png", out / picture):
            found.append(
                Clipart(picture, label, tags, frozenset(words_of(" ".join((label, file_name, *tags)))))
            )
    return found


def _shrink(source: Path, target: Path) -> bool:
    if target.exists():
        return True
    if not source.exists():
        return False
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None  # the header is read first, and judged here
    try:
        with Image.open(source) as picture:
            if picture.width * picture.height > CLIPART_MAX_PIXELS:
                return False
            rgba = picture.convert("RGBA")
    finally:
        Image.MAX_IMAGE_PIXELS = limit
    rgba.thumbnail((CLIPART_SIDE, CLIPART_SIDE), Image.Resampling.BICUBIC)
    white = Image.new("RGBA", rgba.size, "white")
    target.parent.mkdir(parents=True, exist_ok=True)
    Image.alpha_composite(white, rgba).convert("RGB").save(target)
    return True


def _clean(name: str) -> str:
    name = re.sub(r"^clip ?art by .*? - ", "", name, flags=re.IGNORECASE)
    name = re.sub(r"[_\-]+", " ", name)
    name = re.sub(r"\b0x\w+\b|\b\d+\w?\b|(?<=[a-zA-Z]{3})\d+\b", "", name)
    return re.sub(r"\s+", " ", name).strip(" .,").lower()


def words_of(text: str) -> set[str]:
    return {word.rstrip("s") for word in re.findall(r"[a-z]+", text.lower())} - _STOP_WORDS
