"""What is known of a CLIP before it is loaded. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass

from pipelines.core.encoder import EncoderConfig
from pipelines.core.errors import UsageError
from pipelines.core.space import weights_identity

FAMILIES = ("clip", "chinese_clip")
DEFAULT_SCALES = (224, 336, 448)
MEAN = (0.48145466 * 255, 0.4578275 * 255, 0.40821073 * 255)  # OpenAI's CLIP, kept by Chinese-CLIP
STD = (0.26862954 * 255, 0.26130258 * 255, 0.27577711 * 255)


@dataclass(frozen=True, slots=True)
class ClipDescription:
    name: str
    revision: str
    scales: tuple[int, ...]
    pooling: str
    mean: tuple[float, float, float] = MEAN
    std: tuple[float, float, float] = STD


def describe(config: EncoderConfig, family: str) -> ClipDescription:
    """`family`: the `model_type` of its config.json. Raises UsageError for another than CLIP's."""
    if family not in FAMILIES:
        raise UsageError(
            f"encoder.model {config.model!r} is a {family!r} model; wanted {' or '.join(FAMILIES)}"
        )
    name, revision = weights_identity(config.model, config.revision)
    return ClipDescription(f"{family}:{name}", revision, config.scales or DEFAULT_SCALES, config.pooling)
