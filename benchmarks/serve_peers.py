"""Questions at once: the whole chain against plain Ray Serve LLM and vLLM's own server, for the same prompts.

    python benchmarks/serve_peers.py [--images 700] [--rounds 6] [--questions 96] [--concurrent 16]
                                     [--layout compact] [--http-proxy python] [--gpu] [--engine JSON]

All run tiny-llava with the same engine settings and are up at once; in each round each of them gets
the round's questions, the peers as the finished prompts that the chain makes of them. The client is a process
of its own and shares the machine's cores with them. CPU time is of a server's processes without the client.
Without a GPU vLLM's server runs twice: as it is, with a worker process, and in one, as mmrag's engine.

With --gpu they generate there, each on a third of its memory, and with a model of LLaVA 1.5 7B's shape in
bfloat16. Its weights are random, so that an answer is 128 tokens of nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import os
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
from measure import ratio

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks.processes import below, kill, vector_servers
from benchmarks.serve import MMRAG, corpus
from pipelines.core.answer import AnswerConfig, LocalSearcher
from pipelines.core.evidence import show
from pipelines.core.generator import TINY_LLAVA, Prompt, load_profile, model_directory, model_name
from pipelines.core.index import Index, IndexConfig
from pipelines.core.previews import Preview, content_of, read_preview
from pipelines.core.prompts import messages
from pipelines.core.retriever import Query, SearchConfig
from pipelines.core.types import Hit
from pipelines.serve import vllm
from pipelines.serve.client import SERVED, served
from pipelines.settings import Settings, load_settings

PLAIN, VLLM, ONE_PROCESS = "ray.serve.llm", "vLLM's server", "vLLM's server, in one process"
# As mmrag's engine on a CPU. Ray Serve LLM has no setting for it, vLLM takes no shorter name.
_IN_ONE_PROCESS = ["--distributed-executor-backend", "vllm.v1.executor.uniproc_executor.UniProcExecutor"]
# Of newer ones the routes of Ray 2.60's own app ask for a query parameter `self`. mmrag has no such routes.
PLAINS_FASTAPI = "fastapi==0.136.3"
_START_S = 600
_STILL_SPINNING_S = 2.0  # vLLM's worker and engine, each for a second after the last answer
_BOXES = re.compile(r"\s*\[\[.*?\]\]")  # the chain gives them apart


@dataclass(frozen=True, slots=True)
class Peer:
    """`path` takes a body as `bodies` makes it. `pids`: all other processes of it are below these."""

    name: str
    address: str
    path: str
    pids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Run:
    rate: float
    cpu_ms: float
    said: tuple[str, ...]


def of_7b_shape(folder: Path) -> Path:
    """A model directory of LLaVA 1.5 7B's shape with tiny-llava's words, and no weights."""
    folder.mkdir()
    for file in (*TINY_LLAVA.glob("*.jinja"), *TINY_LLAVA.glob("*.json")):
        shutil.copy(file, folder)
    config = json.loads((folder / "config.json").read_bytes())
    config |= {"image_seq_length": 576, "vision_feature_layer": -2}
    config["text_config"] |= {
        "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32,
        "num_key_value_heads": 32, "head_dim": 128, "max_position_embeddings": 4096,
    }  # fmt: skip
    config["vision_config"] |= {
        "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16,
        "patch_size": 14, "image_size": 336, "projection_dim": 768,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    processor = json.loads((folder / "processor_config.json").read_bytes())
    processor["patch_size"] = 14
    processor["image_processor"] |= {
        "size": {"shortest_edge": 336},
        "crop_size": {"height": 336, "width": 336},
    }
    (folder / "processor_config.json").write_text(json.dumps(processor))
    return folder


def write_settings(folder: Path, serve: dict[str, Any], gpu: bool, engine: dict[str, Any]) -> Path:
    """The settings file of all of them; `serve` is mmrag's alone."""
    generator: dict[str, Any] = {}
    of_vllm: dict[str, Any] = {"engine_kwargs": engine}
    if gpu:
        model = of_7b_shape(folder / "llava-7b")
        generator = {"model": str(model), "dtype": "bfloat16", "max_tokens": 128}
        of_vllm = {"gpu_memory_utilization": 0.3, "engine_kwargs": {"load_format": "dummy"} | engine}
    settings = {"generator": generator, "serve": serve | {"vllm": of_vllm}}
    (folder / "settings.yaml").write_text(json.dumps(settings))
    return folder / "settings.yaml"


def prompts(index_dir: Path, questions: Sequence[str], settings: Settings) -> list[Prompt]:
    """What the chain asks the generator for each question."""
    config, profile = settings.generator, load_profile(settings.generator)
    with Index(index_dir, IndexConfig()) as index:
        searcher = LocalSearcher(index.retriever(SearchConfig()))

        def preview(hit: Hit) -> Preview | None:
            return read_preview(index.previews, content_of(hit.image_uri)) if hit.image_uri else None

        async def prompt(text: str) -> Prompt:
            hits = (await searcher.search(Query(text, k=AnswerConfig().evidence))).hits
            return show(text, (), hits, None, preview, config, profile).prompt

        return [asyncio.run(prompt(text)) for text in questions]


