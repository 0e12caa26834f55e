"""`mmrag serve` on Ray Serve: the graph of deployments, and the process that keeps it up. Only wires."""

from __future__ import annotations

import logging
import math
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import Any

from ray import serve
from ray.exceptions import RayError
from ray.serve.schema import LoggingConfig, TracingConfig

from pipelines.core.errors import MmragError, UsageError
from pipelines.core.generator import TINY_LLAVA
from pipelines.core.ray_runtime import ray_runtime, starts_here
from pipelines.serve import traces
from pipelines.serve.backend import Health
from pipelines.serve.config import Replicas, ServeConfig, TraceConfig
from pipelines.serve.deployments import (
    Alignment,
    Gateway,
    Parts,
    QueryEncoder,
    Retriever,
    TransformersGenerator,
)
from pipelines.serve.handles import waited
from pipelines.serve.haproxy import haproxy
from pipelines.serve.ports import open_port
from pipelines.serve.vllm import DEPLOYMENT, llm_deployment, on_cpus

NAME = "mmrag"
_HEALTH_S = 30.0
_REACHED_BY_HAPROXY = ("127.0.0.1", "localhost", "0.0.0.0")
_LOG = logging.getLogger(__name__)
_QUIET = LoggingConfig(log_level="WARNING", enable_access_log=False)


def application(parts: Parts) -> serve.Application:
    """gateway -> retriever -> query encoder and aligner, and gateway -> generator; in the compact layout
    gateway -> generator. Raises UsageError for what cannot be served."""
    config = parts.serve
    log = LoggingConfig(log_level="WARNING", encoding=config.log.encoding, enable_access_log=False)
    retrieval = _retrieval(parts, log) if config.layout == "graph" else None
    if parts.generator.served_by == "vllm":
        model = parts.generator.model or str(TINY_LLAVA)
        generator = llm_deployment(parts.generator, config.vllm, model, config.log, config.deadline_s)
    else:
        answering = _deployed(TransformersGenerator, DEPLOYMENT, config.transformers, log, config.deadline_s)
        generator = answering.bind(parts)
    ingress: Any = serve.ingress()(Gateway)
    gateway = _deployed(ingress, "gateway", config.gateway, log, config.deadline_s)
    served: serve.Application = gateway.bind(parts, retrieval, generator)
    return served


def _retrieval(parts: Parts, log: LoggingConfig) -> serve.Application:
    config = parts.serve
    encoder = _deployed(QueryEncoder, "encoder", config.encoder, log, config.deadline_s).bind(parts)
    aligner = None
    if parts.search.aligner.model:
        aligner = _deployed(Alignment, "aligner", config.aligner, log, config.deadline_s).bind(parts)
    retrieval = _deployed(Retriever, "retriever", config.retriever, log, config.deadline_s)
    bound: serve.Application = retrieval.bind(parts, encoder, aligner)
    return bound


def reserved(parts: Parts) -> dict[str, int]:
    """Ray's resources that the fewest replicas there may be take."""
    config, vllm = parts.serve, parts.serve.vllm
    replicas: list[Replicas] = [config.gateway]
    cpus = gpus = 0.0
    if config.layout == "graph":
        replicas += [config.retriever, config.encoder]
        replicas += [config.aligner] if parts.search.aligner.model else []
    if parts.generator.served_by == "vllm":
        cpus = vllm.min_replicas * vllm.num_cpus
        gpus = 0 if on_cpus(vllm) else vllm.min_replicas * vllm.tensor_parallel_size
    else:
        replicas.append(config.transformers)
    cpus += sum(one.min_replicas * one.num_cpus for one in replicas)
    gpus += sum(one.min_replicas * one.num_gpus for one in replicas)
    return {"CPU": math.ceil(cpus), "GPU": math.ceil(gpus)}


def run(parts: Parts, ready: Callable[[str], None]) -> None:
    """Serve until SIGINT or SIGTERM; answers that are being written are finished. Before it is ready, either
    ends the start.

    `ready` is told the address once questions can be asked. Raises MmragError when a part cannot start.
    """
    with suppress(_Stopped), _raised_by_signals() as stop, serving(parts) as address:
        _wait_until_healthy()
        stop.is_awaited = True
        ready(address)
        stop.wait()


def _wait_until_healthy() -> None:
    """Until /healthz says 200. Meanwhile what it waits for is told."""
    gateway, told = serve.get_app_handle(NAME), ""
    while True:
        try:
            found: Health = waited(_HEALTH_S, gateway.health, who="the gateway")
        except (MmragError, RayError) as exc:
            lacking = str(exc)
        else:
            if found.ready:
                return
            lacking = "; ".join(f"{part}: {state}" for part, state in found.parts.items() if state != "ok")
        if lacking != told:
            _LOG.warning("not ready yet: %s", lacking)
            told = lacking
        time.sleep(1)


@contextmanager
def serving(parts: Parts) -> Iterator[str]:
    """The server, started, at the address that this yields. Raises UsageError, before anything is started,
    where it cannot listen there, and MmragError if a part cannot start."""
    host, port = parts.serve.host, parts.serve.port
    # A cluster that is joined listens at its head, or does so already: its Serve takes our application.
    if starts_here() or not port:
        open_port(host, port)
    print(f"loading the models ({parts.generator.served_by} writes the answers)", file=sys.stderr)
    with deployed(parts, (host, port)) as port:
        yield f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


