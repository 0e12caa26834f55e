"""What a hit is called, and what it carries beside its text, flat, as other frameworks keep it."""

from __future__ import annotations

from typing import Any

from pipelines.core.types import Hit, store_key


def id_of(hit: Hit) -> str:
    """The hit's id; where it has a tenant its store key, for frameworks take equal ids for one document."""
    return store_key(hit.tenant, hit.id) if hit.tenant else hit.id


def metadata_of(hit: Hit) -> dict[str, Any]:
    """The document's own metadata; names of ours win over equal ones of it. What belongs to one search alone
    is `found_by`'s."""
    return {**hit.metadata, **ours_of(hit)}


def ours_of(hit: Hit) -> dict[str, Any]:
    return {
        "id": id_of(hit),
        "document_id": hit.document_id,
        "tenant": hit.tenant,
        "kind": hit.kind,
        "source": hit.source,
        "image_uri": hit.image_uri,
    }


def found_by(hit: Hit) -> dict[str, Any]:
    return {"score": hit.score, "citation_id": hit.citation_id}
