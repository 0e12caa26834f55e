"""Other settings for a server that is asked all the time: is a request lost?

    python benchmarks/serve_roll.py [--concurrent 8] [--seconds 120]

`serve deploy` puts the offline models on a Ray of this machine, and ten seconds into the load once more, with
another settings file: the replicas of all parts are replaced one after another.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import httpx

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks.serve import MMRAG, corpus
from benchmarks.serve_scale import cluster

SERVE = Path(sys.executable).with_name("serve")
PORT_OF_DASHBOARD = 8265
_READY_S = 600


def deploy(folder: Path, name: str, port: int, max_tokens: int) -> None:
    """Settings under a name of their own: Ray Serve compares arguments, not what the files hold."""
    settings = folder / f"{name}.yaml"
    settings.write_text(json.dumps({"generator": {"max_tokens": max_tokens}}), "utf-8")  # JSON is YAML
    application = {
        "name": "mmrag", "route_prefix": "/", "import_path": "pipelines.cli_serve:application",
        "args": {"index": str(folder / "index"), "config": str(settings)},
    }  # fmt: skip
    deployed = {
        "proxy_location": "HeadOnly",
        "http_options": {"host": "127.0.0.1", "port": port},
        "applications": [application],
    }
    file = folder / f"deploy-{name}.yaml"
    file.write_text(json.dumps(deployed), "utf-8")
    address = f"http://127.0.0.1:{PORT_OF_DASHBOARD}"
    done = subprocess.run([SERVE, "deploy", file, "--address", address], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])


def wait_ready(address: str) -> None:
    deadline = time.monotonic() + _READY_S
    while time.monotonic() < deadline:
        try:
            if httpx.get(f"{address}/healthz", timeout=30).status_code == httpx.codes.OK:
                return
        except httpx.HTTPError:
            pass  # not there yet
        time.sleep(1)
    raise SystemExit("the server did not become ready")


async def ask_all_the_time(
    folder: Path, address: str, port: int, questions: list[str], concurrent: int, seconds: float
) -> tuple[Counter[str], float, list[tuple[float, int]]]:
    """Statuses, the longest wait, and of each answer when it came and how many characters it had."""
    begun = time.monotonic()
    statuses: Counter[str] = Counter()
    waited: list[float] = []
    lengths: list[tuple[float, int]] = []

    async def one_after_the_other(client: httpx.AsyncClient, number: int) -> None:
        while time.monotonic() < begun + seconds:
            start = time.monotonic()
            try:
                response = await client.post("/v1/answer", json={"query": questions[number % len(questions)]})
                statuses[str(response.status_code)] += 1
                if response.is_success:
                    lengths.append((time.monotonic() - begun, len(response.json()["answer"])))
            except httpx.HTTPError as exc:
                statuses[type(exc).__name__] += 1
            waited.append(time.monotonic() - start)
            number += concurrent

    async def replace() -> None:
        await asyncio.sleep(10)
        await asyncio.to_thread(deploy, folder, "second", port, 2)

    async with httpx.AsyncClient(base_url=address, timeout=120) as client:
        await asyncio.gather(replace(), *(one_after_the_other(client, n) for n in range(concurrent)))
    return statuses, max(waited), lengths


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--concurrent", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=120)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        manifest, questions = corpus(folder / "corpus", 200)
        subprocess.run(
            [MMRAG, "ingest", manifest, "--index", folder / "index"], check=True, stdout=subprocess.DEVNULL
        )
        english = questions[::2]  # a refusal in Chinese is as short as an answer of two tokens
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = int(free.getsockname()[1])
        with cluster(16, folder / "ray", dashboard=True):
            deploy(folder, "first", port, 64)
            address = f"http://127.0.0.1:{port}"
            wait_ready(address)
            load = ask_all_the_time(folder, address, port, english, arguments.concurrent, arguments.seconds)
            statuses, longest, lengths = asyncio.run(load)
    short = [at for at, length in lengths if length <= 12]
    print(f"{statuses.total()} requests, statuses {dict(statuses)}, longest {longest:.1f} s")
    print(
        f"answers by the new settings from {min(short, default=float('nan')):.0f} s on, {len(short)} of them"
    )


if __name__ == "__main__":
    main()
