"""How well judged texts and their pictures meet in the encoder's space, whatever else a search goes by.

A pair is a query in words alone and, of the pictures that the index has, the one that is most relevant to it;
of a document it is the first. `clip_score` is by the encoder that the index was made with. `cross_modal_gap`
and `in_modal_gap` are over all pairs together, so they are comparable over the same set of pairs only, which
their instrument names. Their intervals draw questions, each with its gap among all pairs, although that
depends on all the others: what other pairs would make of it is not in them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence

import numpy as np

from pipelines.core.encoder import Encoder
from pipelines.core.stores import Vectors, VectorStore
from pipelines.core.types import is_part_id, store_key
from pipelines.evaluate import metrics
from pipelines.evaluate.queries import JudgedQuery
from pipelines.evaluate.retrieval import Also

_GAPS = {"cross_modal_gap": metrics.cross_modal_gap, "in_modal_gap": metrics.in_modal_gap}
_AT_ONCE = 512


def cross_modal(queries: Sequence[JudgedQuery], visual: VectorStore, encoder: Encoder) -> Also:
    """The measures of each query that makes a pair; none where texts have no place beside pictures, and no
    gap of one pair alone.

    Raises StoreUnavailable.
    """
    asked = {
        query.id: query for query in queries if query.text and not query.picture and encoder.reads(query.text)
    }
    keys = {name: [store_key(query.tenant, one) for one in _pictures(query)] for name, query in asked.items()}
    vectors = _vectors([*{key for some in keys.values() for key in some}], visual)
    there = {name: [key for key in some if key in vectors] for name, some in keys.items()}
    pairs = {name: some[0] for name, some in there.items() if some}
    model = f"{encoder.space.model}, {encoder.space.revision}"
    instruments = {"clip_score": model} | dict.fromkeys(_GAPS, f"{model}, over {_digest(pairs)}")
    if not pairs:
        return Also({}, instruments)
    images_ND = np.stack([vectors[key] for key in pairs.values()])
    texts_ND = _encoded([asked[name].text or "" for name in pairs], encoder)
    measures = {"clip_score": metrics.clip_score} | (_GAPS if len(pairs) > 1 else {})
    values = {name: measure(images_ND, texts_ND).tolist() for name, measure in measures.items()}
    rows = enumerate(pairs)
    measured = {query: {name: column[row] for name, column in values.items()} for row, query in rows}
    return Also(measured, instruments)


def _pictures(query: JudgedQuery) -> list[str]:
    """The ids of pictures that are relevant to it, the most relevant first; a document's may not be there."""
    best_first = sorted(query.relevant, key=lambda name: -query.relevant[name])
    names = (name if is_part_id(name) else f"{name}#img-0" for name in best_first)
    return [name for name in names if "#img-" in name]


def _vectors(keys: Sequence[str], visual: VectorStore) -> dict[str, Vectors]:
    found: dict[str, Vectors] = {}
    for start in range(0, len(keys), _AT_ONCE):
        found |= visual.vectors(keys[start : start + _AT_ONCE])
    return found


def _encoded(texts: Sequence[str], encoder: Encoder) -> Vectors:
    batches = [texts[start : start + _AT_ONCE] for start in range(0, len(texts), _AT_ONCE)]
    vectors: Vectors = np.concatenate([encoder.encode_texts(batch) for batch in batches])
    return vectors


def _digest(pairs: Mapping[str, str]) -> str:
    """Names the set: gaps over another one are other measures."""
    known = hashlib.sha256(json.dumps(sorted(pairs.items())).encode()).hexdigest()[:8]
    return f"{len(pairs):,} pairs ({known})"
