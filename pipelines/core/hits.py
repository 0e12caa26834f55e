"""From what branches found to hits: who is credited with a chunk's rank, and what a hit shows. Knows no
weights and runs no branch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from pipelines.core.errors import StoreUnavailable
from pipelines.core.filter_forms import without
from pipelines.core.filters import Filter, matches
from pipelines.core.fusion import Fused
from pipelines.core.readings import lines_of
from pipelines.core.types import Found, Hit, Line, Part


class Shown(Protocol):
    """What is asked about parts that become hits."""

    @property
    def image_uri(self) -> Callable[[Part], str]: ...
    @property
    def lines(self) -> Callable[[Part], Sequence[Line]]: ...


def best_of(searches: Sequence[Sequence[Found]], n: int) -> Sequence[Found]:
    """The n best of several searches of one store: what more than one found counts by its best score."""
    if len(searches) == 1:
        return searches[0]
    best: dict[str, Found] = {}
    for found in (one for results in searches for one in results):
        if found.part.key not in best or found.score > best[found.part.key].score:
            best[found.part.key] = found
    return sorted(best.values(), key=lambda found: -found.score)[:n]


def credited_ranks(results: Sequence[Found], where: Filter | None = None) -> dict[str, int]:
    """Ranks by key of pictures and unlinked chunks: a linked chunk passes its rank to its pictures."""
    ranks: dict[str, int] = {}
    for rank, found in enumerate(results, start=1):
        for key in _pictures(found.part, where) or (found.part.key,):
            ranks.setdefault(key, rank)
    return ranks


def first_hits(
    fused: Sequence[Fused[str]],
    found: Mapping[str, Sequence[Found]],
    k: int,
    know: Shown,
    fetch: Callable[[Sequence[str]], Mapping[str, Part]],
    like: Mapping[str, str],
    where: Filter | None = None,
) -> tuple[tuple[Hit, ...], tuple[str, ...]]:
    """The first k fused items as hits, and what was missing for them.

    A credited picture that no visual branch returned is fetched; where it was refused at ingest, does not
    match the filter, or its store is down, its chunk stands for itself, if that matches. Of pictures with the
    same key in `like` the first is the one hit.
    """
    parts = {one.part.key: one.part for results in found.values() for one in results}
    chunk_of = _credits(found, where)
    own_scores = {branch: [one.score for one in results] for branch, results in found.items()}
    hits: dict[str, Hit] = {}  # by the key of what they look like
    unfetched: tuple[str, ...] = ()
    for start in range(0, len(fused), k):
        page = fused[start : start + k]
        missing = [one.item for one in page if one.item not in parts]
        if missing and not unfetched:
            try:
                parts |= fetch(missing)
            except StoreUnavailable as exc:
                unfetched = (f"pictures of passages: {exc}",)
        for one in page:
            candidates = filter(None, (parts.get(one.item), chunk_of.get(one.item)))
            part = next((part for part in candidates if where is None or matches(where, part)), None)
            if part is None:
                continue
            shown = like.get(part.key, part.key)
            if shown not in hits and len(hits) < k:
                scores = {branch: own_scores[branch][rank - 1] for branch, rank in one.ranks.items()}
                hits[shown] = _hit(part, chunk_of.get(one.item), one, len(hits) + 1, scores, know)
        if len(hits) >= k:
            break
    return tuple(hits.values()), unfetched


def _pictures(chunk: Part, where: Filter | None) -> tuple[str, ...]:
    """The keys of a chunk's pictures that the filter may keep. All that it reads of them stands in the chunk,
    too, but for their `source`."""
    decided = without(where, "source")
    if decided is None:
        return chunk.image_keys
    pictures = (replace(chunk, kind="image", id=one) for one in chunk.image_ids)
    return tuple(picture.key for picture in pictures if matches(decided, picture))


def _credits(found: Mapping[str, Sequence[Found]], where: Filter | None) -> dict[str, Part]:
    """For each credited picture's key, the best-ranked chunk that credits it."""
    best: dict[str, tuple[int, Part]] = {}
    for results in found.values():
        for rank, result in enumerate(results, start=1):
            for key in _pictures(result.part, where):
                if key not in best or rank < best[key][0]:
                    best[key] = (rank, result.part)
    return {key: part for key, (_, part) in best.items()}


def _hit(
    part: Part,
    chunk: Part | None,
    fused: Fused[str],
    citation_id: int,
    scores: Mapping[str, float],
    know: Shown,
) -> Hit:
    is_picture = part.kind == "image"
    text = chunk.text if chunk else part.text
    return Hit(
        id=part.id,
        document_id=part.document_id,
        kind=part.kind,
        score=fused.score,
        text=text,
        source=part.source,
        image_uri=know.image_uri(part) if is_picture else None,
        metadata=part.metadata,
        citation_id=citation_id,
        sources=fused.ranks,
        lines=lines_of(text, know.lines(part)) if is_picture else (),
        scores=scores,
        tenant=part.tenant,
    )
