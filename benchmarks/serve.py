"""What serving costs beside generation: the chain's share of an answer, hand-offs, and 1,000 requests.

    python benchmarks/serve.py [--images 2000] [--questions 100] [--requests 1000] [--concurrent 32]
                               [--layouts compact graph] [--http-proxy haproxy] [--price-per-hour 1.0]

Draws nameplates, ingests them, starts `mmrag serve` with the offline models in both layouts, and asks them in
turn, ten questions at a time. The chain's share is what a client waits less what the generator takes.
Hand-offs are that share less the same work, retrieval and prompt, done by one process without Ray or HTTP. An
embedding is a hit where the text or the picture was asked about before. The load is each layout's alone. The
price is that of the whole machine, and 10,000 questions take as long as the load's rate says.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import io
import json
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
from measure import Ratio, ratio

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks.processes import below, matching
from benchmarks.tiny_llava import sheets
from benchmarks.tiny_llava.fields import KINDS
from pipelines.core.answer import AnswerConfig, LocalSearcher
from pipelines.core.evidence import show
from pipelines.core.generator import GeneratorConfig, load_profile
from pipelines.core.index import Index, IndexConfig
from pipelines.core.previews import Preview, content_of, read_preview
from pipelines.core.retriever import Query, SearchConfig
from pipelines.core.stores import embedded
from pipelines.core.types import Hit
from pipelines.serve.client import SERVED, served

MMRAG = Path(sys.executable).with_name("mmrag")
LAYOUTS = ("compact", "graph")
_BLOCK = 10


def corpus(folder: Path, count: int) -> tuple[Path, list[str]]:
    """A manifest of drawn nameplates, and a question about each, whose answer stands on it."""
    (folder / "plates").mkdir(parents=True)
    questions = []
    with (folder / "plates.jsonl").open("w", encoding="utf-8") as manifest:
        for number in range(count):
            rng = random.Random(number)
            chinese = number % 2 == 1
            sheet = sheets.random_sheet(rng, "test", "zh" if chinese else "en")
            name = f"{KINDS[sheet.kind][chinese]} {sheet.code}"
            picture = f"plates/{number}.png"
            sheets.draw(sheet, rng.choice(sheets.TRAINED_LAYOUTS), rng).image.save(folder / picture)
            caption = f"{name}的铭牌" if chinese else f"Nameplate of the {name}"
            manifest.write(json.dumps({"id": f"p{number}", "image": picture, "caption": caption}) + "\n")
            field = sheet.rows[0][0]
            questions.append(
                f"{name}的{field.zh}是多少？" if chinese else f"What is the {field.en} of the {name}?"
            )
    return folder / "plates.jsonl", questions


def ask(client: httpx.Client, text: str, image: bytes | None = None) -> tuple[float, dict[str, float]]:
    """Milliseconds that the client waits, and the server's own times of the stages."""
    body: dict[str, Any] = {"query": text}
    if image is not None:
        body["image"] = "data:image/jpeg;base64," + base64.b64encode(image).decode()
    start = time.perf_counter()
    response = client.post("/v1/answer", json=body)
    waited = (time.perf_counter() - start) * 1000
    return waited, response.raise_for_status().json()["timings_ms"]


def stages(
    client: httpx.Client, questions: Sequence[str], pictures: Sequence[bytes | None]
) -> list[dict[str, float]]:
    """Of each question milliseconds by stage: the server's, and the client's `waited` and `share`."""
    found = []
    for text, image in zip(questions, pictures, strict=True):
        waited, times = ask(client, text, image)
        found.append(times | {"waited": waited, "share": waited - times.get("generate", 0.0)})
    return found


