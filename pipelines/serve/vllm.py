"""vLLM behind Ray Serve LLM: its deployment.

Importing this module imports Ray Serve but not vLLM. Knows nothing of evidence or HTTP.
"""

from __future__ import annotations

import math
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.core.adapter import base_identity, hub_name, read_adapters, tensor_names
from pipelines.core.errors import MissingDependency, UsageError, install_line
from pipelines.core.generator import GeneratorConfig, frame_of, model_directory, model_name
from pipelines.core.local_models import read_config
from pipelines.core.prompts import PROMPT_VERSION
from pipelines.serve.config import LogConfig, VllmConfig

if TYPE_CHECKING:
    from ray.serve import Application

DEPLOYMENT = "generator"
_GIB = 1 << 30
_LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # vLLM's
_MOST_ADAPTERS_IN_A_BATCH = 4


def llm_deployment(
    generator: GeneratorConfig,
    config: VllmConfig,
    model_dir: str,
    log: LogConfig | None = None,
    finish_s: float = 60.0,
) -> Application:
    """To be bound to other deployments; `handles.RemoteGenerator` takes its handle. `model_dir`: a directory,
    or a hub id. `finish_s`: for the answers that a replica writes when it is to go. Imports vLLM. Raises
    UsageError for adapters that do not belong to the model.
    """
    log = log or LogConfig()
    try:
        from ray.serve.llm import LLMConfig, build_llm_deployment

        from pipelines.serve.vllm_server import AnswerServer, LocalModel
    except ImportError as exc:
        raise _missing(exc) from exc
    local = Path(model_dir).is_dir()
    if local:
        _check_names(Path(model_dir))
    on_cpu = on_cpus(config)
    llm_config = LLMConfig(
        model_loading_config={"model_id": model_name(generator), "model_source": model_dir},
        engine_kwargs=engine_kwargs(generator, config, on_cpu) | _lora_kwargs(generator, model_dir, on_cpu),
        accelerator_type=config.accelerator_type,
        accelerator_config={"kind": "cpu" if on_cpu else "gpu"},
        placement_group_config={"bundles": [{"CPU": config.num_cpus}]} if on_cpu else None,
        deployment_config=deployment_config(config, on_cpu, finish_s),
        runtime_env={"env_vars": environment(config, on_cpu)},
        log_engine_metrics=config.engine_metrics,
        **({"callback_config": {"callback_class": LocalModel}} if local else {}),
    )
    return build_llm_deployment(
        llm_config,
        deployment_cls=AnswerServer,
        bind_kwargs={"model_dir": model_dir, "revision": generator.revision, "log_level": log.level},
        override_serve_options={
            "name": DEPLOYMENT,
            "logging_config": {"log_level": "WARNING", "encoding": log.encoding, "enable_access_log": False},
        },
    )


def _check_names(directory: Path) -> None:
    """vLLM reads a LLaVA's weights under the names of model hubs only, and dies of others after a minute."""
    foreign = [name for name in sorted(tensor_names(directory)) if hub_name(name) != name]
    if foreign and read_config(directory).get("model_type") == "llava":
        raise UsageError(
            f"{directory}: vLLM does not read weights named as {foreign[0]!r}: export them with "
            "`mmrag train llava --export merged`, or set generator.engine=transformers"
        )


def engine_kwargs(generator: GeneratorConfig, config: VllmConfig, on_cpu: bool) -> dict[str, Any]:
    kv_cache_gib = config.kv_cache_gib or (1 if on_cpu else None)
    optional = {
        "revision": generator.revision,
        "max_model_len": generator.max_model_len,
        "max_num_batched_tokens": config.tokens_per_step,
        "kv_cache_memory_bytes": int(kv_cache_gib * _GIB) if kv_cache_gib else None,
    }
    return {
        "dtype": generator.dtype,
        "limit_mm_per_prompt": {"image": generator.most_pictures},
        "max_num_seqs": config.max_ongoing_requests,
        "tensor_parallel_size": config.tensor_parallel_size,
        "gpu_memory_utilization": config.gpu_memory_utilization,
        "mm_processor_cache_gb": config.picture_cache_gib,
        "stream_interval": config.tokens_per_piece,
        "enforce_eager": on_cpu if config.enforce_eager is None else config.enforce_eager,
        "disable_log_stats": not config.engine_metrics,
        **{name: value for name, value in optional.items() if value is not None},
        **config.engine_kwargs,
    }


