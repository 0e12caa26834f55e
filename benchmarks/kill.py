"""An ingest of which a process is killed at a random moment, and then run again: is the index the same?

    python benchmarks/kill.py [--points 25] [--images 60] [--seed 0] [--kinds driver encoder ...] [--changed]

Draws nameplates and ingests them undisturbed. Then, kind after kind of process, into a new index each time:
SIGKILL for one process of the kind, so long after the first one came as is drawn evenly from the time for
which the undisturbed run had them; the same command again until its status is 0; and the stores against those
of the undisturbed run. Where the job was quicker and had ended, an earlier moment is drawn. A node is the
second one of a cluster on this machine, whose stores are milvus-lite and noida-db at addresses; another takes
its place. With `--changed` each index holds an earlier version of the corpus first, and what is killed is the
ingest that brings it up to date: with other words of some documents, new ones, and others pruned.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks.processes import below, kill, matching, vector_servers
from benchmarks.serve import MMRAG, corpus
from benchmarks.stored import Rows, differences, stored
from benchmarks.two_nodes import SETTINGS, TwoNodes
from pipelines.core.index import Index
from pipelines.core.stores import embedded
from pipelines.ingest import perceptual_hash
from pipelines.settings import load_settings
from tests.contracts.servers import elastic_server

# Of processes below the job's, what their command lines tell.
BELOW = {
    "encoder": r"ray::MapWorker\(MapBatches\(Encode\)\)",
    "task": r"ray::(ListFiles|MapBatches|Write)",
    "raylet": r"/raylet/raylet ",
    "gcs": r"/gcs/gcs_server ",
}
KINDS = ("driver", "encoder", "task", "vectors", "node", "raylet", "gcs")
# Quick to encode, and in many small pieces.
SMALL = ("encoder.scales=[224]", "ingest.encoder_batch=8", "ingest.load_batch=8", "ingest.rows_per_write=16")
SAME = 1e-5  # batches of other sizes are summed in another order
_HUNG_S, _MOST_RERUNS, _MOST_DRAWS = 600, 3, 20


@dataclass(frozen=True, slots=True)
class Corpus:
    """What is ingested, where, and how. `earlier`: the manifest's text when the index was made, if it was."""

    manifest: Path
    index: Path
    assignments: Sequence[str]
    environment: Mapping[str, str]
    earlier: str | None = None

    def prepare(self) -> None:
        """Ingest the earlier version, undisturbed."""
        if self.earlier is None:
            return
        now = self.manifest.read_text(encoding="utf-8")
        self.manifest.write_text(self.earlier, encoding="utf-8")
        try:
            if self.ended(self.start()) is None:
                raise SystemExit(self.index.with_suffix(".log").read_text())
        finally:
            self.manifest.write_text(now, encoding="utf-8")

    def start(self) -> subprocess.Popen[str]:
        options = [word for value in self.assignments for word in ("--set", value)]
        words = [MMRAG, "ingest", self.manifest, "--index", self.index, "--prune", "--json", *options]
        log = self.index.with_suffix(".log")
        with log.open("ab") as said:
            return subprocess.Popen(
                words, stdout=subprocess.PIPE, stderr=said, text=True, env=self.environment
            )

    def ended(self, job: subprocess.Popen[str]) -> dict[str, int] | None:
        """The job's summary; None where its status is not 0."""
        out, _ = job.communicate(timeout=_HUNG_S)
        return json.loads(out) if job.returncode == 0 else None

    def stored(self) -> dict[str, Rows]:
        with Index(self.index, load_settings(None, list(self.assignments)).index) as index:
            return stored(index)

    def cached(self) -> int:
        """Vectors of pictures and texts that need not be made again."""
        file = self.index / "cache" / "vectors.sqlite"
        if not file.exists():
            return 0
        with sqlite3.connect(file) as db:
            query = "SELECT count(*) FROM vectors WHERE fingerprint != ?"
            try:
                return int(db.execute(query, [perceptual_hash.RULES]).fetchone()[0])
            except sqlite3.OperationalError:  # killed before it had its table
                return 0

    def stop(self) -> None:
        for server in (self.index / "vectors").glob("*"):
            embedded.stop(server)


