"""The ingest job on Ray Data. Only wires: every stage is a plain callable from the modules beside it.

The stations of one document:

    sources.list_items          its source is listed: an Item
    plan.make_plan              compared with the ledger; written under the run's `items` if new or changed
    stages.ParseItems           read: a row for each picture and chunk, and one for the document
    stages.CheckParts           what no store could keep is refused
    stages.LoadPictures         pictures become pixels, or the vectors that are cached
    stages.Encode               pixels and texts become vectors
    IndexSink, sink.write_rows  rows go to the stores, then are acknowledged under the run's `acks`
    sink.finish                 stale parts go, dead letters are written, and the ledger last
"""

from __future__ import annotations

import json
import math
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import pyarrow.dataset as pads
import ray.data
from ray.data import ActorPoolStrategy, Datasink, ExecutionResources, TaskPoolStrategy
from ray.data.block import BlockAccessor
from ray.exceptions import RayError

from pipelines.core.embedder import load_embedder
from pipelines.core.encoder import Encoder, load_encoder
from pipelines.core.errors import MmragError, UsageError
from pipelines.core.files import disk_errors
from pipelines.core.index import Index, IndexConfig
from pipelines.core.last_ingest import note_ingest
from pipelines.core.lazy import Lazy
from pipelines.core.manifest import Manifest
from pipelines.core.ocr import require as require_ocr
from pipelines.core.ray_metrics import record
from pipelines.core.ray_runtime import say_what_is_awaited
from pipelines.ingest import captions, history, lost, metadata, near_duplicates, ocr, perceptual_hash, refused
from pipelines.ingest.cluster_job import ACTOR, TASK, cluster, in_our_words, node_cpus
from pipelines.ingest.config import IngestConfig
from pipelines.ingest.counts import warn_of_disagreement
from pipelines.ingest.encoders import Encoders, encoders_for, use_gpu
from pipelines.ingest.in_hand import InHand
from pipelines.ingest.ledger import Ledger
from pipelines.ingest.metrics import DOCUMENTS_WAITING, ROWS_WAITING, count_refused
from pipelines.ingest.plan import Plan, fingerprint_of, known_sources, make_plan, to_prune
from pipelines.ingest.rebuild import begin, drop_replaced, swap
from pipelines.ingest.rows import DOCUMENT, SCHEMA
from pipelines.ingest.run import Run
from pipelines.ingest.sink import finish, recover, write_rows
from pipelines.ingest.sources import list_items
from pipelines.ingest.stages import CheckParts, Encode, LoadPictures, ParseItems
from pipelines.ingest.summary import Summary, check_rejected, summarise
from pipelines.ingest.tally import Tally, pictures_told


class Progress(Protocol):
    """Called with what is being done, how much of it is done, how much there is, and what else to say."""

    def __call__(self, what: str, done: int, total: int, detail: str = "") -> None: ...


def untold(what: str, done: int, total: int, detail: str = "") -> None:
    """The progress of a job that nobody watches."""


# In Ray's count of CPUs. An encoder takes whole ones (`encoders`), and OCR one; what waits for disks and
# stores shares the rest. Another figure than an encoder's also keeps Ray from fusing decoding into it.
_COMPARE_CPUS, _PARSE_CPUS, _LOAD_CPUS, _WRITE_CPUS = 1, 1, 0.5, 0.25
# A block is what one task works on: small enough to share out and to be held in memory decoded.
_ITEMS_PER_BLOCK, _ROWS_PER_BLOCK = 64, 32


class IndexSink(Datasink[int]):
    """Ray's face of `sink.write_rows`. Each write task opens the stores for itself."""

    def __init__(self, open_index: Callable[[], Index], run: Run, config: IngestConfig) -> None:
        self._open_index, self._run = open_index, run
        self._rows_per_write, self._patience_s = config.rows_per_write, config.store_patience_s

    def write(self, blocks: Iterable[Any], ctx: Any) -> int:
        with disk_errors(self._run.directory), self._open_index() as index:
            tables = (BlockAccessor.for_block(block).to_arrow() for block in blocks)
            return sum(
                write_rows(rows, index, self._run, record, self._patience_s) for rows in tables if len(rows)
            )

    @property
    def min_rows_per_write(self) -> int:
        return self._rows_per_write