def table(asked: dict[str, list[dict[str, float]]]) -> str:
    """Medians by kind of question, in Markdown."""
    columns = {
        "retrieve": "retrieve", "prompt": "prompt", "to the first token": "first_token",
        "generate": "generate", "total": "waited", "chain's share": "share",
    }  # fmt: skip
    lines = [f"| ms, p50 | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for name, questions in asked.items():
        cells = [
            f"{statistics.median(one[stage] for one in questions if stage in one):.1f}"
            for stage in columns.values()
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def alone(index_dir: Path, questions: Sequence[str]) -> list[float]:
    """The same retrieval and prompt in this process, milliseconds each."""
    profile, config = load_profile(GeneratorConfig()), GeneratorConfig()
    found = []
    with Index(index_dir, IndexConfig()) as index:
        searcher = LocalSearcher(index.retriever(SearchConfig()))

        def preview(hit: Hit) -> Preview | None:
            return read_preview(index.previews, content_of(hit.image_uri)) if hit.image_uri else None

        warming = [f"{text} (warm)" for text in questions[:5]]  # no text that is timed: it would be a hit
        for text in [*warming, *questions]:
            start = time.perf_counter()
            hits = asyncio.run(searcher.search(Query(text, k=AnswerConfig().evidence))).hits
            show(text, (), hits, None, preview, config, profile)
            found.append((time.perf_counter() - start) * 1000)
    return found[5:]


def load(address: str, pid: int, questions: Sequence[str], requests: int, concurrent: int) -> float:
    """Prints statuses, latency, and memory at each fifth of them. Returns answers a second."""
    statuses: Counter[int] = Counter()
    waited: list[float] = []
    memory: dict[int, tuple[float, float]] = {}

    async def run() -> float:
        left = iter(range(requests))
        async with httpx.AsyncClient(base_url=address, timeout=120) as client:

            async def one_after_the_other() -> None:
                for number in left:
                    start = time.perf_counter()
                    response = await client.post(
                        "/v1/answer", json={"query": questions[number % len(questions)]}
                    )
                    statuses[response.status_code] += 1
                    if response.status_code == httpx.codes.OK:
                        waited.append((time.perf_counter() - start) * 1000)
                    if (done := statuses.total()) % (requests // 5) == 0:
                        memory[done] = resident_mb(pid)

            start = time.perf_counter()
            await asyncio.gather(*(one_after_the_other() for _ in range(concurrent)))
            return statuses[httpx.codes.OK] / (time.perf_counter() - start)

    rate = asyncio.run(run())
    p50, p99 = np.percentile(waited, [50, 99])
    print(f"{requests} requests at {concurrent} concurrent: statuses {dict(statuses)}, {rate:.1f}/s")
    print(f"  p50 {p50:.0f} ms, p99 {p99:.0f} ms")
    at = [f"{total:.0f} ({engine:.0f}) after {count}" for count, (total, engine) in sorted(memory.items())]
    print("  memory, MiB (of it vLLM's engine): " + ", ".join(at))
    return rate


def resident_mb(pid: int) -> tuple[float, float]:
    """Of the server and all that it started, without what they share, and of vLLM's engine alone."""
    everything = [psutil.Process(pid), *below(pid)]
    replicas = matching(r"ServeReplica:\S*generator", everything)
    engine = [process for replica in replicas for process in below(replica.pid)]
    return _mb(everything), _mb(engine)


def _mb(processes: Iterable[psutil.Process]) -> float:
    total = 0
    for process in processes:
        try:
            info = process.memory_info()
        except psutil.NoSuchProcess:
            continue
        total += info.rss - getattr(info, "shared", 0)
    return total / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--questions", type=int, default=100)
    parser.add_argument("--requests", type=int, default=1000, help="of the load; 0: none")
    parser.add_argument("--concurrent", type=int, default=32)
    parser.add_argument("--http-proxy", choices=["python", "haproxy"], default="python")
    parser.add_argument("--layouts", nargs="+", choices=LAYOUTS, default=list(LAYOUTS))
    parser.add_argument("--price-per-hour", type=float, default=1.0, help="of the machine")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        manifest, questions = corpus(folder / "corpus", arguments.images)
        indexes = {layout: folder / layout for layout in arguments.layouts}
        proxy = f"serve.http_proxy={arguments.http_proxy}"
        chosen = {layout: ["--set", f"serve.layout={layout}", "--set", proxy] for layout in arguments.layouts}
        first = folder / arguments.layouts[0]
        subprocess.run([MMRAG, "ingest", manifest, "--index", first], check=True, stdout=subprocess.DEVNULL)
        for server in (first / "vectors").iterdir():
            embedded.stop(server)
        for index in indexes.values():
            if index != first:
                shutil.copytree(first, index)
        texts = questions[: arguments.questions]
        pictures = [_photograph(folder / "corpus" / f"plates/{n}.png") for n in range(len(texts))]
        with ExitStack() as up:
            clients = {}
            for layout, index in indexes.items():
                address = up.enter_context(served(index, chosen[layout]))
                client = httpx.Client(base_url=address, timeout=120)
                clients[layout] = up.enter_context(client)
                for text in questions[-10:]:
                    ask(client, text)
            shares(clients, first, texts, pictures)
        for layout, index in indexes.items() if arguments.requests else ():
            print(f"\n## {layout}, {arguments.requests} requests\n")
            with served(index, chosen[layout]) as address:
                pid = int(json.loads((index / SERVED).read_bytes())["pid"])
                rate = load(address, pid, questions, arguments.requests, arguments.concurrent)
            price = arguments.price_per_hour
            cost = 10_000 / rate / 3600 * price
            print(f"  10,000 questions: {10_000 / rate / 60:.0f} min, {cost:.2f} at {price:g} an hour")


def shares(
    clients: Mapping[str, httpx.Client], index: Path, texts: Sequence[str], pictures: Sequence[bytes]
) -> None:
    """Prints the stages of an answer, and what is left of the chain's share without Ray and HTTP."""
    plain: dict[str, list[dict[str, float]]] = {layout: [] for layout in clients}
    hops: dict[str, list[float]] = {layout: [] for layout in clients}
    local: list[float] = []
    order = list(clients)
    for first in range(0, len(texts), _BLOCK):  # in turn: the machine is noisy
        block = texts[first : first + _BLOCK]
        local += alone(index, block)
        for layout in order:
            hops[layout] += [models(clients[layout]) for _ in block]
            plain[layout] += stages(clients[layout], block, [None] * len(block))
        order.reverse()
    local_blocks = _medians(local)
    for layout, client in clients.items():
        asked = {"text": plain[layout], "text, embedding a hit": stages(client, texts, [None] * len(texts))}
        missed = stages(client, texts, pictures)
        asked["picture, embedding a hit"] = stages(client, texts, pictures)
        print(f"## {layout}\n\n{table(asked | {'picture, a miss': missed})}\n")
        shown = [one["share"] for one in plain[layout]]
        gap = [one - other for one, other in zip(shown, local, strict=True)]
        print(f"gateway and hand-offs, p50 of the differences: {statistics.median(gap):.1f} ms")
        print(f"proxy and gateway alone (/v1/models), p50: {statistics.median(hops[layout]):.1f} ms")
        against: Ratio = ratio(_medians(shown), local_blocks)
        print(f"served / in one process, blocks of ten: {against}\n", flush=True)
    print(f"in one process, text: p50 {statistics.median(local):.1f} ms")
    if len(clients) > 1:
        both = [_medians([one["share"] for one in plain[layout]]) for layout in LAYOUTS]
        print(f"share of {LAYOUTS[0]} / {LAYOUTS[1]}, blocks of ten: {ratio(*both)}", flush=True)


def models(client: httpx.Client) -> float:
    """Milliseconds of a request that the gateway answers by itself."""
    start = time.perf_counter()
    client.get("/v1/models").raise_for_status()
    return (time.perf_counter() - start) * 1000


def _medians(milliseconds: Sequence[float]) -> list[float]:
    return [statistics.median(milliseconds[n : n + _BLOCK]) for n in range(0, len(milliseconds), _BLOCK)]


def _photograph(path: Path) -> bytes:
    """As a question would bring it: not the bytes that were ingested."""
    from PIL import Image

    out = io.BytesIO()
    with Image.open(path) as image:
        image.convert("RGB").save(out, "JPEG", quality=80)
    return out.getvalue()


if __name__ == "__main__":
    main()
