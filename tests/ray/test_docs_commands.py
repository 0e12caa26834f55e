"""The commands of docs/ that carry no mark, run as a reader would give them: page by page, in one directory.

A part of the demo's corpus stands for all of it. One Ray and one server serve all pages; nothing is fetched.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
import ray
from doc_blocks import DOCS, READ, Block, runnable

from pipelines.core.ray_runtime import ray_runtime
from pipelines.core.stores import embedded
from pipelines.demo import build
from pipelines.ingest.job import ingest
from pipelines.settings import load_settings

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

KEPT = {"spec-ac-120", "plate-lk-847", "plate-sa-870", "plate-tn-42", "chart-cooler-noise"}
SAYS = {
    "tutorial": r"plate-lk-847.*plate-tn-42.*120 V.*85 L.*120 V.*plate-lk-847",
    "how-to/from-python": r"plate-lk-847.*document plate-lk-847.*node \w",
    "how-to/own-corpus": r"1; reasons in kb/rejected.*plate-lk-900.png: does not exist.*1 would be deleted",
    "how-to/own-models": r"models\.yaml.*something is missing.*aligner",
    "how-to/fine-tune": r"2 good, 0 bad",
    "how-to/evaluate": r"3 queries of both.*refusal_accuracy.*iou",
    "how-to/scale-out": r"auto  # cluster",
    "how-to/secure": r"kb\.example\.com.*'\*\*\*'",
    "how-to/operate": r"\"ok\".*mmrag_requests_total.*exported 2 documents.*imported 2 documents",
}
"""Of each page, what a reader sees on the way."""
ONE_ENCODER = ["ingest.encoders=1", "ingest.encoder_threads=1"]


@dataclass
class Desk:
    """Where a reader sits: a directory, a shell's environment, and the server that was started."""

    folder: Path
    environment: dict[str, str]
    port: int
    server: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def run(self, block: Block) -> str:
        text = block.text.replace(":8000", f":{self.port}")
        shell = [sys.executable, "-c"] if block.language == "python" else ["bash", "-euo", "pipefail", "-c"]
        if text.startswith("mmrag serve"):
            self.serve([*shell, f"exec {text}"])
            return ""
        done = subprocess.run(
            [*shell, text], cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, f"{block}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
        return done.stdout

    def serve(self, command: list[str]) -> None:
        process = subprocess.Popen(command, cwd=self.folder, env=self.environment)
        self.server.append(process)
        while True:
            assert process.poll() is None, "the server did not start"
            try:
                if httpx.get(f"http://127.0.0.1:{self.port}/healthz", timeout=30).is_success:
                    return
            except httpx.TransportError:
                time.sleep(0.2)

    def leave(self) -> None:
        for process in self.server:
            process.send_signal(signal.SIGINT)
            process.wait(120)
        for server in self.folder.glob("**/vectors/*"):
            embedded.stop(server)


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    folder = tmp_path_factory.mktemp("desk")
    manifest = build(folder / "demo" / "corpus")
    rows = [row for row in manifest.read_text("utf-8").splitlines(True) if json.loads(row)["id"] in KEPT]
    manifest.write_text("".join(rows), "utf-8")
    settings = load_settings(None, ONE_ENCODER)
    with ExitStack() as stack:
        stack.enter_context(ray_runtime(cpus=6))
        ingest([str(manifest)], folder / "demo" / "index", settings.index, settings.ingest)
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        nowhere = "http://127.0.0.1:9"
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("MMRAG_")}
        environment = inherited | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "RAY_ADDRESS": ray.get_runtime_context().gcs_address,
            "MMRAG_SERVE__PORT": str(port),
            "MMRAG_GENERATOR__ENGINE": "transformers",  # vLLM takes a minute more to start
            "MMRAG_SERVE__DEADLINE_S": "240",  # a busy machine, too, shall answer
            "MMRAG_INGEST__ENCODERS": "1",
            "MMRAG_INGEST__ENCODER_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            **dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), nowhere),
            **dict.fromkeys(("no_proxy", "NO_PROXY"), "127.0.0.1,localhost"),
        }
        found = Desk(folder, environment, port)
        stack.callback(found.leave)
        yield found


@pytest.mark.parametrize("page", READ)
def test_the_commands_of_a_page_run(desk: Desk, page: str) -> None:
    said = "".join([desk.run(block) for block in runnable(DOCS / f"{page}.md")])
    assert re.search(SAYS[page], said, re.DOTALL), said[-4000:]
