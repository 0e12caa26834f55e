"""The `clip` encoder against Hugging Face's own processor and model, with random weights."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fakes import photograph, png, tiny_clip
from PIL import Image
from torch._dynamo.utils import counters
from transformers import AutoTokenizer, ChineseCLIPModel, CLIPImageProcessor, CLIPModel

from pipelines.core import images
from pipelines.core.clip import ClipModel
from pipelines.core.encoder import Encoder, EncoderConfig, configured_space, load_encoder
from pipelines.core.errors import MissingDependency, OutOfMemory, UsageError

CLASSES = {"clip": CLIPModel, "chinese_clip": ChineseCLIPModel}
PICTURES = [photograph(seed) for seed in range(4)]


@pytest.fixture(scope="module")
def directories(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {family: tiny_clip(root / family, family) for family in CLASSES}


@pytest.fixture(params=CLASSES)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def directory(directories: dict[str, Path], family: str) -> Path:
    return directories[family]


def encoder(directory: Path, **fields: Any) -> Encoder:
    defaults = {"kind": "clip", "model": str(directory), "dtype": "float32", "device": "cpu"}
    return load_encoder(EncoderConfig(**defaults | fields))


@pytest.mark.parametrize("fields", [{}, {"scales": (64, 96)}, {"pooling": "mean"}])
def test_its_space_is_known_without_loading_it(directory: Path, fields: dict[str, Any]) -> None:
    loaded = encoder(directory, **fields)
    config = EncoderConfig.model_validate({"kind": "clip", "model": str(directory)} | fields)
    assert configured_space(config, directory, loaded.dim) == loaded.space


def encode(encoder: Encoder, pictures: list[Image.Image]) -> np.ndarray:
    decoded = [images.decode(png(picture)) for picture in pictures]
    return encoder.encode_images([images.pyramid(picture, encoder.scales) for picture in decoded])


def unit(rows: Any) -> np.ndarray:
    return torch.nn.functional.normalize(rows.float(), dim=-1).detach().numpy()


def cosines(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    return (left * right).sum(axis=1)


def of_hugging_face(directory: Path, family: str, pictures: list[Image.Image]) -> np.ndarray:
    model = CLASSES[family].from_pretrained(directory).eval()
    pixels = CLIPImageProcessor()(images=pictures, return_tensors="pt")["pixel_values"]
    with torch.inference_mode():
        return unit(model.get_image_features(pixel_values=pixels).pooler_output)


@pytest.mark.parametrize("side", [224, 320])
def test_pictures_have_the_vectors_of_hugging_face_at_224_pixels(
    directory: Path, family: str, side: int
) -> None:
    pictures = [photograph(seed, side) for seed in range(4)]
    ours = encode(encoder(directory, scales=(224,)), pictures)
    theirs = of_hugging_face(directory, family, pictures)
    distance = 1 - cosines(ours, theirs).min()
    assert distance <= 0.001
    # The figure means something: the nearest two different pictures are five times as far apart.
    assert 1 - (theirs @ theirs.T)[~np.eye(4, dtype=bool)].max() > 5 * distance


def test_texts_have_the_vectors_of_hugging_face(directory: Path, family: str) -> None:
    texts = ["a red picture", "the picture of a green blue", "红色的花"]
    tokens = AutoTokenizer.from_pretrained(directory)(texts, padding=True, return_tensors="pt")
    with torch.inference_mode():
        model = CLASSES[family].from_pretrained(directory).eval()
        theirs = unit(model.get_text_features(**tokens).pooler_output)
    ours = encoder(directory, scales=(224,)).encode_texts(texts)
    assert cosines(ours, theirs).min() >= 0.9999
    assert (theirs @ theirs.T)[~np.eye(3, dtype=bool)].max() < 0.99


def test_a_text_longer_than_the_model_reads_is_cut(directory: Path) -> None:
    one = encoder(directory, scales=(224,))
    assert one.encode_texts(["red " * 500]).shape == (1, 16)


def test_each_scale_is_a_block_and_the_dot_product_their_mean(directory: Path) -> None:
    whole = encoder(directory)
    assert whole.scales == (224, 336, 448)
    vectors = encode(whole, PICTURES[:2])
    text = whole.encode_texts(["a red picture"])[0]
    assert vectors.shape == (2, 3 * 16)
    per_scale = []
    for n, side in enumerate(whole.scales):
        alone = encoder(directory, scales=(side,))
        blocks = vectors[:, 16 * n : 16 * (n + 1)] * np.sqrt(3)
        np.testing.assert_allclose(blocks, encode(alone, PICTURES[:2]), atol=1e-5)
        per_scale.append(blocks @ alone.encode_texts(["a red picture"])[0])
    np.testing.assert_allclose(vectors @ text, np.mean(per_scale, axis=0), atol=1e-5)


def test_bfloat16_stays_within_the_space(directory: Path) -> None:
    exact = encoder(directory)
    quick = encoder(directory, dtype="bfloat16")
    assert cosines(encode(exact, PICTURES), encode(quick, PICTURES)).min() >= 0.999
    assert exact.space == quick.space
    assert exact.cache_key != quick.cache_key


def test_mean_pooling_answers_pictures_and_refuses_text(directory: Path, family: str) -> None:
    mean = encoder(directory, pooling="mean", scales=(224,))
    vectors = encode(mean, PICTURES)
    model = CLASSES[family].from_pretrained(directory).eval()
    pixels = CLIPImageProcessor()(images=PICTURES, return_tensors="pt")["pixel_values"]
    with torch.inference_mode():
        states = model.vision_model(pixel_values=pixels).last_hidden_state
    assert cosines(vectors, unit(states.mean(dim=1))).min() >= 0.999
    assert not mean.reads("a red picture")
    with pytest.raises(UsageError, match="no text tower"):
        mean.encode_texts(["red"])


def test_pooling_makes_another_space(directory: Path) -> None:
    projected, mean = encoder(directory), encoder(directory, pooling="mean")
    assert projected.space.fingerprint != mean.space.fingerprint


@pytest.mark.parametrize(
    ("text", "clip", "chinese_clip"),
    [
        ("a red picture", True, True),
        ("une façade à Zürich", True, True),
        ("红色的花", False, True),
        ("AC-120 散热器", False, True),  # two Latin letters of five
        ("красный", False, False),
        ("120 × 120", True, True),
    ],
)
def test_the_languages_that_a_model_reads(
    directories: dict[str, Path], text: str, clip: bool, chinese_clip: bool
) -> None:
    assert encoder(directories["clip"]).reads(text) is clip
    assert encoder(directories["chinese_clip"]).reads(text) is chinese_clip


def test_the_weights_wait_until_a_vector_needs_them(directory: Path) -> None:
    model = ClipModel(EncoderConfig(kind="clip", model=str(directory)))
    assert not model._model.made
    model.embed_texts(["red"])
    assert model._model.made


def test_a_batch_that_its_device_has_no_memory_for_is_made_smaller(directory: Path) -> None:
    whole, cramped = (encoder(directory, scales=(64, 96), batch_size=4) for _ in range(2))
    vectors = encode(whole, PICTURES)
    cramped.model._model().vision_model.register_forward_pre_hook(full_gpu, with_kwargs=True)
    with pytest.raises(OutOfMemory):
        cramped.model.embed_pixels(np.zeros((2, 64, 64, 3), np.uint8))
    np.testing.assert_allclose(encode(cramped, PICTURES), vectors, atol=1e-5)
    assert (cramped.batch_at(64), cramped.batch_at(96)) == (1, 1)


def full_gpu(module: Any, arguments: Any, named: Any) -> None:
    """What torch says on a GPU with memory for one picture only."""
    if len(named["pixel_values"]) > 1:
        raise torch.OutOfMemoryError("CUDA out of memory.")


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a compiler")
def test_a_compiled_tower_has_the_same_vectors_and_is_not_compiled_again(
    directories: dict[str, Path],
) -> None:
    """Of one family: a compilation takes its time, and both have the same tower."""
    plain, compiled = (
        encoder(directories["clip"], scales=(64, 96), batch_size=3, compile=it) for it in (False, True)
    )
    assert compiled.space.fingerprint == plain.space.fingerprint
    assert compiled.cache_key == plain.cache_key
    vectors = encode(plain, PICTURES)
    graphs = counters["stats"]["unique_graphs"]
    np.testing.assert_allclose(encode(compiled, PICTURES), vectors, atol=1e-5)  # batches of 3 and 1
    assert counters["stats"]["unique_graphs"] - graphs == 4, "for each scale one, and one for a lone picture"
    compiled.batch_size = 2
    with torch.compiler.set_stance("fail_on_recompile"):
        np.testing.assert_allclose(encode(compiled, PICTURES[:3]), vectors[:3], atol=1e-5)


def test_without_a_compiler_a_compiled_tower_is_refused(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(MissingDependency, match=r"encoder\.compile"):
        encoder(directory, compile=True)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_makes_the_vectors_of_a_cpu(directory: Path) -> None:
    vectors = encode(encoder(directory), PICTURES)
    for dtype in ("float32", "float16"):
        there = encode(encoder(directory, device="cuda", dtype=dtype), PICTURES)
        assert cosines(there, vectors).min() >= 0.999


def test_a_model_of_another_family_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(UsageError, match="is a 'bert' model; wanted clip or chinese_clip"):
        encoder(tmp_path)


def test_a_directory_without_a_model_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"encoder\.model .*cannot be loaded"):
        encoder(tmp_path)