def chat(prompt: Prompt, settings: Settings) -> dict[str, Any]:
    """The prompt as a request of OpenAI's form."""
    sampling, said = settings.generator.sampling, messages(prompt.turns)
    pictures = iter(prompt.pictures)
    for message in said:
        for at, part in enumerate(message["content"]):
            if part["type"] == "image":
                uri = "data:image/png;base64," + base64.b64encode(next(pictures)).decode()
                message["content"][at] = {"type": "image_url", "image_url": {"url": uri}}
    model = model_name(settings.generator)
    return {"model": model, "messages": said, "max_tokens": sampling.max_tokens, "temperature": 0}


@contextmanager
def process(
    name: str, command: Sequence[str | Path], address: str, log: Path, environment: Mapping[str, str]
) -> Iterator[Peer]:
    """A server of OpenAI's form, once it lists its models. `environment` is added to this process's."""
    env, words = os.environ | environment, [str(word) for word in command]
    with log.open("w") as out:
        started = subprocess.Popen(words, stdout=out, stderr=out, env=env)
    try:
        deadline = time.monotonic() + _START_S
        while not _up(address):
            if started.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"{name} did not start:\n{log.read_text()[-3000:]}")
            time.sleep(0.5)
        yield Peer(name, address, "/v1/chat/completions", (started.pid,))
    finally:
        started.send_signal(signal.SIGINT)
        try:
            started.wait(60)
        except subprocess.TimeoutExpired:  # a Ray of its own ends slowly
            kill([*below(started.pid), psutil.Process(started.pid)])


def _up(address: str) -> bool:
    try:
        return httpx.get(f"{address}/v1/models", timeout=5).is_success
    except httpx.HTTPError:
        return False


def vllm_command(port: int, settings: Settings, gpu: bool) -> list[str | Path]:
    """vLLM's own server with the engine settings of the chain."""
    generator = settings.generator
    words: list[str | Path] = [sys.executable, "-m", "vllm.entrypoints.openai.api_server"]
    words += ["--host", "127.0.0.1", "--port", str(port), "--model", model_directory(generator)]
    words += ["--served-model-name", model_name(generator), "--disable-uvicorn-access-log"]
    for name, value in vllm.engine_kwargs(generator, settings.serve.vllm, on_cpu=not gpu).items():
        option = f"--{name.replace('_', '-')}"
        if isinstance(value, bool):
            words += [option] if value else []
        else:
            words += [option, json.dumps(value) if isinstance(value, dict) else str(value)]
    return words


def others(
    folder: Path, file: Path, settings: Settings, gpu: bool
) -> Iterator[tuple[str, int, Sequence[str | Path], Mapping[str, str]]]:
    """Of each peer: its name, port, command, and what is added to its environment."""
    older = folder / "packages"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", older]
    subprocess.run([*pip, PLAINS_FASTAPI], check=True)
    path = os.pathsep.join(filter(None, [str(older), os.environ.get("PYTHONPATH", "")]))
    plain = [sys.executable, __file__, *(["--gpu"] if gpu else [])]
    port = _free_port()
    yield PLAIN, port, [*plain, "--plain", str(port), file], {"PYTHONPATH": path}
    port = _free_port()
    yield VLLM, port, vllm_command(port, settings, gpu), {}
    if not gpu:
        port = _free_port()
        command = [*vllm_command(port, settings, gpu), *_IN_ONE_PROCESS]
        yield ONE_PROCESS, port, command, vllm.environment(settings.serve.vllm, on_cpu=True)


def plain_ray_serve_llm(port: int, settings: Settings, gpu: bool) -> None:
    """Serve the model with Ray Serve LLM's own app until SIGINT, on a Ray without any setting of ours."""
    import ray
    from ray import serve
    from ray.serve.llm import LLMConfig, build_openai_app
    from ray.serve.schema import LoggingConfig

    generator, config = settings.generator, settings.serve.vllm
    source = str(model_directory(generator))
    model = LLMConfig(
        model_loading_config={"model_id": model_name(generator), "model_source": source},
        engine_kwargs=vllm.engine_kwargs(generator, config, on_cpu=not gpu),
        accelerator_config={"kind": "gpu" if gpu else "cpu"},
        placement_group_config=None if gpu else {"bundles": [{"CPU": config.num_cpus}]},
        deployment_config=vllm.deployment_config(config, on_cpu=not gpu),
        runtime_env={"env_vars": vllm.environment(config, on_cpu=not gpu)},
        log_engine_metrics=False,
    )
    ray.init("local", num_cpus=8, include_dashboard=False, log_to_driver=False)
    logs = LoggingConfig(log_level="WARNING", enable_access_log=False)
    serve.start(http_options={"host": "127.0.0.1", "port": port}, logging_config=logs)
    serve.run(build_openai_app({"llm_configs": [model]}), blocking=False)
    signal.sigwait({signal.SIGINT, signal.SIGTERM})
    serve.shutdown()
    ray.shutdown()


