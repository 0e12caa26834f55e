"""A load that rises and falls: how many generators and retrievers there are, and whether a request is lost.

    python benchmarks/serve_scale.py [--part generator] [--steps 2 24 2] [--seconds 90]

Starts a Ray that counts 16 CPUs, however many there are, `mmrag serve` on it with up to three replicas of the
part, and asks with so many concurrent callers for so long, step after step.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import psutil

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks.processes import below, matching
from benchmarks.serve import MMRAG, corpus
from pipelines.serve.client import served

RAY = Path(sys.executable).with_name("ray")
SCALED = {"max_replicas": 3, "target_ongoing_requests": 4, "upscale_delay_s": 2, "downscale_delay_s": 15}
# Where vLLM is the generator its settings are those of `serve.vllm`.
GROUPS = {"generator": "vllm", "retriever": "retriever"}


@contextmanager
def cluster(cpus: int, folder: Path, dashboard: bool = False) -> Iterator[None]:
    """A Ray of this machine that everything started meanwhile joins. `serve deploy` needs its dashboard."""
    os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = {"num-cpus": cpus, "port": port, "node-ip-address": "127.0.0.1",
                "include-dashboard": str(dashboard).lower(), "temp-dir": folder}  # fmt: skip
    started = [RAY, "start", "--head", *(f"--{name}={value}" for name, value in settings.items())]
    subprocess.run(started, check=True, stdout=subprocess.DEVNULL)
    os.environ["RAY_ADDRESS"] = f"127.0.0.1:{port}"
    try:
        yield
    finally:
        _kill_all_of(folder)


def _kill_all_of(folder: Path) -> None:
    """Every process of the Ray that lives in the folder: `ray stop` would end all of the machine's."""
    named = matching(re.escape(str(folder)))
    for process in {*named, *(child for one in named for child in below(one.pid))}:
        with suppress(psutil.NoSuchProcess):
            process.kill()


def replicas(part: str) -> int:
    """Processes that are up, those still loading among them."""
    return len(matching(f"ServeReplica:mmrag:{part}"))


async def step(address: str, questions: Sequence[str], concurrent: int, seconds: float, part: str) -> str:
    """A row of the table."""
    until = time.monotonic() + seconds
    statuses: Counter[str] = Counter()
    waited: list[float] = []
    counted: list[int] = []

    async def one_after_the_other(client: httpx.AsyncClient, number: int) -> None:
        while time.monotonic() < until:
            start = time.monotonic()
            try:
                body = {"query": questions[number % len(questions)]}
                statuses[str((await client.post("/v1/answer", json=body)).status_code)] += 1
            except httpx.HTTPError as exc:
                statuses[type(exc).__name__] += 1
            waited.append(time.monotonic() - start)
            number += concurrent

    async def count() -> None:
        while time.monotonic() < until:
            counted.append(await asyncio.to_thread(replicas, part))
            await asyncio.sleep(1)

    async with httpx.AsyncClient(base_url=address, timeout=120) as client:
        await asyncio.gather(count(), *(one_after_the_other(client, n) for n in range(concurrent)))
    p50 = sorted(waited)[len(waited) // 2]
    cells = (concurrent, sum(statuses.values()), dict(statuses), f"{counted[0]} to {max(counted)}",
             counted[-1], f"{p50:.2f}")  # fmt: skip
    return f"| {' | '.join(map(str, cells))} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--part", choices=GROUPS, default="generator")
    parser.add_argument("--steps", type=int, nargs="+", default=[2, 24, 2], help="concurrent callers")
    parser.add_argument("--seconds", type=float, default=90, help="of a step")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        manifest, questions = corpus(folder / "corpus", 200)
        index = folder / "index"
        subprocess.run([MMRAG, "ingest", manifest, "--index", index], check=True, stdout=subprocess.DEVNULL)
        scaled = [f"serve.{GROUPS[arguments.part]}.{key}={value}" for key, value in SCALED.items()]
        settings = [word for one in scaled for word in ("--set", one)]
        with cluster(16, folder / "ray"), served(index, settings) as address:
            print("| callers | asked | statuses | replicas, first to most | at the end | p50, s |")
            print("|---|---|---|---|---|---|")
            for concurrent in arguments.steps:
                load = step(address, questions, concurrent, arguments.seconds, arguments.part)
                print(asyncio.run(load), flush=True)


if __name__ == "__main__":
    main()
