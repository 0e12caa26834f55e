"""A process of its own that reads one hostile PDF from its standard input, within bounds of time and memory.

    pdf_child.py text FIRST LAST MAX_CHARS SIDE   a JSON line with the number of pages, then one a page
    pdf_child.py page NUMBER SIDE                 the page as BMP, its long side at most SIDE pixels

A page's `lines` are those of its text as PDFium parts it, each with its box in pixels of that BMP. A box
without area stands for a line that is not in the picture.

Exit status 3: one line on standard error says what is wrong with the PDF; 4: why pypdfium2 does not load.
PDFium is native code that decompresses what it is told to, so its bounds are the operating system's, and it
may crash. Run as a file, it imports nothing of this package.
"""

from __future__ import annotations

import json
import math
import resource
import sys
from collections.abc import Iterator
from contextlib import suppress
from ctypes import byref, c_int
from itertools import pairwise
from typing import Any

MEMORY_BYTES = 2 * 2**30  # of address space; not enforced on a Mac
PAGE_CPU_S = 20
_MAX_DPI = 300
_POINTS_PER_INCH = 72
# A page of print has a tenth of either. Beyond them there is text without boxes.
_MAX_LINES = 2000
_MAX_PLACED_CHARS = 100_000
_LINE_FEED, _HYPHEN = 0x0A, 0x02  # PDFium's own characters, at the ends of lines
_STEPS = 10  # PDFium gives whole numbers, so it is asked for tenths of a pixel


class _BadPdfError(Exception):
    """What is wrong with it, in words that follow its name."""


def main(arguments: list[str]) -> int:
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    try:
        import pypdfium2
    except (ImportError, OSError) as exc:
        print(exc, file=sys.stderr)
        return 4
    try:
        try:
            _grant_time()
            document = pypdfium2.PdfDocument(sys.stdin.buffer.read())
            what, *numbers = arguments
            (_write_texts if what == "text" else _write_page)(document, *map(int, numbers))
        except pypdfium2.PdfiumError as exc:
            locked = "password" in str(exc).lower()
            raise _BadPdfError(
                "is locked by a password; save it without"
                if locked
                else "no readable PDF: damaged, cut off, or of another form"
            ) from exc
        except MemoryError as exc:
            raise _BadPdfError(f"wants more than {MEMORY_BYTES:,} bytes of memory") from exc
    except _BadPdfError as exc:
        print(exc, file=sys.stderr)
        return 3
    return 0


def _write_texts(document: Any, first: int, last: int, max_chars: int, side: int) -> None:
    from pypdfium2 import PdfiumError

    pages = len(document)
    _say({"pages": pages})
    for number in range(first, min(pages, last) + 1):
        _grant_time()
        try:
            page = document[number - 1]
            textpage = page.get_textpage()
            chars = textpage.count_chars()
            allowed = min(chars, max_chars)
            text = textpage.get_text_range(0, allowed) if allowed else ""
            lines = list(_lines(page, textpage, min(allowed, _MAX_PLACED_CHARS), side))
            textpage.close()
            page.close()
        except (PdfiumError, MemoryError) as exc:
            _say({"page": number, "error": str(exc) or "it wants too much memory"})
            continue
        max_chars -= len(text)
        _say({"page": number, "text": text, "is_cut": chars > allowed, "lines": lines})


def _lines(page: Any, textpage: Any, chars: int, side: int) -> Iterator[tuple[str, list[float]]]:
    from pypdfium2 import raw

    if not (scale := _scale(page, side)):
        return
    size = [math.ceil(points * scale) for points in page.get_size()]  # as `render` does
    ends = [at + 1 for at in range(chars) if raw.FPDFText_GetUnicode(textpage, at) in (_LINE_FEED, _HYPHEN)]
    for start, end in pairwise([0, *ends[:_MAX_LINES], chars][: _MAX_LINES + 1]):
        if text := textpage.get_text_range(start, end - start).strip() if end > start else "":
            yield text, _box(page, textpage, start, end - start, size)


def _box(page: Any, textpage: Any, start: int, chars: int, size: list[int]) -> list[float]:
    """Around these characters, within the page's picture of this size."""
    rectangles = [textpage.get_rect(n) for n in range(textpage.count_rects(start, chars))]
    if not rectangles:
        return [0.0] * 4
    lefts, bottoms, rights, tops = zip(*rectangles, strict=True)
    one = _pixel(page, size, min(lefts), min(bottoms))
    other = _pixel(page, size, max(rights), max(tops))
    ends = [sorted(pair) for pair in zip(one, other, strict=True)]
    return [min(most, max(0.0, ends[axis][end])) for end in (0, 1) for axis, most in enumerate(size)]


def _pixel(page: Any, size: list[int], x: float, y: float) -> tuple[float, float]:
    """Where a point of the page is in its picture, whichever way the page is turned and cut."""
    from pypdfium2 import raw

    across, down = c_int(), c_int()
    finer = (_STEPS * pixels for pixels in size)
    raw.FPDF_PageToDevice(page, 0, 0, *finer, 0, x, y, byref(across), byref(down))
    return across.value / _STEPS, down.value / _STEPS


def _write_page(document: Any, number: int, side: int) -> None:
    if not 1 <= number <= len(document):
        raise _BadPdfError(f"has {len(document):,} pages, and no page {number:,}")
    page = document[number - 1]
    if not (scale := _scale(page, side)):
        width, height = page.get_size()
        raise _BadPdfError(f"page {number:,} is {width:g} x {height:g} points large")
    page.render(scale=scale).to_pil().convert("RGB").save(sys.stdout.buffer, "BMP")


def _scale(page: Any, side: int) -> float:
    """The pixels of a point in the page's picture; 0 for a page of no size."""
    width, height = page.get_size()
    if not (0 < width < math.inf and 0 < height < math.inf):
        return 0.0
    return float(min(side / max(width, height), _MAX_DPI / _POINTS_PER_INCH))


def _grant_time() -> None:
    """From here on, so many seconds of computing; then the system ends the process."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    until = int(usage.ru_utime + usage.ru_stime) + PAGE_CPU_S
    _, most = resource.getrlimit(resource.RLIMIT_CPU)  # what the machine allows
    if most != resource.RLIM_INFINITY:
        until = min(until, most)
    resource.setrlimit(resource.RLIMIT_CPU, (until, most))


def _say(fact: dict[str, Any]) -> None:
    print(json.dumps(fact), flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
