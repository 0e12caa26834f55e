"""What plain Ray Serve takes for a graph of the chain's shape whose deployments do nothing.

    python benchmarks/serve_hops.py [--rounds 8] [--requests 25]

A gateway asks a retriever, which asks an encoder that batches; text of 500 characters goes through. Each
setting of Ray Serve is a server of its own, up one after the other; within one, the paths are asked in turn.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import socket
import statistics
import subprocess
import sys
import time
from typing import Any

import httpx

SETTINGS = {
    "Ray Serve's defaults": {"RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "1"},
    "one event loop a replica, as `mmrag serve`": {"RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0"},
    "and HAProxy before it": {
        "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
    },
    "one event loop, and gRPC between replicas, open to the network": {
        "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
        "RAY_SERVE_USE_GRPC_BY_DEFAULT": "1",
        "RAY_SERVE_PROXY_USE_GRPC": "1",
    },
}
PATHS = {
    "proxy and gateway": "/gateway",
    "and a retriever": "/retriever",
    "and its encoder": "/encoder",
    "asked by two of its threads": "/threads",
}
_TEXT = "x" * 500
_ROW = "medians: "


def serve_graph(port: int, rounds: int, requests: int) -> None:
    """A row of medians for the setting in the environment."""
    import ray
    from fastapi import FastAPI
    from ray import serve

    app = FastAPI()

    class Encoder:
        @serve.batch(max_batch_size=16, batch_wait_timeout_s=0)
        async def encode(self, texts: list[str]) -> list[str]:
            return texts

    class Retriever:
        def __init__(self, encoder: Any) -> None:
            self._encoder = encoder

        async def alone(self, text: str) -> str:
            return text

        async def asking(self, text: str) -> str:
            found: str = await self._encoder.encode.remote(text)
            return found

        async def threads(self, text: str) -> str:
            def ask() -> str:
                found: str = self._encoder.encode.remote(text).result(timeout_s=5)
                return found

            return (await asyncio.gather(asyncio.to_thread(ask), asyncio.to_thread(ask)))[0]

    class Gateway:
        def __init__(self, retriever: Any) -> None:
            self._retriever = retriever

        @app.get("/gateway")
        async def gateway(self) -> str:
            return _TEXT

        @app.get("/retriever")
        async def retriever(self) -> str:
            found: str = await self._retriever.alone.remote(_TEXT)
            return found

        @app.get("/encoder")
        async def encoder(self) -> str:
            found: str = await self._retriever.asking.remote(_TEXT)
            return found

        @app.get("/threads")
        async def threads(self) -> str:
            found: str = await self._retriever.threads.remote(_TEXT)
            return found

    def deployed(part: Any) -> Any:
        return serve.deployment(part).options(ray_actor_options={"num_cpus": 0.1})

    ray.init("local", num_cpus=4, log_to_driver=False, include_dashboard=False)
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    graph = deployed(serve.ingress(app)(Gateway)).bind(deployed(Retriever).bind(deployed(Encoder).bind()))
    serve.run(graph, logging_config={"log_level": "WARNING", "enable_access_log": False})
    found = medians(f"http://127.0.0.1:{port}", rounds, requests)
    print(_ROW + " | ".join(f"{ms:.1f}" for ms in found), flush=True)
    serve.shutdown()


def medians(address: str, rounds: int, requests: int) -> list[float]:
    """Milliseconds a request, of each path."""
    waited: dict[str, list[float]] = {path: [] for path in PATHS.values()}
    with httpx.Client(base_url=address) as client:
        for number in range(rounds + 1):  # the first one warms up
            for path, found in waited.items():
                for _ in range(requests):
                    start = time.perf_counter()
                    client.get(path).raise_for_status()
                    if number:
                        found.append((time.perf_counter() - start) * 1000)
    return [statistics.median(found) for found in waited.values()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--requests", type=int, default=25, help="of a path in a round")
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.port:
        serve_graph(arguments.port, arguments.rounds, arguments.requests)
        return
    print(f"| ms, p50 | {' | '.join(PATHS)} |")
    print("|---" * (len(PATHS) + 1) + "|")
    for name, environment in SETTINGS.items():
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        words = [sys.executable, __file__, "--port", str(port), "--rounds", str(arguments.rounds)]
        run = subprocess.run(
            [*words, "--requests", str(arguments.requests)],
            env=os.environ | environment,
            capture_output=True,
            text=True,
        )
        if run.returncode:
            raise SystemExit(run.stderr[-3000:])
        (row,) = (line for line in run.stdout.splitlines() if line.startswith(_ROW))  # Ray prints, too
        print(f"| {name} | {row.removeprefix(_ROW)} |", flush=True)


if __name__ == "__main__":
    main()
