"""How fast ingestion is against a bare PyTorch loop, float32 against bfloat16, and its peak memory.

    python benchmarks/ingest.py [--work DIR] [--pictures DIR] [--pairs 5] [--count 3000]
    python benchmarks/ingest.py --memory   # over 3,000 and 30,000 pictures: 20 minutes
    python benchmarks/ingest.py --dtypes --dtype-count 800   # only float32 against bfloat16

The bare loop runs the model over the same pictures, already decoded and resized in memory, with the same
threads, batch and dtype, in a process of its own. The job is `mmrag ingest` over a folder of the files: it
lists, reads, hashes, decodes, writes previews, encodes, and writes the vectors. Start-up is apart: of the
job by the time of the same job over 64 pictures, of the loop by a batch before the clock starts.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from data.pictures import build
from measure import Ratio, peak_memory, ratio

from pipelines.core import images
from pipelines.core.encoder import EncoderConfig, load_encoder

START_UP = 64
ENCODERS = os.cpu_count() or 1  # of one thread each: as many threads as the bare loop's
BATCH = EncoderConfig().batch_size
Memory = dict[str, float]


def ingest(
    folder: Path, dtype: str, model: Path | None = None, *settings: str
) -> tuple[dict[str, Any], float, dict[str, float]]:
    """The job's summary, its whole time in seconds, and its peak memory in MiB."""
    with tempfile.TemporaryDirectory() as index:
        command = [
            Path(sys.executable).with_name("mmrag"), "ingest", folder, "--index", index, "--json",
            "--set", f"encoder.dtype={dtype}",
            "--set", f"ingest.encoders={ENCODERS}", "--set", "ingest.encoder_threads=1",
            *(["--set", "encoder.kind=clip", "--set", f"encoder.model={model}"] if model else []),
            *(word for setting in settings for word in ("--set", setting)),
        ]  # fmt: skip
        start = time.perf_counter()
        process = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        with peak_memory(process.pid) as memory:
            out, _ = process.communicate()
        elapsed = time.perf_counter() - start
        if process.returncode:
            raise SystemExit(f"{' '.join(map(str, command))} failed with status {process.returncode}")
        return json.loads(out), elapsed, memory


def bare_loop(pixels: Path, dtype: str) -> float:
    """Pictures a second of the model alone, in a fresh process."""
    command = [sys.executable, __file__, "--bare", str(pixels), "--dtype", dtype]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def run_bare(pixels: Path, dtype: str) -> float:
    import torch

    from pipelines.core.torch_runtime import keep_freed_memory

    torch.set_num_threads(ENCODERS)
    keep_freed_memory()  # both sides have it: what is compared is the job, not the allocator
    model = load_encoder(EncoderConfig(dtype=dtype)).model
    scales = [np.load(pixels / f"{side}.npy") for side in model.scales]
    for scale in scales:
        model.embed_pixels(scale[:BATCH])
    start = time.perf_counter()
    for first in range(0, len(scales[0]), BATCH):
        for scale in scales:
            model.embed_pixels(scale[first : first + BATCH])
    return len(scales[0]) / (time.perf_counter() - start)


def decode_all(files: list[Path], scales: tuple[int, ...], out: Path) -> float:
    """Decode every picture once to `out`; returns the seconds that this takes on one thread."""
    out.mkdir()
    arrays = [np.empty((len(files), side, side, 3), np.uint8) for side in scales]
    start = time.perf_counter()
    for n, path in enumerate(files):
        for array, scale in zip(
            arrays, images.pyramid(images.decode(path.read_bytes()), scales), strict=True
        ):
            array[n] = scale
    elapsed = time.perf_counter() - start
    for side, array in zip(scales, arrays, strict=True):
        np.save(out / f"{side}.npy", array)
    return elapsed


def subset(files: list[Path], count: int, out: Path) -> Path:
    out.mkdir()
    for number, path in enumerate(files[:count]):  # sources use the same names
        shutil.copyfile(path, out / f"{number}-{path.name}")
    return out


def grown(folder: Path, times: int, out: Path) -> Path:
    """The same pictures several times over, each copy with bytes of its own after the picture's end."""
    out.mkdir()
    for copy in range(times):
        for path in folder.iterdir():
            (out / f"{copy}-{path.name}").write_bytes(path.read_bytes() + bytes([copy]) * (copy > 0))
    return out


def memory(folder: Path, work: Path, dtype: str) -> None:
    for times in (1, 10):
        summary, elapsed, peak = ingest(grown(folder, times, work / f"{times}x"), dtype)
        print(
            f"{summary['images']} pictures: {elapsed:.0f} s, peak {peak['peak_mb']:.0f} MiB, "
            f"vector servers {peak['servers_mb']:.0f} MiB",
            flush=True,
        )