@dataclass(frozen=True, slots=True)
class Reference:
    """The undisturbed run: what it stored, how many vectors it left in the cache, and for how many seconds
    there were processes of each kind."""

    stored: dict[str, Rows]
    cached: int
    lasted_s: dict[str, float]


@dataclass(frozen=True, slots=True)
class Point:
    """One kill, `at_s` seconds of the job, and what came of it. `encoded_again` although the cache had it."""

    kind: str
    at_s: float
    reruns: int
    encoded_again: int
    lost: int
    extra: int
    apart: float

    @property
    def same(self) -> bool:
        return not self.lost and not self.extra and self.apart <= SAME


def victims(kind: str, job: int, index: Path, nodes: TwoNodes | None) -> list[psutil.Process]:
    if kind == "driver":
        return [psutil.Process(job)]
    if kind == "vectors":
        return vector_servers(index)
    if kind == "node":
        return (
            [psutil.Process()] if nodes else []
        )  # there from the job's first moment; TwoNodes kills its own
    return matching(BELOW[kind], below(job))


def watched(made: Corpus, kinds: Sequence[str], nodes: TwoNodes | None) -> Reference:
    seen: dict[str, tuple[float, float]] = {}
    made.prepare()
    start = time.monotonic()
    job = made.start()
    while job.poll() is None:
        for kind in kinds:
            if victims(kind, job.pid, made.index, nodes):
                now = time.monotonic() - start
                seen[kind] = seen.get(kind, (now, now))[0], now
        time.sleep(0.1)
    if made.ended(job) is None:
        raise SystemExit(made.index.with_suffix(".log").read_text())
    held = made.stored()
    made.stop()
    lasted_s = {kind: last - first for kind, (first, last) in seen.items()}
    return Reference(held, made.cached(), lasted_s)


def killed(kind: str, job: subprocess.Popen[str], made: Corpus, after_s: float, nodes: TwoNodes | None,
           draw: random.Random) -> float | None:  # fmt: skip
    """Seconds of the job when one was killed: `after_s` after the first came, or as soon then as there was
    one. None where the job ended before."""
    start, due = time.monotonic(), 0.0
    while job.poll() is None:
        now = time.monotonic()
        found = victims(kind, job.pid, made.index, nodes)
        if found and not due:
            due = now + after_s
        if found and now >= due:
            if nodes:
                nodes.kill()
                nodes.add()
                return now - start
            with suppress(psutil.NoSuchProcess):
                draw.choice(found).kill()
                return now - start
        time.sleep(0.05)
    return None


def point(kind: str, after_s: float, made: Corpus, reference: Reference, nodes: TwoNodes | None,
          draw: random.Random) -> Point | None:  # fmt: skip
    """None where the job ended before there was anything to kill."""
    made.prepare()
    job = made.start()
    orphans: list[psutil.Process] = []
    try:
        at_s = killed(kind, job, made, after_s, nodes, draw)
        if kind in ("driver", "raylet", "gcs"):  # the others' jobs end their Ray
            orphans = [one for one in below(job.pid) if one not in vector_servers(made.index)]
        summary, reruns, again = made.ended(job), 0, 0
        while summary is None:
            if reruns == _MOST_RERUNS:
                raise SystemExit(f"{kind} killed:\n{made.index.with_suffix('.log').read_text()}")
            reruns += 1
            known = made.cached()
            job = made.start()
            if summary := made.ended(job):
                # Less than none: encoders of a killed driver live on and cache more after the count.
                again = known + summary["encoded_images"] + summary["encoded_chunks"] - reference.cached
        if at_s is None:
            return None
        found = differences(reference.stored, made.stored()).values()
    finally:
        job.kill()
        made.stop()
        kill(orphans)  # which would end by themselves, a minute later
    lost, extra = sum(one.lost for one in found), sum(one.extra for one in found)
    return Point(kind, at_s, reruns, again, lost, extra, max(one.apart for one in found))


def earlier_version(manifest: Path) -> str:
    """Of every three documents one had other words, one has come since, and one stood beside another that is
    gone."""
    rows: list[dict[str, str]] = []
    for number, line in enumerate(manifest.read_text(encoding="utf-8").splitlines()):
        row = json.loads(line)
        if number % 3 == 0:
            rows.append(row | {"caption": f"Before: {row['caption']}"})
        elif number % 3 == 1:
            rows += [row, row | {"id": f"{row['id']}-gone"}]
    return "".join(f"{json.dumps(row)}\n" for row in rows)


