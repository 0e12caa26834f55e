"""How fast is ingestion against clip-retrieval, and against a bare loop that decodes?

    python -m venv PEER && PEER/bin/pip install clip-retrieval==2.45.0 'transformers<5' 'setuptools<70'
    python benchmarks/clip_retrieval.py --peer PEER/bin/clip-retrieval [--pairs 5] [--count 2000]
    python benchmarks/clip_retrieval.py --scales 224 336 448 --dtype bfloat16 --count 400   # the loop alone

Each pair has other pictures, `count` of each, drawn from emoji of two vendors, the GIMP manual and
Openclipart, without those above the decoder's limit of pixels. All run the same random weights of ViT-B/32's
shape with as many threads as there are cores, in batches of 16; clip-retrieval at 224 pixels in float32 only:

- mmrag: `mmrag ingest` over a folder, into milvus-lite; start-up is that of the job over 64 pictures;
- clip-retrieval: `clip-retrieval inference` over the same folder, into .npy files; start-up likewise;
- loop: plain Transformers in one process that decodes a batch in a thread while it encodes the one before,
  and drops the vectors.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from ingest import BATCH, ENCODERS, START_UP, ingest, subset, vit_b32
from measure import ratio
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks.data.emoji import fetch_emoji
from benchmarks.data.gimp import fetch_manual
from benchmarks.data.openclipart import fetch_clipart
from pipelines.core import images
from pipelines.core.clip_description import MEAN, STD

SIDE = 224
PEER = "clip-retrieval"
_SUFFIXES = {".png", ".jpg", ".jpeg"}
"""What all three read."""


def pictures(work: Path) -> list[Path]:
    """All files with pictures of these that mmrag would decode, in an order that mixes them."""
    fetch_emoji(work)
    fetch_clipart(work)
    roots = [
        fetch_manual("en", work),
        work / "pictures" / "google",
        work / "pictures" / "twitter",
        work / "downloads" / "openclipart" / "png",
    ]
    found = sorted(path for root in roots for path in root.rglob("*") if path.suffix in _SUFFIXES)
    mixed = [found[n] for n in np.random.default_rng(0).permutation(len(found))]
    return [path for path in mixed if _fits(path)]


def _fits(path: Path) -> bool:
    try:
        with Image.open(path) as picture:  # reads no pixel
            return picture.width * picture.height <= images.MAX_PIXELS
    except Image.DecompressionBombError:
        return False


def with_processors(model: Path) -> Path:
    """The model's directory, with what clip-retrieval loads beside the weights: a pixel processor, and a
    tokenizer, of which it reads nothing here."""
    from transformers import CLIPImageProcessor

    CLIPImageProcessor().save_pretrained(model)
    vocabulary = {"<|startoftext|>": 0, "<|endoftext|>": 1}
    (model / "vocab.json").write_text(json.dumps(vocabulary), "utf-8")
    (model / "merges.txt").write_text("#version: 0.2\n", "utf-8")
    return model


def mmrag_s(folder: Path, model: Path, scales: Sequence[int], dtype: str) -> float:
    summary, elapsed, _ = ingest(folder, dtype, model, f"encoder.scales={[*scales]}")
    if summary["rejected"]:
        raise SystemExit(f"mmrag rejected {summary['rejected']} pictures")
    return elapsed


def peer_s(peer: Path, folder: Path, model: Path) -> float:
    with tempfile.TemporaryDirectory() as out:
        command = [
            peer, "inference", "--input_dataset", folder, "--output_folder", out, "--input_format", "files",
            "--enable_text", "False", "--enable_wandb", "False", "--clip_model", f"hf_clip:{model}",
            "--batch_size", BATCH, "--num_prepro_workers", ENCODERS, "--use_jit", "False",
        ]  # fmt: skip
        start = time.perf_counter()
        run = subprocess.run(
            [*map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        elapsed = time.perf_counter() - start
        vectors = sum(len(np.load(file)) for file in Path(out).glob("img_emb/*.npy"))
        count = sum(1 for _ in folder.iterdir())
        if run.returncode or vectors != count:
            raise SystemExit(f"clip-retrieval encoded {vectors} of {count}: {run.stdout[-3000:]}")
    return elapsed


def loop_rate(folder: Path, model: Path, scales: Sequence[int], dtype: str) -> float:
    """Pictures a second of the bare loop, in a fresh process."""
    command = [
        sys.executable,
        __file__,
        "--loop",
        folder,
        "--model",
        model,
        "--dtype",
        dtype,
        "--scales",
        *scales,
    ]
    return float(subprocess.run([*map(str, command)], check=True, capture_output=True, text=True).stdout)


def run_loop(folder: Path, model: Path, scales: tuple[int, ...], dtype: str) -> float:
    import torch
    from transformers import CLIPModel

    from pipelines.core.torch_runtime import keep_freed_memory

    torch.set_num_threads(ENCODERS)
    keep_freed_memory()
    clip = CLIPModel.from_pretrained(model, dtype=getattr(torch, dtype)).eval()
    mean, std = (torch.tensor(of).view(1, 3, 1, 1) for of in (MEAN, STD))

    @torch.inference_mode()
    def encode(pixels_NHWC: Any) -> None:
        pixels = (torch.from_numpy(pixels_NHWC).permute(0, 3, 1, 2).float() - mean) / std
        clip.get_image_features(pixel_values=pixels.to(clip.dtype), interpolate_pos_encoding=True)

    files = sorted(folder.iterdir())
    batches = [files[first : first + BATCH] for first in range(0, len(files), BATCH)]
    for pixels in _pixels(batches[0], scales):
        encode(pixels)
    start = time.perf_counter()
    with ThreadPoolExecutor(1) as ahead:
        waiting = ahead.submit(_pixels, batches[0], scales)
        for following in [*batches[1:], []]:
            pyramid, waiting = waiting.result(), ahead.submit(_pixels, following, scales)
            for pixels in pyramid:
                encode(pixels)
    return len(files) / (time.perf_counter() - start)


def _pixels(files: Sequence[Path], scales: tuple[int, ...]) -> list[Any]:
    """uint8 pixels of a batch, an array for each scale."""
    decoded = [images.pyramid(images.decode(file.read_bytes()), scales) for file in files]
    return [np.array(scale) for scale in zip(*decoded, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--peer", type=Path, help="the program clip-retrieval; without it, the loop alone")
    parser.add_argument("--work", type=Path, default=Path("build/pictures"))
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--scales", type=int, nargs="+", default=[SIDE])
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--loop", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--model", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.loop:
        print(run_loop(args.loop, args.model, tuple(args.scales), args.dtype))
        return
    how = args.scales, args.dtype
    if args.peer and how != ([SIDE], "float32"):
        parser.error("--peer: clip-retrieval is compared at 224 pixels and in float32")
    files = pictures(args.work)
    print(f"{len(files):,} pictures; {args.count * args.pairs:,} of them are measured")
    rates: dict[str, list[float]] = {"mmrag": [], "loop": []} | ({PEER: []} if args.peer else {})
    whole: dict[str, list[float]] = {"mmrag": [], PEER: []}  # start-up included
    print(f"| pair | {' | '.join(rates)} |\n{'|---' * (1 + len(rates))}|")
    with tempfile.TemporaryDirectory() as here:
        model = with_processors(vit_b32(Path(here) / "vit"))
        few = subset(files, START_UP, Path(here) / "few")
        for pair in range(args.pairs):
            folder = subset(files[pair * args.count :], args.count, Path(here) / str(pair))
            mine = mmrag_s(folder, model, *how)
            whole["mmrag"].append(args.count / mine)
            rates["mmrag"].append((args.count - START_UP) / (mine - mmrag_s(few, model, *how)))
            rates["loop"].append(loop_rate(folder, model, *how))
            if args.peer:
                theirs = peer_s(args.peer, folder, model)
                whole[PEER].append(args.count / theirs)
                rates[PEER].append((args.count - START_UP) / (theirs - peer_s(args.peer, few, model)))
            print(
                f"| {pair + 1} | {' | '.join(f'{found[-1]:.1f}' for found in rates.values())} |", flush=True
            )
    for other in [*rates][1:]:
        print(f"mmrag / {other}: {ratio(rates['mmrag'], rates[other])}")
    if args.peer:
        print(f"mmrag / {PEER}, start-up included: {ratio(whole['mmrag'], whole[PEER])}")


if __name__ == "__main__":
    main()