def against_bare_loop(folders: dict[int, Path], pixels: Path, count: int, dtype: str, pairs: int) -> None:
    bare, stage, job = [], [], []
    for n in range(pairs):
        bare.append(bare_loop(pixels, dtype))
        _, start_up, _ = ingest(folders[START_UP], dtype)
        summary, elapsed, peak = ingest(folders[count], dtype)
        stage.append(ENCODERS * summary["encoded_images"] / summary["stage_s"]["encode"])
        job.append((count - START_UP) / (elapsed - start_up))
        print(
            f"  pair {n + 1}: bare {bare[-1]:.1f}, encode stage {stage[-1]:.1f}, job {job[-1]:.1f}; "
            f"start-up {start_up:.1f} s, peak {peak['peak_mb']:.0f} MiB, stages {summary['stage_s']}",
            flush=True,
        )
    print(f"{dtype}, {count} pictures: encode stage / bare loop: {ratio(stage, bare)}")
    print(f"{dtype}, {count} pictures: whole job / bare loop: {ratio(job, bare)}", flush=True)


def vit_b32(out: Path) -> Path:
    """A CLIP of ViT-B/32's shape with random weights: as fast as the real one."""
    from transformers import CLIPConfig, CLIPModel

    CLIPModel(CLIPConfig()).save_pretrained(out)
    return out


def dtypes(folders: dict[int, Path], count: int, pairs: int, model: Path | None = None) -> Ratio:
    rates: dict[str, list[float]] = {"bfloat16": [], "float32": []}
    for _ in range(pairs):
        for dtype, found in rates.items():
            _, start_up, _ = ingest(folders[START_UP], dtype, model)
            _, elapsed, _ = ingest(folders[count], dtype, model)
            found.append((count - START_UP) / (elapsed - start_up))
        print(
            f"  whole job: {', '.join(f'{k} {v[-1]:.1f}' for k, v in rates.items())} pictures/s", flush=True
        )
    return ratio(rates["bfloat16"], rates["float32"])


def clip(folders: dict[int, Path], count: int, pairs: int, work: Path) -> None:
    rates = dtypes(folders, count, pairs, vit_b32(work / "vit"))
    print(f"clip ViT-B/32, whole job, {count} pictures, bfloat16 / float32: {rates}", flush=True)


def fidelity(pixels: Path) -> float:
    """The lowest cosine of any of 256 pictures' vectors, bfloat16 against float32."""
    vectors = []
    for dtype in ("float32", "bfloat16"):
        model = load_encoder(EncoderConfig(dtype=dtype)).model
        found = [
            model.embed_pixels(np.load(pixels / f"{side}.npy", mmap_mode="r")[:256]) for side in model.scales
        ]
        vectors.append(np.concatenate(found, axis=1) / np.sqrt(len(model.scales)))
    return float((vectors[0] * vectors[1]).sum(axis=1).min())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "mmrag-benchmarks")
    parser.add_argument(
        "--pictures", type=Path, help="a folder of at least --count pictures; fetched otherwise"
    )
    parser.add_argument("--count", type=int, default=3000)
    parser.add_argument("--dtype-count", type=int, default=1500, help="pictures for float32 against bfloat16")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--memory", action="store_true", help="only peak memory, of --count and 10 times")
    parser.add_argument("--dtypes", action="store_true", help="only float32 against bfloat16, of `clip`")
    parser.add_argument("--bare", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--dtype", default="auto")
    arguments = parser.parse_args()
    if arguments.bare:
        print(run_bare(arguments.bare, arguments.dtype))
        return
    encoder = load_encoder(EncoderConfig())
    source = arguments.pictures or build(arguments.work)
    files = sorted(path for path in source.rglob("*") if path.is_file())
    # A fixed shuffle, so that every size holds the same mixture.
    files = [files[n] for n in np.random.default_rng(0).permutation(len(files))]
    with tempfile.TemporaryDirectory() as work:
        here = Path(work)
        counts = sorted({START_UP, arguments.dtype_count, arguments.count})
        folders = {count: subset(files, count, here / str(count)) for count in counts}
        if arguments.memory:
            memory(folders[arguments.count], here, arguments.dtype)
            return
        few = arguments.dtype_count // 5  # a ViT-B/32 at three scales takes 15 times the time of `lite`
        folders[few] = subset(files, few, here / str(few))
        if arguments.dtypes:
            clip(folders, few, arguments.pairs, here)
            return
        decoding = decode_all(sorted(folders[arguments.count].iterdir()), encoder.scales, here / "pixels")
        print(f"scales {encoder.scales}; decode and resize: {arguments.count / decoding:.0f}/s a thread")
        print(f"bfloat16 against float32, lowest cosine of 256 pictures: {fidelity(here / 'pixels'):.5f}")
        against_bare_loop(folders, here / "pixels", arguments.count, arguments.dtype, arguments.pairs)
        rates = dtypes(folders, arguments.dtype_count, arguments.pairs)
        print(f"lite, whole job, {arguments.dtype_count} pictures, bfloat16 / float32: {rates}", flush=True)
        clip(folders, few, arguments.pairs, here)


if __name__ == "__main__":
    main()
