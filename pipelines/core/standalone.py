"""HTML files that need nothing else: no script, no address, pictures as data.

Callers escape their text; the policy in the head is the second lock.
"""

from __future__ import annotations

import base64
import io
from html import escape

from PIL import Image

from pipelines.core.images import decode


def page(title: str, style: str, body: str) -> str:
    """A whole document. `style` and `body` are CSS and HTML, not text."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; img-src data:; font-src data:; style-src 'unsafe-inline'\">\n"
        f"<title>{escape(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def thumbnail(content: bytes, side: int = 560) -> str:
    """The address of a JPEG of at most `side` pixels a side, as a data URI. Raises BadImage."""
    return thumbnail_of(decode(content).image, side)


def thumbnail_of(picture: Image.Image, side: int = 560) -> str:
    """As `thumbnail`, of a decoded RGB picture."""
    small = picture.copy()
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    small.save(out, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(out.getvalue()).decode('ascii')}"
