"""What writes answers: its settings, what it is given, and what must be known of a model to ask it well.

Knows nothing of retrieval, and loads no weights.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field

from pipelines.core.adapter import MANIFEST_FILE, own_frame, read_manifest
from pipelines.core.errors import UsageError
from pipelines.core.grounding import FrameConfig
from pipelines.core.local_models import read_config, read_json
from pipelines.core.prompts import IMAGE_TOKEN, PROMPT_VERSION, Turn, messages
from pipelines.core.types import Usage

if TYPE_CHECKING:
    from tokenizers import Tokenizer

TINY_LLAVA = Path(__file__).parents[1] / "models" / "tiny_llava"
_DEFAULT_TOKENS_PER_IMAGE = 576


class GeneratorConfig(BaseModel):
    """Which model writes the answers, and how. The default needs no hub and no GPU."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    engine: Literal["auto", "vllm", "transformers"] = Field(
        "auto", description="auto: vLLM in `serve` where it is installed, transformers elsewhere"
    )
    model: str = Field("", description="directory or hub id of a LLaVA; empty: the packaged tiny-llava")
    revision: str | None = None
    adapters: Mapping[str, Path] = Field(
        {}, description="by name: exports of `mmrag train llava --export adapter`, asked as model:name"
    )
    frame: FrameConfig | None = Field(
        None, description="how pictures lie in the model's square; null: as its manifest says"
    )
    max_model_len: int | None = Field(None, ge=64, description="tokens; null: the model's own")
    max_pictures: int | None = Field(
        None, ge=0, le=64, description="a prompt's, the question's own among them; null: 4, of tiny-llava 1"
    )
    picture_share: float = Field(
        0.5, ge=0, le=1, description="of the best hit's score: with less a hit's picture is not shown"
    )
    evidence_tokens: int = Field(1536, ge=0, description="for the text of the evidence")
    max_tokens: int = Field(256, ge=1, description="of an answer")
    temperature: float = Field(0.0, ge=0, le=2)
    top_p: float = Field(1.0, gt=0, le=1)
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    device: str = "auto"

    @property
    def most_pictures(self) -> int:
        """The packaged model mistakes one picture of a prompt for another: its card has the figures."""
        if self.max_pictures is None:
            return 4 if self.model else 1
        return self.max_pictures

    @property
    def served_by(self) -> Literal["vllm", "transformers"]:
        """The engine of `serve`; `ask` alone always takes transformers."""
        if self.engine == "auto":
            return "vllm" if find_spec("vllm") else "transformers"
        return self.engine

    @property
    def sampling(self) -> Sampling:
        return Sampling(self.max_tokens, self.temperature, self.top_p)


@dataclass(frozen=True, slots=True)
class Prompt:
    """`<image>` marks in the turns stand for the pictures, in order: PNG files, in the model's square where
    it has one."""

    turns: tuple[Turn, ...]
    pictures: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Sampling:
    """`temperature` 0 is greedy. `adapter` is a name of `GeneratorConfig.adapters`; empty: the base model."""

    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    adapter: str = ""


def prompt_text(processor: Any, turns: Sequence[Turn]) -> tuple[str, bool]:
    """The turns up to the answer by the model's own template, and whether its first token is to be added: not
    where the template writes it."""
    text = str(processor.apply_chat_template(messages(turns), add_generation_prompt=True, tokenize=False))
    bos = processor.tokenizer.bos_token
    return text, not (bos is not None and text.startswith(bos))


class Generator(Protocol):
    def stream(self, prompt: Prompt, sampling: Sampling) -> AsyncGenerator[str | Usage]:
        """The answer in pieces, and at its end what it took. Closing the iterator ends the work.
        Raises GeneratorUnavailable."""