def cpu_seconds(pids: Sequence[int]) -> float:
    """Of processes and everything below them, what has ended not counted."""
    total = 0.0
    for one in {found for pid in pids for found in (psutil.Process(pid), *below(pid))}:
        try:
            times = one.cpu_times()
        except psutil.Error:
            continue
        total += times.user + times.system
    return total


def ask(peer: Peer, bodies: Sequence[dict[str, Any]], concurrent: int) -> Run:
    """Answers a second, CPU milliseconds an answer, and the answers."""
    said = [""] * len(bodies)

    async def run() -> float:
        left = iter(range(len(bodies)))
        limits = httpx.Limits(max_connections=concurrent)
        async with httpx.AsyncClient(base_url=peer.address, timeout=120, limits=limits) as client:

            async def one_after_the_other() -> None:
                for number in left:
                    response = await client.post(peer.path, json=bodies[number])
                    body = response.raise_for_status().json()
                    answer = body["answer"] if "answer" in body else body["choices"][0]["message"]["content"]
                    said[number] = answer.strip()

            start = time.perf_counter()
            await asyncio.gather(*(one_after_the_other() for _ in range(concurrent)))
            return len(bodies) / (time.perf_counter() - start)

    before = cpu_seconds(peer.pids)
    rate = asyncio.run(run())
    return Run(rate, (cpu_seconds(peer.pids) - before) * 1000 / len(bodies), tuple(said))


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--images", type=int, default=700)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--questions", type=int, default=96, help="of a round")
    parser.add_argument("--concurrent", type=int, default=16)
    parser.add_argument("--layout", choices=["compact", "graph"], default="compact", help="of mmrag's server")
    parser.add_argument("--http-proxy", choices=["python", "haproxy"], default="python", help="mmrag's, too")
    parser.add_argument("--gpu", action="store_true", help="a model of LLaVA 1.5 7B's shape, on a GPU")
    parser.add_argument("--engine", type=json.loads, default={}, help="vLLM's own arguments for all, as JSON")
    parser.add_argument("--plain", nargs=2, metavar=("PORT", "SETTINGS"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    gpu = arguments.gpu
    if arguments.plain:
        port, file = arguments.plain
        plain_ray_serve_llm(int(port), load_settings(Path(file)), gpu)
        return
    with tempfile.TemporaryDirectory() as name, ExitStack() as up:
        folder = Path(name).resolve()
        manifest, questions = corpus(folder / "corpus", arguments.images)
        index = folder / "index"
        subprocess.run([MMRAG, "ingest", manifest, "--index", index], check=True, stdout=subprocess.DEVNULL)
        serve = {"layout": arguments.layout, "http_proxy": arguments.http_proxy}
        file = write_settings(folder, serve, gpu, arguments.engine)
        settings = load_settings(file)
        wanted = arguments.questions * (arguments.rounds + 1)
        texts = [questions[number % len(questions)] for number in range(wanted)]
        finished = [chat(prompt, settings) for prompt in prompts(index, texts, settings)]
        asked = [{"query": text} for text in texts]
        address = up.enter_context(served(index, ["--config", str(file)]))
        server = int(json.loads((index / SERVED).read_bytes())["pid"])
        stores = [one.pid for one in vector_servers(index)]  # whoever came first has started them
        peers = [Peer("mmrag", address, "/v1/answer", (server, *stores))]
        for peer, port, command, environment in others(folder, file, settings, gpu):
            log = folder / f"{len(peers)}.log"
            running = process(peer, command, f"http://127.0.0.1:{port}", log, environment)
            peers.append(up.enter_context(running))
        runs: dict[str, list[Run]] = {peer.name: [] for peer in peers}
        for number in range(arguments.rounds + 1):  # the first one warms up
            part = slice(number * arguments.questions, (number + 1) * arguments.questions)
            for peer in peers[number % len(peers) :] + peers[: number % len(peers)]:
                time.sleep(_STILL_SPINNING_S)
                bodies = asked[part] if peer.path == "/v1/answer" else finished[part]
                found = ask(peer, bodies, arguments.concurrent)
                if number:
                    runs[peer.name].append(found)
                    print(f"  {peer.name}: {found.rate:.1f}/s, {found.cpu_ms:.0f} CPU ms", flush=True)
        print("| | answers/s, median | CPU ms an answer, median | mmrag / this one, rate |")
        print("|---|---|---|---|")
        rates = {peer: [run.rate for run in found] for peer, found in runs.items()}
        for peer, found in runs.items():
            cpu = statistics.median(run.cpu_ms for run in found)
            against = "" if peer == "mmrag" else str(ratio(rates["mmrag"], rates[peer]))
            print(f"| {peer} | {statistics.median(rates[peer]):.1f} | {cpu:.0f} | {against} |")
        print(f"ray.serve.llm / vLLM's server: {ratio(rates[PLAIN], rates[VLLM])}")
        same = [
            one == _BOXES.sub("", other).strip()
            for ours, theirs in zip(runs["mmrag"], runs[VLLM], strict=True)
            for one, other in zip(ours.said, theirs.said, strict=True)
        ]
        print(f"answers that mmrag and vLLM's server wrote alike: {sum(same)} of {len(same)}")


if __name__ == "__main__":
    main()
