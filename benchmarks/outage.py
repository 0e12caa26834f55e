"""A store that ends in the middle of an ingest and comes back: what is lost, and what it delays.

    python benchmarks/outage.py [--images 1000] [--outage-s 30] [--store milvus|elastic|embedded]

Draws nameplates and ingests them twice, each time into stores of their own: once undisturbed, and once with
SIGKILL for a server after the first rows are written. `milvus` is milvus-lite at an address, and this script
starts it again after the outage; `embedded` are the index's own vector servers, which the job starts again by
itself. `elastic` is noida-db, which speaks Elasticsearch's protocol but acknowledges rows some two seconds
before they are on its disk (Elasticsearch's translog is there first): SIGTERM, which lets it write them.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks.processes import kill, vector_servers
from benchmarks.serve import MMRAG, corpus
from benchmarks.stored import Rows, differences, stored
from pipelines.core.index import Index, IndexConfig
from pipelines.core.stores.config import ElasticConfig, MilvusConfig, StoresConfig

_SERVER = """
import sys, threading
from milvus_lite.adapter.grpc.server import start_server_in_thread
kept = start_server_in_thread(sys.argv[1], "127.0.0.1", int(sys.argv[2]))
threading.Event().wait()
"""
_START_S = 60


class Server:
    """A store at one address, however often it is started."""

    def __init__(self, kind: str, data: Path) -> None:
        self.kind = kind
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = int(free.getsockname()[1])
        self._data = data
        if kind == "elastic":
            data.mkdir()
        self.start()

    @property
    def setting(self) -> str:
        return f"stores.{'milvus.uri' if self.kind == 'milvus' else 'elastic.url'}={self._address}"

    @property
    def config(self) -> StoresConfig:
        if self.kind == "milvus":
            return StoresConfig(milvus=MilvusConfig(uri=self._address))
        return StoresConfig(elastic=ElasticConfig(url=self._address))

    @property
    def _address(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    @property
    def _command(self) -> list[str | Path]:
        if self.kind == "milvus":
            return [sys.executable, "-c", _SERVER, self._data, str(self._port)]
        program = Path(sysconfig.get_path("scripts")) / "noida-db"
        kept = ["--data-dir", self._data, "--only", "elasticsearch", "--elasticsearch-port", str(self._port)]
        return [program, "start", *kept]

    def start(self) -> None:
        quiet = subprocess.DEVNULL
        self._process = subprocess.Popen(self._command, stdout=quiet, stderr=quiet, start_new_session=True)
        deadline = time.monotonic() + _START_S
        while time.monotonic() < deadline:
            try:
                socket.create_connection(("127.0.0.1", self._port), timeout=1).close()
                return
            except OSError:
                time.sleep(0.1)
        raise SystemExit("the server did not start")

    def end(self) -> None:
        number = signal.SIGTERM if self.kind == "elastic" else signal.SIGKILL
        os.killpg(self._process.pid, number)  # one is started by a wrapper
        self._process.wait()


@contextmanager
def store_at(store: str, data: Path) -> Iterator[Server | None]:
    if store == "embedded":
        yield None
        return
    server = Server(store, data)
    try:
        yield server
    finally:
        server.end()


def ingest(manifest: Path, index: Path, server: Server | None) -> subprocess.Popen[bytes]:
    stores = ["--set", server.setting] if server else []
    words = [MMRAG, "ingest", manifest, "--index", index, "--set", "ingest.rows_per_write=32", *stores]
    return subprocess.Popen(words, stdout=subprocess.DEVNULL)


def timed(job: subprocess.Popen[bytes], start: float) -> float:
    if job.wait():
        raise SystemExit(f"the ingest ended with status {job.returncode}")
    return time.perf_counter() - start


def disturb(job: subprocess.Popen[bytes], index: Path, server: Server | None, outage_s: float) -> int:
    """Kill after the first acknowledged rows; how many. Starts again what the job does not."""
    while not any(index.glob("runs/*/acks/*.parquet")):
        if job.poll() is not None:
            raise SystemExit("the ingest ended before anything was killed")
        time.sleep(0.05)
    if server:
        server.end()
        time.sleep(outage_s)
        server.start()
        return 1
    victims = vector_servers(index)
    kill(victims)
    return len(victims)


def held(index_dir: Path, server: Server | None) -> dict[str, Rows]:
    stores = server.config if server else StoresConfig()
    with Index(index_dir, IndexConfig(stores=stores)) as index:
        return stored(index)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--outage-s", type=float, default=30)
    parser.add_argument("--store", choices=("milvus", "elastic", "embedded"), default="milvus")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        manifest, _ = corpus(folder / "corpus", arguments.images)
        took: list[float] = []
        found = []
        killed = 0
        for run in ("undisturbed", "disturbed"):
            index = folder / run
            with store_at(arguments.store, folder / f"{run}.data") as server:
                start = time.perf_counter()
                job = ingest(manifest, index, server)
                if run == "disturbed":
                    killed = disturb(job, index, server, arguments.outage_s)
                took.append(timed(job, start))
                found.append(held(index, server))
    print(f"{arguments.store}: {killed} killed; {took[0]:.1f} s undisturbed, {took[1]:.1f} s disturbed")
    outage = 0.0 if arguments.store == "embedded" else arguments.outage_s
    print(f"later than the outage explains: {took[1] - took[0] - outage:.1f} s")
    for store, seen in differences(*found).items():
        print(f"{store}: {seen.rows} rows, {seen.lost} lost, {seen.extra} extra, {seen.apart:g} apart")


if __name__ == "__main__":
    main()
