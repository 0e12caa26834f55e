"""The lines of text in a document's pictures become passages of it. Knows no Ray and no stores.

What was read is kept by the picture's content (`core.readings`), so a picture is read once, and a hit can say
where in the picture its lines stand. A picture whose lines are known, as those of a PDF's page are, is not
read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from pipelines.core import images
from pipelines.core.errors import BadPart, BadReading
from pipelines.core.ocr import Engine, chosen, load_engine, read_picture, reader_name
from pipelines.core.ocr_config import OcrConfig
from pipelines.core.readings import Reading, load_reading, save_reading
from pipelines.core.types import Line, Passage
from pipelines.ingest.sources import UNAVAILABLE, Parsed, Rejected, read_bytes, stage_of
from pipelines.ingest.tally import Count, uncounted


def fingerprint(config: OcrConfig) -> dict[str, Any]:
    """Of what decides the passages, for the parts fingerprint: nothing while nothing is read."""
    if config.kind == "none":
        return {}
    return {"ocr": config.model_dump(mode="json") | {"reader": reader_name(config)}}


def picture_reader(
    config: OcrConfig, root: Path, max_bytes: int, count: Count = uncounted
) -> ReadPictures | None:
    """The configured reader, which keeps its readings under `root`."""
    if config.kind == "none":
        return None
    return ReadPictures(config, root, max_bytes, partial(load_engine, config.max_side), count)


class ReadPictures:
    """Adds to a document the lines of its pictures, and to what was refused the pictures that OCR failed on.

    `load` is called where a picture was not read before. It loads once a process; what it loads is not kept
    here, so this can be sent to other processes.
    """

    def __init__(
        self,
        config: OcrConfig,
        root: Path,
        max_bytes: int,
        load: Callable[[], Engine],
        count: Count = uncounted,
    ) -> None:
        self._config, self._root, self._max_bytes, self._load = config, root, max_bytes, load
        self._count = count
        self._reader = reader_name(config)

    def __call__(self, parsed: Parsed) -> Parsed:
        document = parsed.document
        passages: list[Passage] = []
        refused: list[Rejected] = []
        for ordinal, address in parsed.pictures():
            if document.readings and document.readings[ordinal]:
                continue
            try:
                lines, left_out = chosen(self._lines(address), self._config)
            except BadReading as exc:
                refused.append(Rejected(document.id, address, "ocr", f"{address}: {exc}"))
                continue
            except BadPart as exc:
                # Else it is no usable picture, which the stage that loads it says once.
                if stage_of(exc, "ocr") == UNAVAILABLE:
                    refused.append(Rejected(document.id, address, UNAVAILABLE, str(exc)))
                continue
            finally:
                self._count("ocr")
            passages += [Passage(line.text, (ordinal,), address) for line in lines]
            if left_out:
                reason = f"{address}: {left_out} lines of text are left out (ingest.ocr.max_chars)"
                refused.append(Rejected(document.id, address, "ocr", reason))
        return replace(
            parsed,
            document=replace(document, passages=(*document.passages, *passages)),
            rejected=(*parsed.rejected, *refused),
        )

    def _lines(self, address: str) -> tuple[Line, ...]:
        """All lines of the picture, read now or before. Raises BadPart, of which BadReading is one."""
        data = read_bytes(address, self._max_bytes)
        content = hashlib.sha256(data).hexdigest()
        known = load_reading(self._root, content)
        if known and known.reader == self._reader:
            return known.lines
        lines = read_picture(self._load(), images.decode(data), self._config.max_side)
        save_reading(self._root, content, Reading(self._reader, lines))
        return lines
