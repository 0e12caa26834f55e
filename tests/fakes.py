"""Small real objects that stand in for models and stores: deterministic, and simple enough to foretell."""

from __future__ import annotations

import errno
import io
import os
import re
import resource
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from memory_stores import MemoryLexicalStore, MemoryVectorStore
from PIL import Image

from pipelines.core.aligner import Asked, Candidates
from pipelines.core.encoder import Encoder
from pipelines.core.errors import StoreError, StoreUnavailable
from pipelines.core.index import Index, IndexConfig
from pipelines.core.job_metrics import JobMetric
from pipelines.core.manifest import named
from pipelines.core.space import Space
from pipelines.core.store_places import TEXT, VISUAL
from pipelines.core.stores import Vectors
from pipelines.core.types import Part, part_id
from pipelines.ingest.sources import files

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}


def picture(colour: str | tuple[int, int, int] = "red", form: str = "PNG", side: int = 8) -> bytes:
    """The bytes of a square picture of one colour."""
    file = io.BytesIO()
    Image.new("RGB", (side, side), COLOURS.get(str(colour), colour)).save(file, form)
    return file.getvalue()


class ColourModel:
    """A VisualModel that sees the mean colour, and reads the names of red, green and blue in ASCII."""

    dim = 3
    mean = (0.0, 0.0, 0.0)
    std = (1.0, 1.0, 1.0)
    name = "colours"
    revision = "1"
    dtype = "float32"
    device = "cpu"

    def __init__(self, scales: tuple[int, ...] = (2, 4), pooling: str = "projected") -> None:
        self.scales = scales
        self.pooling = pooling
        self.pictures_seen = 0
        self.is_broken = False

    def reads(self, text: str) -> bool:
        return text.isascii()

    def embed_pixels(self, pixels_NHWC: np.ndarray) -> np.ndarray:
        self.pictures_seen += len(pixels_NHWC) * (pixels_NHWC.shape[1] == self.scales[0])
        colours = pixels_NHWC.astype(np.float32).mean(axis=(1, 2)) + np.float32(1e-6)
        if self.is_broken:
            colours[0] = np.nan
        return colours / np.linalg.norm(colours, axis=1, keepdims=True)

    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        named = [[c for c in COLOURS if c in text.lower()] or list(COLOURS) for text in texts]
        colours = np.array([np.sum([COLOURS[c] for c in names], axis=0) for names in named], np.float32)
        return colours / np.linalg.norm(colours, axis=1, keepdims=True)


class WordEmbedder:
    """An Embedder with one axis a word, in the order in which it meets them: cosines count shared words."""

    def __init__(self, dim: int = 64) -> None:
        self.space = Space(model="words", revision="1", dim=dim)
        self.floor = -1.0
        self.texts_seen = 0
        self._axis: dict[str, int] = {}

    def embed_passages(self, texts: Sequence[str]) -> np.ndarray:
        self.texts_seen += len(texts)
        vectors = np.zeros((len(texts), self.space.dim), np.float32)
        for row, text in enumerate(texts):
            for word in re.findall(r"\w+", text.lower()) or ["(nothing)"]:
                vectors[row, self._axis.setdefault(word, len(self._axis))] += 1
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    embed_queries = embed_passages


class DownStore:
    """A store of either kind whose server does not answer."""

    dim = 0

    def search(self, *args: Any, **kwargs: Any) -> list[Any]:
        raise StoreUnavailable("http://127.0.0.1:9: search failed; is it running?")

    fetch = upsert = delete_documents = delete = count = commit = flush = search