def _lora_kwargs(generator: GeneratorConfig, model_dir: str, on_cpu: bool) -> dict[str, Any]:
    """Adapters are loaded with the engine: Ray Serve LLM's dynamic ones must lie in a cloud's storage."""
    if not generator.adapters:
        return {}
    from vllm.entrypoints.openai.models.protocol import LoRAModulePath

    directory = Path(model_dir)
    base = base_identity(directory) if directory.is_dir() else None
    frame = frame_of(generator, model_directory(generator))
    manifests = read_adapters(generator.adapters, base, PROMPT_VERSION, frame)
    # On CPUs vLLM 0.29 applies the adapter in the last slot to the base model's answers too (its pull request
    # 48421): one slot more than there are adapters stays empty.
    slots = len(manifests) + 1 if on_cpu else min(len(manifests), _MOST_ADAPTERS_IN_A_BATCH)
    rank = max(manifest.rank for manifest in manifests.values())
    return {
        "enable_lora": True,
        "max_lora_rank": next((allowed for allowed in _LORA_RANKS if allowed >= rank), rank),
        "max_loras": slots,
        "max_cpu_loras": max(slots, len(manifests)),
        "lora_modules": [
            LoRAModulePath(name, str(Path(path).absolute())) for name, path in generator.adapters.items()
        ],
    }


def deployment_config(config: VllmConfig, on_cpu: bool, finish_s: float = 60.0) -> dict[str, Any]:
    return {
        # Without a GPU the engine's processes are the replica's: its bundle holds their CPUs already.
        "ray_actor_options": {"num_cpus": 0 if on_cpu else config.num_cpus},
        "max_ongoing_requests": config.max_ongoing_requests,
        "max_queued_requests": config.max_queued_requests,
        "autoscaling_config": {
            "min_replicas": config.min_replicas,
            "max_replicas": config.max_replicas,
            "target_ongoing_requests": config.target_ongoing_requests,
            "upscale_delay_s": config.upscale_delay_s,
            "downscale_delay_s": config.downscale_delay_s,
        },
        "graceful_shutdown_timeout_s": finish_s,
    }


def environment(config: VllmConfig, on_cpu: bool) -> dict[str, str]:
    quiet = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
    chosen = {name: value.get_secret_value() for name, value in config.env.items()}
    if not on_cpu:
        return quiet | chosen
    # vLLM would bind every replica of a machine to the same cores.
    threads = {"OMP_NUM_THREADS": str(math.ceil(config.num_cpus)), "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    return quiet | threads | chosen


def on_cpus(config: VllmConfig) -> bool:
    """Does not import vLLM. Raises MissingDependency where the settings leave it open and there is none."""
    return config.device == "cpu" or (config.device == "auto" and _built_for_cpu())


def _built_for_cpu() -> bool:
    """By the name and the version of its package, as vLLM itself tells."""
    try:
        return "cpu" in version("vllm")
    except PackageNotFoundError:
        pass
    try:
        return bool(version("vllm-cpu"))
    except PackageNotFoundError as exc:
        raise _missing(exc) from exc


def _missing(exc: ImportError) -> MissingDependency:
    return MissingDependency(
        f"generator.engine vllm needs vLLM ({exc}): {install_line('gpu')}, or requirements/vllm-cpu.txt "
        "without a GPU; or set generator.engine=transformers"
    )