@contextmanager
def deployed(parts: Parts, address: tuple[str, int] | None = None) -> Iterator[int]:
    """The application, started, and its port, for 0 any that is free; without an address it is reached by
    handles only. Raises MmragError when a part cannot start, or this machine lacks GPUs for it; for what a
    cluster lacks it waits, and says so."""
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    is_own = starts_here()
    # Replicas wait for one another most of the time: they fit on a laptop of two cores.
    with (
        _http_proxy(parts.serve) if address else nullcontext(),
        ray_runtime(cpus=4, waits_for=reserved(parts)),
    ):
        # Not before: Ray Serve LLM would start a Ray of its own, too small for all replicas.
        app = application(parts)
        if address and (is_own or not address[1]):
            # Now: while Ray started, another server may have begun, and Ray's own processes took any ports.
            address = address[0], open_port(*address)
        _listen(parts.serve, address)
        try:
            try:
                serve.run(app, name=NAME, route_prefix="/", blocking=False)
            except RuntimeError as exc:  # Serve's word for a deployment that failed
                raise MmragError(f"the server did not start: {_reasons() or exc}") from exc
            try:
                yield address[1] if address else 0
            finally:
                _finish(parts.serve.deadline_s)
        finally:
            serve.shutdown()


def _listen(config: ServeConfig, address: tuple[str, int] | None) -> None:
    """Ray Serve, with a proxy at the address; one that the cluster has keeps its own. Raises MmragError."""
    host, port = address or ("", 0)
    try:
        serve.start(
            proxy_location="HeadOnly" if address else "Disabled",
            http_options={"host": host, "port": port} if address else None,
            logging_config=_QUIET,
            tracing_config=_tracing(config.traces),
        )
    except (RuntimeError, TimeoutError) as exc:  # a proxy's traceback, which ends with the cause
        serve.shutdown()  # none was there before, and the next start would take what stays for another's
        raise MmragError(f"the server did not start: {str(exc).strip().splitlines()[-1]}") from exc


def _finish(within_s: float) -> None:
    """Answers that are being written. Serve's own shutdown ends its HTTP proxies at once."""
    closing = serve.get_app_handle(NAME).broadcast("close")
    try:
        ended = closing.results(timeout_s=within_s, return_exceptions=True)
    except TimeoutError:
        _LOG.warning("answers that took longer than serve.deadline_s were broken off")
    else:
        for failed in (one for one in ended if isinstance(one, Exception)):
            _LOG.warning("a gateway did not finish its answers: %r", failed)
    serve.delete(NAME)  # the proxies hand on what the gateways said last


def _http_proxy(config: ServeConfig) -> AbstractContextManager[None]:
    if config.http_proxy == "haproxy":
        if config.host not in _REACHED_BY_HAPROXY:
            raise UsageError(
                f"serve.http_proxy haproxy reaches no gateways at {config.host}: Ray has it look for them at "
                f"127.0.0.1; name a --host of {', '.join(_REACHED_BY_HAPROXY)}, or leave serve.http_proxy out"
            )
        # Free at every address: Ray uses one of them at the server's.
        statistics, metrics, fallback = (open_port("0.0.0.0") for _ in range(3))
        return haproxy((statistics, metrics, fallback), config.deadline_s)
    return nullcontext()


def _reasons() -> str:
    """What Serve noted of the parts that failed: the last line of each traceback."""
    found = serve.status().applications.get(NAME)
    deployments = found.deployments.items() if found else ()
    told = [(name, one.message.strip().splitlines()) for name, one in deployments if one.message.strip()]
    return "; ".join(f"{name}: {lines[-1]}" for name, lines in told)


def _tracing(config: TraceConfig) -> TracingConfig:
    """Raises MissingDependency here, where the user reads it, rather than in every replica."""
    traces.require(config)
    path = traces.OTLP if config.exporter == "otlp" else ""
    ratio = config.sampling_ratio
    return TracingConfig(enabled=ratio > 0, exporter_import_path=path, sampling_ratio=ratio)


def _deployed(part: type[Any], name: str, config: Replicas, log: LoggingConfig, finish_s: float) -> Any:
    """`finish_s`: for the requests that a replica works on when it is to go."""
    made: Any = serve.deployment(part)
    return made.options(
        name=name,
        logging_config=log,
        ray_actor_options=_reservation(config),
        max_ongoing_requests=config.max_ongoing_requests,
        graceful_shutdown_timeout_s=finish_s,
        autoscaling_config={
            "min_replicas": config.min_replicas,
            "max_replicas": config.max_replicas,
            "target_ongoing_requests": config.target_ongoing_requests,
            "upscale_delay_s": config.upscale_delay_s,
            "downscale_delay_s": config.downscale_delay_s,
        },
    )


def _reservation(config: Replicas) -> dict[str, Any]:
    """Ray leaves the GPUs in sight of a replica that reserves none: its models would take vLLM's memory."""
    reserved: dict[str, Any] = {"num_cpus": config.num_cpus, "num_gpus": config.num_gpus}
    if not config.num_gpus:
        reserved["runtime_env"] = {"env_vars": {"CUDA_VISIBLE_DEVICES": ""}}
    return reserved


class _Stopped(BaseException):  # as KeyboardInterrupt is: nothing that catches errors is to catch it
    """A signal came before the server was ready."""


class _Stop(threading.Event):
    is_awaited = False

    def on_signal(self, *_: object) -> None:
        """Raises _Stopped, once, where nobody waits for it yet."""
        is_first = not self.is_set()
        self.set()
        if is_first and not self.is_awaited:
            raise _Stopped


@contextmanager
def _raised_by_signals() -> Iterator[_Stop]:
    stop = _Stop()
    before = {number: signal.signal(number, stop.on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