def ingest(
    source_names: Sequence[str],
    directory: Path,
    index_config: IndexConfig,
    config: IngestConfig,
    progress: Progress = untold,
    *,
    prune: bool = False,
    retry_rejected: bool = False,
    rebuild: bool = False,
) -> Summary:
    """Bring the index up to date with the sources. Documents that did not change cost a look at their files.

    With `prune`, documents that a source held and holds no more are deleted, and all of a known source that
    is gone. With `retry_rejected`, unchanged documents of which something was refused are tried again. With
    `rebuild`, all is ingested into stores beside those that are read, by the models of `index_config`, and at
    the end these are swapped; readers meet the one or the other, and nothing is swapped where an error is
    raised.
    Raises SourceError, MissingDependency, SpaceMismatch, IndexLocked, StoreError, or MmragError when more
    than `max_rejected_fraction` of the index's parts are refused (the rest is written all the same).
    """
    start = time.perf_counter()
    known = known_sources(directory) if prune and not rebuild else None
    types = metadata.known_types(directory)
    listing = list_items(source_names, config.sources, whole=rebuild, known=known, types=types)
    require_ocr(config.ocr)
    if rebuild:
        Manifest.load(directory)  # before the lock, which would make the directory
    with Index(directory, index_config, writable=True, building=rebuild) as index, index.write_lock():
        max_lost, patience_s = config.max_pruned_fraction, config.store_patience_s
        live = begin(index, listing.scopes, max_lost, patience_s) if rebuild else None
        if live is None:
            index.create()
        drop_replaced(index, patience_s)
        ledger = recover(index, patience_s, live)
        run = Run(index.home, _run_name(), fingerprint_of(index, config))
        run.begin()
        progress("looking for changes", 0, 0)
        encode_s = 0.0
        with ExitStack() as stack:
            connected = Lazy[int](lambda: stack.enter_context(cluster(config)))
            try:
                plan = make_plan(
                    listing,
                    ledger,
                    run.fingerprint,
                    run.items,
                    retry_rejected=retry_rejected,
                    whole=rebuild,
                    config=config.sources,
                    each=partial(_each_bucket, connected),
                )
                pruned = plan.gone_keys if rebuild else ()
                if prune and not rebuild:
                    pruned = to_prune(plan, ledger, config.max_pruned_fraction)
            except (MmragError, RayError):
                run.end()  # nothing was begun
                raise
            if plan.to_do:
                threads_a_cpu = connected()
                count_refused(plan.refused, record)
                index.expected_rows = plan.to_do
                had = ledger if live is None else live
                replaced_types = types if rebuild else {}
                encode_s = _process(index, run, config, progress, threads_a_cpu, had, replaced_types)
            elif not len(ledger):
                _open_stores(index)  # of an index of nothing: searched, it finds nothing
        ledger, finished = finish(
            index, run, ledger, plan.refused, pruned, patience_s, plan.seen, max_lost, replaced=live
        )
        compared = live is None and (plan.to_do or pruned)  # a swap compares itself; else no store is open
        differing = warn_of_disagreement(index, ledger, patience_s) if compared else []
        elapsed_s = time.perf_counter() - start
        alike = None
        if config.near_duplicates == "report":
            alike = near_duplicates.write_report(index.home, ledger, config.near_duplicate_bits)
        else:
            near_duplicates.drop_stale_report(index.home, ledger, config.near_duplicate_bits)
        summary = summarise(run, plan, finished, ledger, elapsed_s, encode_s, len(pruned), alike, differing)
        history.remember(index.directory, summary)
        refused.remember(index.home, listing.scopes, plan.refused)
        if finished.unfinished:
            raise MmragError(
                finished.kept
                or f"{finished.unfinished} documents were not read and written whole: a file or a store did "
                "not answer; run the same command again"
            )
        check_rejected(summary.index, refused.standing(index.home), config.max_rejected_fraction)
        if live is not None:
            gone = swap(index, live, ledger, max_lost, patience_s)
            summary = replace(summary, gone=gone, pruned=gone)
        note_ingest(index.directory)
    return summary


