"""Build the example corpus: pictures, a JSONL manifest, and the pictures that questions are asked with.

Everything is drawn or copied from installed packages; the same seed and versions give the same
bytes. Knows nothing of how the corpus is searched.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from pipelines.core.types import Metadata
from pipelines.demo import charts, maths, sheets
from pipelines.demo.nameplates import NAMEPLATES
from pipelines.demo.paper import Shot, photograph
from pipelines.demo.photographs import PHOTOGRAPHS, folder
from pipelines.demo.products import PRODUCTS

MANIFEST = "manifest.jsonl"


@dataclass(frozen=True, slots=True)
class Item:
    """One row of the manifest; `picture` is drawn, or a file to copy."""

    id: str
    image: str
    picture: Callable[[], Image.Image] | Path
    text: str = ""
    caption: str = ""
    metadata: Metadata = field(default_factory=dict)

    @property
    def row(self) -> dict[str, object]:
        row: dict[str, object] = {"id": self.id, "image": self.image}
        if self.text:
            row["text"] = self.text
        if self.caption:
            row["caption"] = self.caption
        return row | {"metadata": dict(self.metadata)}


def build(out: Path, seed: int = 0) -> Path:
    """Write the corpus into `out` and return its manifest.

    Raises MissingDependency where scikit-image, whose photographs it copies, is not installed.
    """
    photographs = folder()
    for name in ("images", "queries"):
        (out / name).mkdir(parents=True, exist_ok=True)
    rows = []
    for item in _items(photographs, seed):
        if isinstance(item.picture, Path):
            shutil.copyfile(item.picture, out / item.image)
        else:
            _save(item.picture(), out / item.image)
        rows.append(json.dumps(item.row, ensure_ascii=False) + "\n")
    _write_queries(out / "queries", photographs, seed)
    manifest = out / MANIFEST
    manifest.write_text("".join(rows), encoding="utf-8", newline="\n")
    return manifest


def _items(photographs: Path, seed: int) -> Iterator[Item]:
    for product in PRODUCTS:
        yield Item(
            product.document_id,
            f"images/{product.document_id}.png",
            partial(sheets.draw, product),
            product.text,
            product.caption,
            {
                "product_id": product.id,
                "category": "spec_sheet",
                "topic": product.form,
                "lang": product.lang,
                "year": product.year,
            },
        )
    for nameplate in NAMEPLATES:
        yield Item(
            nameplate.document_id,
            f"images/{nameplate.document_id}.png",
            nameplate.draw,
            nameplate.text,
            nameplate.caption,
            {
                "product_id": nameplate.code,
                "category": "nameplate",
                "topic": nameplate.form,
                "lang": "zh" if nameplate.chinese else "en",
                "year": nameplate.year,
            },
        )
    for n, problem in enumerate(maths.PROBLEMS):
        yield Item(
            problem.id,
            f"images/{problem.id}.jpg",
            partial(maths.draw, problem, _random(seed, n)),
            problem.text,
            problem.caption,
            {"category": "maths", "topic": problem.topic, "lang": problem.lang},
        )
    for chart in charts.CHARTS:
        yield Item(
            chart.id,
            f"images/{chart.id}.png",
            partial(charts.draw, chart),
            chart.text,
            chart.caption,
            {"category": "chart", "topic": chart.form, "lang": chart.lang, "year": chart.year},
        )
    for photo in PHOTOGRAPHS:
        yield Item(
            photo.document_id,
            f"images/{photo.file}",
            photographs / photo.file,
            "\n\n".join(text for text in (photo.en, photo.zh) if text),
            metadata={
                "category": "photograph",
                "topic": photo.topic,
                "lang": photo.lang,
                "licence": photo.licence,
            },
        )


def _write_queries(out: Path, photographs: Path, seed: int) -> None:
    """Pictures to ask with: none of them is in the corpus as it is."""
    with Image.open(photographs / "coffee.png") as image:
        cup = ImageOps.mirror(image.convert("RGB").crop((150, 0, 560, 330)))
    _save(ImageEnhance.Brightness(ImageEnhance.Color(cup).enhance(0.6)).enhance(0.8), out / "coffee-crop.jpg")

    cooler = next(product for product in PRODUCTS if product.id == "AC-120")
    part = sheets.draw(cooler).crop((30, 90, 900, 770))
    shot = Shot(tilt=0.09, noise=7, warmth=0.08)
    _save(photograph(part, _random(seed, 900), shot), out / "cooler-photo.jpg")

    plate = next(plate for plate in NAMEPLATES if plate.code == "SA-870").draw()
    _save(
        ImageEnhance.Brightness(ImageEnhance.Color(plate).enhance(0.5)).enhance(0.9), out / "plate-photo.jpg"
    )

    triangle = maths.Problem(
        "query", "en", "geometry", "plain", "Find the missing side.", (),
        lambda page: maths.right_triangle(page, "12", "5", "PQR"), "", "",
    )  # fmt: skip
    _save(maths.draw(triangle, _random(seed, 901)), out / "triangle.jpg")

    _save(charts.draw(charts.PIE_TO_COMPARE).convert("L").convert("RGB"), out / "pie.png")


def _random(seed: int, number: int) -> np.random.Generator:
    """A stream of its own for each picture: adding one changes no other."""
    return np.random.default_rng((seed, number))


def _save(image: Image.Image, path: Path) -> None:
    if path.suffix == ".png":
        image.save(path)
    else:
        image.save(path, quality=88)