@dataclass(frozen=True)
class ModelProfile:
    """What a prompt must fit. `side`: of the square that pictures are put into, in pixels; None where the
    model takes pictures as they are. `context`: tokens of a prompt and its answer."""

    name: str
    directory: Path
    side: int | None
    tokens_per_image: int
    context: int
    frame: FrameConfig

    @cached_property
    def tokenizer(self) -> Tokenizer:
        from tokenizers import Tokenizer

        return Tokenizer.from_file(str(self.directory / "tokenizer.json"))

    @cached_property
    def _control(self) -> re.Pattern[str]:
        added = self.tokenizer.get_added_tokens_decoder().values()
        special = {token.content for token in added if token.special} - {IMAGE_TOKEN}
        return re.compile("|".join(map(re.escape, sorted(special, key=len, reverse=True))) or "(?!)")

    def plain(self, text: str) -> str:
        """The text with its control tokens, such as `</s>`, spelt apart: what is quoted must not steer.
        Marks of pictures are left to the prompt."""
        return self._control.sub(lambda found: " ".join((found[0][0], found[0][1:])), text)

    def count(self, text: str) -> int:
        """Tokens of a text without pictures."""
        return len(self.tokenizer.encode(text, add_special_tokens=False))

    def cut(self, text: str, tokens: int) -> str:
        """The beginning of a text that has at most so many tokens, to the end of a word."""
        offsets = self.tokenizer.encode(text, add_special_tokens=False).offsets
        if len(offsets) <= tokens:
            return text
        end = offsets[tokens - 1][1] if tokens else 0
        if end < len(text) and text[end].isalnum() and text[end].isascii():
            end = max(text.rfind(" ", 0, end), 0)
        return text[:end].rstrip()


def load_profile(config: GeneratorConfig) -> ModelProfile:
    """Reads the model's settings, not its weights; of a hub model they are fetched. Raises UsageError for
    what is no model, and for one that was trained with other words than `core.prompts` has now."""
    directory = model_directory(config)
    body = read_config(directory)
    if not body or not (directory / "tokenizer.json").exists():
        raise UsageError(f"generator.model {directory} has no config.json and tokenizer.json: it is no model")
    if (directory / MANIFEST_FILE).exists():
        manifest = read_manifest(directory)
        if manifest.prompt_version != PROMPT_VERSION:
            raise UsageError(
                f"generator.model {directory} was trained with prompt {manifest.prompt_version!r}, and this "
                f"version of mmrag asks with {PROMPT_VERSION!r}: train it again, or use the version before"
            )
    own = body.get("text_config", body).get("max_position_embeddings")
    lengths = [length for length in (config.max_model_len, own) if length]
    return ModelProfile(
        name=model_name(config),
        directory=directory,
        side=_side(directory),
        tokens_per_image=body.get("image_seq_length") or _DEFAULT_TOKENS_PER_IMAGE,
        context=min(lengths, default=4096),
        frame=frame_of(config, directory),
    )


def frame_of(config: GeneratorConfig, directory: Path) -> FrameConfig:
    """How the model in `directory` is shown pictures. Raises UsageError for a damaged manifest."""
    return config.frame or own_frame(directory)


def model_name(config: GeneratorConfig) -> str:
    """What clients call the model: `tiny-llava`, or the last part of its directory or hub id."""
    return Path(config.model).name if config.model else "tiny-llava"


def model_directory(config: GeneratorConfig) -> Path:
    """Where the model's files lie; a hub model's settings are fetched into the hub's cache."""
    if not config.model:
        return TINY_LLAVA
    if Path(config.model).is_dir():
        return Path(config.model).absolute()
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        found = snapshot_download(
            config.model, revision=config.revision, allow_patterns=["*.json", "*.jinja", "*.model"]
        )
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as exc:
        raise UsageError(
            f"generator.model {config.model!r} is no directory, and no model of that name can be fetched: "
            f"{' '.join(str(exc).split())[:200]}"
        ) from exc
    return Path(found)


def _side(directory: Path) -> int | None:
    """Of a processor that makes squares, the side."""
    body = read_json(directory / "processor_config.json").get("image_processor") or read_json(
        directory / "preprocessor_config.json"
    )
    size = body.get("crop_size") or body.get("size")
    if isinstance(size, int):
        return size
    if isinstance(size, Mapping) and size.get("height") == size.get("width"):
        return size.get("height")
    return None
