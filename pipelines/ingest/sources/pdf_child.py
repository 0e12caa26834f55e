"""A process of its own that reads one hostile PDF from its standard input, within bounds of time and memory.

    pdf_child.py text FIRST LAST MAX_CHARS   a JSON line with the number of pages, then one a page
    pdf_child.py page NUMBER SIDE            the page as BMP, its long side at most SIDE pixels

Exit status 3: one line on standard error says what is wrong with the PDF; 4: why pypdfium2 does not load.
PDFium is native code that decompresses what it is told to, so its bounds are the operating system's, and it
may crash. Run as a file, it imports nothing of this package.
"""

from __future__ import annotations

import json
import resource
import sys
from contextlib import suppress
from typing import Any

MEMORY_BYTES = 2 * 2**30  # of address space; not enforced on a Mac
PAGE_CPU_S = 20
_MAX_DPI = 300
_POINTS_PER_INCH = 72


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


def _write_texts(document: Any, first: int, last: int, max_chars: int) -> None:
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
            textpage.close()
            page.close()
        except (PdfiumError, MemoryError) as exc:
            _say({"page": number, "error": str(exc) or "it wants too much memory"})
            continue
        max_chars -= len(text)
        _say({"page": number, "text": text, "is_cut": chars > allowed})


def _write_page(document: Any, number: int, side: int) -> None:
    if not 1 <= number <= len(document):
        raise _BadPdfError(f"has {len(document):,} pages, and no page {number:,}")
    page = document[number - 1]
    width, height = page.get_size()
    if not (0 < width < float("inf") and 0 < height < float("inf")):
        raise _BadPdfError(f"page {number:,} is {width:g} x {height:g} points large")
    scale = min(side / max(width, height), _MAX_DPI / _POINTS_PER_INCH)
    page.render(scale=scale).to_pil().convert("RGB").save(sys.stdout.buffer, "BMP")


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