def _each_bucket(
    connected: Callable[[], int], compare: Callable[[int], Plan], buckets: Iterable[int]
) -> Iterator[Plan]:
    """`compare` of each bucket of the ledger and the listing, by tasks: the driver only has their plans."""
    connected()
    numbers = [{"bucket": bucket} for bucket in buckets]
    plans = ray.data.from_items(numbers, override_num_blocks=len(numbers)).map(
        lambda row: {"plan": compare(row["bucket"])}, num_cpus=_COMPARE_CPUS, **TASK
    )
    return (row["plan"] for row in plans.iter_rows())


def _process(
    index: Index,
    run: Run,
    config: IngestConfig,
    progress: Progress,
    threads_a_cpu: int,
    had: Ledger,
    replaced_types: Mapping[str, str],
) -> float:
    """Parse, then encode and write. Returns the seconds of the second part."""
    nodes = node_cpus()
    if index.embedded and len(nodes) > 1:
        raise UsageError(
            f"the embedded stores live on one machine, but the Ray cluster has {len(nodes)} nodes; "
            "set stores.milvus and stores.elastic"
        )
    _open_stores(index)
    captions.require(config.captions)
    parts = run.directory / "parts"
    _read(index, run, config, parts, progress)
    types = _extend_metadata_types(index, parts, replaced_types)
    held = lost.held(parts, had, config.max_pruned_fraction)
    total = pads.dataset(parts, format="parquet").count_rows()
    encoders = _encoders(index.pinned(), config, math.ceil(total / _ROWS_PER_BLOCK), threads_a_cpu)
    start = time.perf_counter()

    def report() -> None:
        done = run.acknowledged()
        progress("encoding and writing", done, total)
        record(ROWS_WAITING, total - done)

    with _every_second(report):
        _encode_and_write(index, run, config, parts, CheckParts(types, held), encoders)
    progress("encoding and writing", total, total)
    return time.perf_counter() - start


def _open_stores(index: Index) -> None:
    """Makes them, by one process and before any work; one that is down ends the job at once."""
    for store in index.stores.values():
        store()


