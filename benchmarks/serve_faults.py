"""Parts of a server are killed while it answers, one kind after the other: what the callers saw.

    python benchmarks/serve_faults.py [--images 200] [--concurrent 8] [--seconds 40]
    python benchmarks/serve_faults.py --http-proxy haproxy --layout compact

Draws nameplates, ingests them, starts `mmrag serve` with the offline models and asks all the time. Some
seconds after the beginning SIGKILL goes to every process of one kind; then the next kind, on the same server.
A kind that this server has not is left out.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks.processes import below, kill, matching
from benchmarks.serve import MMRAG, corpus
from pipelines.serve.client import SERVED, served

# What a process's command line tells of it.
KINDS = {
    "gateway": "ServeReplica:mmrag:gateway",
    "retriever": "ServeReplica:mmrag:retriever",
    "query encoder": "ServeReplica:mmrag:encoder",
    "aligner": "ServeReplica:mmrag:aligner",
    "generator": "ServeReplica:mmrag:generator",
    "generator's engine": "multiprocessing.spawn",  # below the generator's replica
    "vector stores": "pipelines.core.stores.embedded",
    "HTTP proxy": "ray::ProxyActor",
    "HAProxy": "haproxy -db -f",
}
KILL_AFTER_S = 5.0


@dataclass(frozen=True, slots=True)
class Asked:
    """`ended` on the clock of time.monotonic; `status` 0: no answer at all."""

    ended: float
    waited: float
    status: int
    degraded: tuple[str, ...]
    retry_after: bool


def of_kind(server: int, word: str) -> list[psutil.Process]:
    """Processes below the server, or the machine's vector stores, which outlive it."""
    return matching(re.escape(word), None if word == KINDS["vector stores"] else below(server))


async def under_load(address: str, questions: Sequence[str], concurrent: int, seconds: float,
                     server: int, word: str) -> tuple[list[Asked], float, int]:  # fmt: skip
    """What came of the questions, when it was killed, and how many processes."""
    begun = time.monotonic()
    asked: list[Asked] = []

    async def one_after_the_other(client: httpx.AsyncClient, first: int) -> None:
        number = first
        while time.monotonic() < begun + seconds:
            start = time.monotonic()
            degraded: tuple[str, ...] = ()
            retry_after = False
            try:
                body = {"query": questions[number % len(questions)]}
                response = await client.post("/v1/answer", json=body)
                status, retry_after = response.status_code, "retry-after" in response.headers
                if status == httpx.codes.OK:
                    degraded = tuple(response.json()["degraded"])
                else:
                    await asyncio.sleep(1)  # as Retry-After asks
            except httpx.HTTPError:
                status = 0
                await asyncio.sleep(1)
            ended = time.monotonic()
            asked.append(Asked(ended, ended - start, status, degraded, retry_after))
            number += concurrent

    async with httpx.AsyncClient(base_url=address, timeout=120) as client:
        tasks = [asyncio.create_task(one_after_the_other(client, number)) for number in range(concurrent)]
        await asyncio.sleep(KILL_AFTER_S)
        victims = of_kind(server, word)
        kill(victims)
        killed = time.monotonic()
        await asyncio.gather(*tasks)
    return asked, killed, len(victims)


def row(kind: str, asked: Sequence[Asked], killed: float, victims: int) -> str:
    statuses = Counter(one.status for one in asked)
    lost = [one for one in asked if one.status != httpx.codes.OK or one.degraded]
    again = max((one.ended for one in lost), default=killed) - killed
    degraded = sum(bool(one.degraded) for one in asked)
    bare = sum(one.status == httpx.codes.SERVICE_UNAVAILABLE and not one.retry_after for one in asked)
    told = ", ".join(f"{status}: {count}" for status, count in sorted(statuses.items()))
    share = statuses[httpx.codes.OK] / len(asked)
    longest = max(one.waited for one in asked)
    cells = (f"{kind} ({victims})", len(asked), f"{share:.4f}", told, bare, degraded, f"{longest:.1f}",
             f"{max(again, 0):.1f}")  # fmt: skip
    return f"| {' | '.join(map(str, cells))} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--concurrent", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=40, help="of load, for each kind")
    parser.add_argument("--http-proxy", choices=["python", "haproxy"], default="python")
    parser.add_argument("--layout", choices=["graph", "compact"], default="graph")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        manifest, questions = corpus(Path(folder) / "corpus", arguments.images)
        index = Path(folder) / "index"
        subprocess.run([MMRAG, "ingest", manifest, "--index", index], check=True, stdout=subprocess.DEVNULL)
        two = {"min_replicas": 2, "max_replicas": 2}
        config = Path(folder) / "serve.yaml"
        serve = {"gateway": two, "http_proxy": arguments.http_proxy, "layout": arguments.layout}
        settings = {"serve": serve, "search": {"aligner": {"model": "tiny-aligner"}}}
        config.write_text(json.dumps(settings), "utf-8")  # JSON is YAML
        with served(index, ("--config", str(config))) as address:
            server = int(json.loads((index / SERVED).read_bytes())["pid"])
            print("| killed | asked | answered | statuses | 503 without Retry-After | degraded | longest, s "
                  "| last loss after the kill, s |")  # fmt: skip
            print("|---|---|---|---|---|---|---|---|")
            for kind in (one for one in arguments.kinds if of_kind(server, KINDS[one])):
                load = under_load(
                    address, questions, arguments.concurrent, arguments.seconds, server, KINDS[kind]
                )
                print(row(kind, *asyncio.run(load)), flush=True)


if __name__ == "__main__":
    main()
