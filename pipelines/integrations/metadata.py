"""What a hit carries beside its text, flat, as other frameworks keep it."""

from __future__ import annotations

from typing import Any

from pipelines.core.types import Hit


def metadata_of(hit: Hit) -> dict[str, Any]:
    """The document's own metadata; names of ours win over equal ones of it."""
    return {
        **hit.metadata,
        "document_id": hit.document_id,
        "kind": hit.kind,
        "score": hit.score,
        "source": hit.source,
        "image_uri": hit.image_uri,
        "citation_id": hit.citation_id,
    }