@contextmanager
def two_nodes(folder: Path) -> Iterator[tuple[TwoNodes, Callable[[str], list[str]]]]:
    """A cluster, and the settings of stores with names of their own beside it."""
    folder.mkdir()
    token = [MMRAG.with_name("ray"), "get-auth-token", "--generate"]
    subprocess.run(token, check=True, capture_output=True)
    vectors = embedded.attach(folder / "vectors")
    with elastic_server(folder) as words, TwoNodes() as nodes:

        def settings(prefix: str) -> list[str]:
            # milvus-lite wants one writer of a collection.
            milvus = f"stores.milvus.uri={vectors}", f"stores.milvus.prefix={prefix}"
            elastic = f"stores.elastic.url={words}", f"stores.elastic.prefix={prefix}"
            return [*SETTINGS, "ingest.writers=1", *milvus, *elastic]

        try:
            yield nodes, settings
        finally:
            embedded.stop(folder / "vectors")


def rounds(kinds: Sequence[str], count: int, manifest: Path, folder: Path, draw: random.Random,
           nodes: TwoNodes | None = None, settings: Callable[[str], list[str]] = lambda prefix: [],
           earlier: str | None = None) -> Iterator[Point]:  # fmt: skip
    """So many kills, over the kinds in turn."""
    environment = nodes.environment if nodes else os.environ

    def new(name: str) -> Corpus:
        return Corpus(manifest, folder / name, [*SMALL, *settings(f"{name}_")], environment, earlier)

    name = "cluster" if nodes else "local"
    reference = watched(new(name), kinds, nodes)
    for number, kind in enumerate(islice(cycle(kinds), count)):
        after_s = reference.lasted_s[kind]
        for attempt in range(_MOST_DRAWS):
            after_s = draw.uniform(0, after_s)
            made = new(f"{name}_{number}_{attempt}")
            if seen := point(kind, after_s, made, reference, nodes, draw):
                yield seen
                break
            print(f"  {kind} after {after_s:.1f} s: the job had ended", file=sys.stderr, flush=True)


def row(kind: str, points: Sequence[Point]) -> str:
    moments = ", ".join(f"{one.at_s:.0f}" for one in points)
    alone = sum(one.reruns == 0 for one in points)
    again = ", ".join(str(one.encoded_again) for one in points)
    lost, extra = sum(one.lost for one in points), sum(one.extra for one in points)
    apart, same = max(one.apart for one in points), sum(one.same for one in points)
    cells = (kind, len(points), moments, alone, max(one.reruns for one in points), again, f"{lost}, {extra}",
             f"{apart:.1g}", f"{same} of {len(points)}")  # fmt: skip
    return f"| {' | '.join(map(str, cells))} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--points", type=int, default=25)
    parser.add_argument("--images", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--changed", action="store_true", help="kill the second ingest of a changed corpus")
    arguments = parser.parse_args()
    draw = random.Random(arguments.seed)
    of_kind = dict.fromkeys(arguments.kinds, 0)
    for kind in islice(cycle(of_kind), arguments.points):
        of_kind[kind] += 1
    local = [kind for kind in arguments.kinds if kind != "node"]
    points: list[Point] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        manifest, _ = corpus(folder / "corpus", arguments.images)
        earlier = earlier_version(manifest) if arguments.changed else None

        def told(found: Iterator[Point]) -> None:
            for one in found:
                print(f"  {one}", file=sys.stderr, flush=True)
                points.append(one)

        if local:
            told(
                rounds(
                    local, arguments.points - of_kind.get("node", 0), manifest, folder, draw, earlier=earlier
                )
            )
        if of_kind.get("node"):
            with two_nodes(folder / "servers") as (nodes, settings):
                told(rounds(["node"], of_kind["node"], manifest, folder, draw, nodes, settings, earlier))
    print("| killed | kills | at, s | went on without a rerun | reruns, most | encoded again though cached "
          "| rows lost, extra | vectors apart | same stores |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|---|")
    for kind in of_kind:
        print(row(kind, [one for one in points if one.kind == kind]))
    if len(points) < arguments.points or not all(one.same for one in points):
        raise SystemExit("not every index was the same")


if __name__ == "__main__":
    main()