def take_away(monkeypatch: pytest.MonkeyPatch, name: str, call: str = "open") -> None:
    """From now on opening files of this name (or `call` stat) times out, and nobody waits for them."""
    original = getattr(os, call)

    def failing(path: Any, *args: Any, **how: Any) -> Any:
        if str(path).endswith(name):
            raise OSError(errno.ETIMEDOUT, "Connection timed out")
        return original(path, *args, **how)

    monkeypatch.setattr(files.os, call, failing)
    monkeypatch.setattr(files.time, "sleep", lambda _: None)


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """The kernel lets this process write no larger ones, as on a disk without room."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def image_part(document: str, n: int = 0, caption: str = "", **fields: Any) -> Part:
    return Part(part_id(document, "image", n), "image", document, f"/{document}.png", caption, **fields)


def chunk_part(document: str, text: str, n: int = 0, images: Sequence[int] = (), **fields: Any) -> Part:
    linked = tuple(part_id(document, "image", image) for image in images)
    return Part(
        part_id(document, "chunk", n), "chunk", document, f"/{document}.txt", text, image_ids=linked, **fields
    )


def memory_index(directory: Path, *, create: bool = True) -> Index:
    """A real Index over fake models and stores in memory."""
    index = Index(directory, IndexConfig(), writable=True)
    encoder, embedder = Encoder(ColourModel()), WordEmbedder()
    stores = MemoryVectorStore(encoder.dim), MemoryVectorStore(embedder.space.dim), MemoryLexicalStore()
    attributes = ("encoder", "embedder", "visual", "text", "lexical")
    for name, value in zip(attributes, (encoder, embedder, *stores), strict=True):
        setattr(index, name, lambda value=value: value)
    if create:
        with index.write_lock():
            index.create()
    return index


class ShelvedIndex(Index):
    """A real Index whose stores are in memory by name, and met again by other objects of its directory."""

    shelf: ClassVar[dict[tuple[Path, str], Any]] = {}

    def _vectors(self, base: str, dim: int) -> Any:
        return self._shelved(named(base, self.met().generation), lambda: MemoryVectorStore(dim))

    def _lexical(self) -> Any:
        return self._shelved(named("lexical", self.met().generation), MemoryLexicalStore)

    def _shelved(self, name: str, make: Callable[[], Any]) -> Any:
        if not self.writable and (self.directory, name) not in self.shelf:
            raise StoreError(f"no {name}; run `mmrag ingest` first")
        return self.shelf.setdefault((self.directory, name), make())

    def drop(self, generation: int) -> None:
        for base in (VISUAL, TEXT, "lexical"):
            self.shelf.pop((self.directory, named(base, generation)), None)

    def names(self) -> set[str]:
        """The stores that there are."""
        return {name for directory, name in self.shelf if directory == self.directory}


def shelved_index(
    directory: Path, scales: tuple[int, ...] = (2, 4), embedder: WordEmbedder | None = None, **how: bool
) -> ShelvedIndex:
    encoder, words = Encoder(ColourModel(scales)), embedder or WordEmbedder()
    return ShelvedIndex(directory, IndexConfig(), encoder=lambda: encoder, embedder=lambda: words, **how)


class Recorded:
    """A `Record` that keeps what it is told, by the metric's name and its labels' values.

    As Ray does, it refuses labels that are missing and counts of nothing.
    """

    def __init__(self) -> None:
        self.counted: Counter[tuple[str, ...]] = Counter()
        self.gauges: dict[tuple[str, ...], float] = {}
        self.timed: list[tuple[tuple[str, ...], float]] = []

    def __call__(self, metric: JobMetric, value: float, /, **labels: str) -> None:
        assert set(labels) == set(metric.labels)
        key = (metric.name, *labels.values())
        if metric.kind == "counter":
            assert value > 0
            self.counted[key] += value
        elif metric.kind == "gauge":
            self.gauges[key] = value
        else:
            self.timed.append((key, value))


def tiny_clip(directory: Path, family: str = "clip", seed: int = 0) -> Path:
    """A random CLIP or Chinese-CLIP of Hugging Face's own classes, with a tokenizer, saved in `directory`."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import (
        ChineseCLIPConfig,
        ChineseCLIPModel,
        CLIPConfig,
        CLIPModel,
        PreTrainedTokenizerFast,
    )

    words = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        *["a", "red", "green", "blue", "picture", "of", "the"],
        *"红色的花绿叶",
    ]
    vocabulary = {word: n for n, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()  # parts Chinese characters
    ends = [("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])]
    tokenizer.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", special_tokens=ends)
    tower = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = tower | {"vocab_size": len(words), "max_position_embeddings": 77, "pad_token_id": 0}
    vision = tower | {"image_size": 224, "patch_size": 32}
    torch.manual_seed(seed)
    if family == "clip":
        ends_of_text = {"bos_token_id": 2, "eos_token_id": 3}
        # A larger spread than that of fresh weights, so that different pictures differ.
        config = CLIPConfig(
            text_config=text | ends_of_text, vision_config=vision, projection_dim=16, initializer_factor=5.0
        )
        model = CLIPModel(config)
    else:
        config = ChineseCLIPConfig(
            text_config=text, vision_config=vision, projection_dim=16, initializer_factor=5.0
        )
        model = ChineseCLIPModel(config)
    directory.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(directory)
    named = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **named).save_pretrained(directory)
    return directory


def photograph(seed: int, side: int = 224) -> Image.Image:
    """A picture with broad shapes and fine grain, another for each seed."""
    random = np.random.default_rng(seed)
    broad = Image.fromarray(random.integers(0, 256, (5, 5, 3), np.uint8)).resize((side, side), 3)
    grain = random.normal(0, 8, (side, side, 3))
    return Image.fromarray(np.clip(np.asarray(broad) + grain, 0, 255).astype(np.uint8))


def png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


class Reversed:
    """An aligner that likes best what the encoder likes least; remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def relevance(self, asked: Sequence[Asked], candidates: Sequence[Candidates]) -> list[Vectors]:
        self.asked += [len(shown.contents) for shown in candidates]
        return [-(shown.vectors @ one.visual) for one, shown in zip(asked, candidates, strict=True)]
