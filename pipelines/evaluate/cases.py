"""The worst of a run as they are looked at: what was asked, what is right, what came, with pictures.

Knows nothing of how they are laid out. Pictures of hits are previews of the index, and nothing else is read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from PIL import Image

from pipelines.core import images
from pipelines.core.errors import BadImage
from pipelines.core.previews import Preview, annotated, preview_of
from pipelines.core.types import Hit, PlacedBox
from pipelines.evaluate.figures import Measured
from pipelines.evaluate.given import Given
from pipelines.evaluate.queries import JudgedQuery
from pipelines.evaluate.questions import QUERY, JudgedQuestion
from pipelines.evaluate.retrieval import QueryFigures, Searcher

WORST = 10
SHOWN = 5

WANTED = 3
"""Of what should have come and did not, so many at most are shown."""

LoadPreview = Callable[[str], Preview | None]
"""By a hit's `image_uri`."""


@dataclass(frozen=True, slots=True)
class Held:
    """A part of the index, as hits show them."""

    text: str
    image_uri: str | None


Find = Callable[[str, Sequence[str]], Mapping[str, Held]]
"""Of a tenant's hits with these ids, those that the index has."""


@dataclass(frozen=True, slots=True)
class Shown:
    """A hit or a picture. `right` says whether it is relevant; None where nobody judged that."""

    label: str
    text: str
    picture: Image.Image | None
    right: bool | None = None


@dataclass(frozen=True, slots=True)
class Case:
    """`wanted` is what would have been right, `said` what came instead, both in the reader's words."""

    id: str
    asked: str
    wanted: str
    said: str
    metrics: Mapping[str, float]
    shown: tuple[Shown, ...]


def worst_searches(
    queries: Sequence[JudgedQuery],
    per_query: Sequence[QueryFigures],
    depth: int,
    searcher: Searcher,
    find: Find,
    load: LoadPreview,
) -> tuple[Case, ...]:
    """Those whose first relevant hit stands lowest, asked once more for their first hits; before these stands
    what should have come."""
    by_id = {query.id: query for query in queries}
    reciprocal = f"mrr@{depth}"
    lacking = [one for one in per_query if one.metrics[reciprocal] < 1]
    worst = sorted(lacking, key=lambda one: one.metrics[reciprocal])[:WORST]
    return tuple(_search(by_id[one.id], one, searcher, find, load) for one in worst)


def _search(
    judged: JudgedQuery, figures: QueryFigures, searcher: Searcher, find: Find, load: LoadPreview
) -> Case:
    query = judged.query(SHOWN)
    result = searcher.fused(query, searcher.run_branches(query))
    found = [_hit(place, hit, judged, load) for place, hit in enumerate(result.hits, start=1)]
    return Case(
        id=judged.id,
        asked=judged.text or "",
        wanted=", ".join(judged.relevant),
        said="" if found else "nothing was found",
        metrics=figures.metrics,
        shown=(*_own(query.image, ()), *_missed(judged, result.hits, find, load), *found),
    )


def _missed(judged: JudgedQuery, hits: Sequence[Hit], find: Find, load: LoadPreview) -> list[Shown]:
    """Of a document its first picture, or else its first passage."""
    came = {name for tenant, name in map(judged.name, hits) if tenant == judged.tenant}
    names = sorted(judged.relevant.keys() - came, key=lambda name: (-judged.relevant[name], name))[:WANTED]
    forms = {n: [n] if judged.by_hit else [f"{n}#img-0", f"{n}#txt-0"] for n in names}
    held = find(judged.tenant, [part for parts in forms.values() for part in parts])
    first = [next((part for part in parts if part in held), None) for parts in forms.values()]
    return [
        Shown(f"wanted: {part}", held[part].text, _picture(held[part].image_uri, load), right=True)
        for part in first
        if part
    ]


def _hit(place: int, hit: Hit, judged: JudgedQuery, load: LoadPreview) -> Shown:
    return Shown(
        label=f"{place}. {hit.id}",
        text=hit.text,
        picture=_picture(hit.image_uri, load),
        right=judged.grade(judged.name(hit)) > 0,
    )


def _picture(image_uri: str | None, load: LoadPreview) -> Image.Image | None:
    preview = load(image_uri) if image_uri else None
    return images.decode(preview.data).image if preview else None


def worst_answers(
    questions: Sequence[JudgedQuestion],
    answers: Mapping[str, Given],
    worst: Sequence[str],
    per_query: Sequence[Measured],
    load: LoadPreview,
) -> tuple[Case, ...]:
    """The answers to the questions with these ids, boxes drawn on their pictures: those that were said, and
    the right ones."""
    asked, figures = {one.id: one for one in questions}, {one.id: one.metrics for one in per_query}
    return tuple(_answer(asked[name], answers[name], figures[name], load) for name in worst)


def _answer(question: JudgedQuestion, given: Given, figures: Mapping[str, float], load: LoadPreview) -> Case:
    boxes: dict[str, list[PlacedBox]] = {}
    for label, placed in (("said", given.boxes), ("right", question.boxes)):
        for box in placed:
            boxes.setdefault(box.picture, []).append(PlacedBox("query", box.box, label))
    shown = list(_own(question.image(), boxes.get(QUERY, ())))
    for number, piece in list(given.evidence.items())[:SHOWN]:
        preview = load(piece.picture) if piece.picture else None
        picture = annotated(preview, boxes.get(piece.id, ())) if preview else None
        shown.append(Shown(f"[{number}] {piece.id}", piece.text, picture))
    return Case(
        id=question.id,
        asked=question.text or "",
        wanted=_wanted(question),
        said=f"failed: {given.error}" if given.error else given.text,
        metrics=figures,
        shown=tuple(shown),
    )


def _wanted(question: JudgedQuestion) -> str:
    if not question.answerable:
        return "a refusal: the evidence does not say"
    return " or ".join(question.answers) or "boxes, drawn as “right”"


def _own(picture: bytes | None, boxes: Sequence[PlacedBox]) -> tuple[Shown, ...]:
    """The question's own picture. One that cannot be read is said so: that may be why the case is here."""
    if picture is None:
        return ()
    label = "the question's picture"
    try:
        return (Shown(label, "", annotated(preview_of(picture), boxes)),)
    except BadImage as exc:
        return (Shown(label, str(exc), None),)