def _read(index: Index, run: Run, config: IngestConfig, parts: Path, progress: Progress) -> None:
    """Items -> rows, as Parquet under `parts`."""
    total = pads.dataset(run.items, format="parquet").count_rows()
    tally = Tally(run.directory / "tally")
    max_bytes = config.sources.max_file_bytes
    tasks, caption = None, None
    if config.captions:
        blocks = math.ceil(total / _ITEMS_PER_BLOCK)
        cpus = max(1, int(ray.cluster_resources().get("CPU", 0)))
        tasks = min(blocks, cpus // _PARSE_CPUS, config.captions.concurrency)
        at_once = config.captions.concurrency // tasks
        caption = captions.CaptionPictures(config.captions, index.captions, max_bytes, at_once, tally)
    read_pictures = ocr.picture_reader(config.ocr, index.readings, max_bytes, tally)

    def report() -> None:
        counts = tally.counts()
        done = min(counts["document"], total)
        progress("reading documents", done, total, pictures_told(counts))
        record(DOCUMENTS_WAITING, total - done)

    report()
    items = ray.data.read_parquet(str(run.items))
    in_hand = InHand(run.directory / "read")
    with _every_second(report), in_our_words("reading documents", in_hand):
        items.repartition(target_num_rows_per_block=_ITEMS_PER_BLOCK).map_batches(
            ParseItems(config.sources, config.chunking, read_pictures, caption, tally, in_hand),
            compute=TaskPoolStrategy(tasks),
            batch_format="pyarrow",
            num_cpus=_PARSE_CPUS,
            **TASK,
        ).write_parquet(str(parts), ray_remote_args=TASK)
    report()
    record(DOCUMENTS_WAITING, 0)


def _encoders(models: IndexConfig, config: IngestConfig, blocks: int, threads_a_cpu: int) -> Encoders:
    gpus = 0
    if use_gpu(models.encoder, models.embedder):
        gpus = int(ray.cluster_resources().get("GPU", 0))
    if gpus:
        say_what_is_awaited({"GPU": 1})  # with one of several it goes on; with none it stands still
    return encoders_for(node_cpus(), gpus, config, blocks, threads_a_cpu)


def _encode_and_write(
    index: Index, run: Run, config: IngestConfig, parts: Path, check: CheckParts, encoders: Encoders
) -> None:
    encoder = index.encoder()
    fingerprints = encoder.cache_key, index.embedder().space.fingerprint, perceptual_hash.RULES
    in_hand = InHand(run.directory / "load")
    image_cache, text_cache, signs = (index.cache(name, config.store_patience_s) for name in fingerprints)
    # Without a bound, decoding runs ahead of the encoders until it fills Ray's share of the machine.
    ray.data.DataContext.get_current().execution_options.resource_limits = ExecutionResources.for_limits(
        object_store_memory=encoders.count * config.buffer_mb * 2**20
    )
    rows = (
        ray.data.read_parquet(str(parts), schema=SCHEMA)
        .repartition(target_num_rows_per_block=_ROWS_PER_BLOCK)
        .map_batches(check, batch_format="pyarrow", **TASK)
        .map_batches(
            LoadPictures(
                encoder.scales,
                image_cache,
                signs,
                index.previews,
                index.readings,
                config.sources.max_file_bytes,
                in_hand,
            ),
            batch_format="pyarrow",
            batch_size=config.load_batch,
            num_cpus=_LOAD_CPUS,
            **TASK,
        )
        .map_batches(
            Encode,
            fn_constructor_kwargs={
                "load_encoder": partial(_load_encoder, index.pinned(), encoders.threads),
                "load_embedder": partial(load_embedder, index.pinned().embedder),
                "image_cache": image_cache,
                "text_cache": text_cache,
                "record": record,
            },
            # On CPUs a batch takes seconds: one that waits for its encoder could be another's.
            compute=ActorPoolStrategy(
                size=encoders.count, max_tasks_in_flight_per_actor=2 if encoders.gpus else 1
            ),
            batch_format="pyarrow",
            batch_size=config.encoder_batch,
            num_cpus=encoders.cpus,
            num_gpus=encoders.gpus,
            **ACTOR,
        )
    )
    stores = _asked_once(index.config) if config.store_patience_s else index.config
    open_index = partial(Index, index.directory, stores, writable=True, building=index.building)
    sink = IndexSink(open_index, run, config)
    writers = 1 if index.embedded else config.writers
    with in_our_words("encoding and writing", in_hand):
        rows.write_datasink(sink, concurrency=writers, ray_remote_args={"num_cpus": _WRITE_CPUS, **TASK})


def _asked_once(config: IndexConfig) -> IndexConfig:
    """With no tries again inside of a request: `patiently` makes them, and looks before each whether the run
    still goes on."""
    if config.stores.elastic is None:
        return config
    elastic = config.stores.elastic.model_copy(update={"max_retries": 0})
    return config.model_copy(update={"stores": config.stores.model_copy(update={"elastic": elastic})})


def _load_encoder(config: IndexConfig, threads: int) -> Encoder:
    import torch

    from pipelines.core.torch_runtime import keep_freed_memory

    torch.set_num_threads(threads)
    keep_freed_memory()
    return load_encoder(config.encoder)


def _extend_metadata_types(index: Index, parts: Path, replaced: Mapping[str, str]) -> dict[str, str]:
    documents = pads.dataset(parts, format="parquet").scanner(
        columns=["place", "metadata"], filter=pads.field("kind") == DOCUMENT
    )
    rows = (row for batch in documents.to_batches() for row in batch.to_pylist())
    placed = ((row["place"], json.loads(row["metadata"])) for row in rows)
    types = metadata.extend(index.manifest().metadata_types, placed, replaced)
    index.with_metadata_types(types)
    return types


@contextmanager
def _every_second(report: Callable[[], None]) -> Iterator[None]:
    ended = threading.Event()

    def again() -> None:
        while not ended.wait(1.0):
            report()

    thread = threading.Thread(target=again, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        for waiting in (DOCUMENTS_WAITING, ROWS_WAITING):
            record(waiting, 0)  # after an error, too: a process that lives on would tell the last figure


def _run_name() -> str:
    return f"{datetime.now(UTC):%Y%m%dT%H%M%S.%f}-{os.getpid()}"
