"""How well judged texts and their pictures meet in the encoder's space, whatever else a search goes by.

A pair is a query in words alone and the picture that is most relevant to it: of a document its first one.
`clip_score` is by the encoder that the index was made with; `cross_modal_gap` and `in_modal_gap` are over all
pairs together, so they are comparable for the same queries only.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipelines.core.encoder import Encoder
from pipelines.core.stores import Vectors, VectorStore
from pipelines.core.types import is_part_id, store_key
from pipelines.evaluate import metrics
from pipelines.evaluate.queries import JudgedQuery
from pipelines.evaluate.retrieval import NOTHING_ELSE, Also

MEASURES = {
    "clip_score": metrics.clip_score,
    "cross_modal_gap": metrics.cross_modal_gap,
    "in_modal_gap": metrics.in_modal_gap,
}
_AT_ONCE = 512


def cross_modal(queries: Sequence[JudgedQuery], visual: VectorStore, encoder: Encoder, tenant: str) -> Also:
    """The measures of each query that makes a pair; none where texts have no place beside pictures.

    Raises StoreUnavailable.
    """
    named = {
        query.id: (query.text, store_key(tenant, picture))
        for query in queries
        if query.text and query.picture is None and encoder.reads(query.text) and (picture := _picture(query))
    }
    vectors = _vectors([key for _, key in named.values()], visual)
    pairs = {name: pair for name, pair in named.items() if pair[1] in vectors}
    if not pairs:
        return NOTHING_ELSE
    texts = [text for text, _ in pairs.values()]
    batches = [texts[start : start + _AT_ONCE] for start in range(0, len(texts), _AT_ONCE)]
    texts_ND = np.concatenate([encoder.encode_texts(batch) for batch in batches])
    images_ND = np.stack([vectors[key] for _, key in pairs.values()])
    values = {name: measure(images_ND, texts_ND) for name, measure in MEASURES.items()}
    found = {
        query: {name: float(column[row]) for name, column in values.items()}
        for row, query in enumerate(pairs)
    }
    return Also(found, dict.fromkeys(MEASURES, f"{encoder.space.model}, {encoder.space.revision}"))


def _picture(query: JudgedQuery) -> str:
    """The id of the picture that is most relevant to it; empty where only passages are."""
    best_first = sorted(query.relevant, key=lambda name: -query.relevant[name])
    names = (name if is_part_id(name) else f"{name}#img-0" for name in best_first)
    return next((name for name in names if "#img-" in name), "")


def _vectors(keys: Sequence[str], visual: VectorStore) -> dict[str, Vectors]:
    found: dict[str, Vectors] = {}
    for start in range(0, len(keys), _AT_ONCE):
        found |= visual.vectors(keys[start : start + _AT_ONCE])
    return found
