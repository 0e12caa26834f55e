"""The settings of `mmrag serve`, group `serve`."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

from pipelines.core.entailment import COVERAGE

_MIB = 2**20
_HOST = re.compile(r"\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+")


class ApiKey(BaseModel):
    """A caller that may ask, and whose documents it sees."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: SecretStr = Field(min_length=8, description="sent as `Authorization: Bearer KEY`")
    tenant: str | None = Field(description="sees this tenant's documents only; null: those of every tenant")
    name: str = Field(min_length=1, description="stands in logs in place of the key")

    @field_validator("key")
    @classmethod
    def _fits_a_header(cls, key: SecretStr) -> SecretStr:
        if not all("!" <= character <= "~" for character in key.get_secret_value()):
            raise ValueError("a key consists of visible ASCII characters without blanks")
        return key


class RemoteImages(BaseModel):
    """Pictures that a request names by URL."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    enabled: bool = Field(False, description="fetch them, from public addresses only; off: they are refused")
    timeout_s: float = Field(5.0, gt=0, le=60, description="for all of a picture, redirects among it")


class LogConfig(BaseModel):
    """Lines that the deployments write, into Ray's folder of logs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "INFO", description="INFO: a line for each call of each deployment"
    )
    encoding: Literal["JSON", "TEXT"] = Field("JSON", description="JSON: an object a line")


class TraceConfig(BaseModel):
    """OpenTelemetry spans of a request's way through the deployments."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sampling_ratio: float = Field(0.0, ge=0, le=1, description="share of the requests traced; 0: none")
    exporter: Literal["file", "otlp"] = Field(
        "file", description="file: beside the logs; otlp: to OTEL_EXPORTER_OTLP_ENDPOINT, over HTTP"
    )


class MonitorConfig(BaseModel):
    """How good served answers are, and how far questions have moved from the index."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sample: float = Field(0.0, ge=0, le=1, description="share of the answers that are measured; 0: none")
    coverage: float = Field(
        COVERAGE, gt=0, le=1, description="share of a statement's words that its evidence must hold"
    )
    file: Annotated[Path, AfterValidator(Path.absolute)] | None = Field(
        None, description="of a gateway: a JSON line for each measured answer and each rating; null: none"
    )
    keep_text: bool = Field(False, description="question and answer stand in those lines, too")
    drift_window: int = Field(
        0, ge=0, le=10_000, description="questions that are compared with the index at a time; 0: none"
    )

    @model_validator(mode="after")
    def _has_where_to_keep_it(self) -> Self:
        if self.keep_text and self.file is None:
            raise ValueError("keep_text needs a file to keep it in: set monitor.file")
        return self


class Replicas(BaseModel):
    """Copies of one part of the chain, and what each may use."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    min_replicas: int = Field(1, ge=0)
    max_replicas: int = Field(1, ge=1)
    target_ongoing_requests: float = Field(8, gt=0, description="of a replica; more than that adds replicas")
    max_ongoing_requests: int = Field(32, ge=1, description="of a replica; the rest waits")
    upscale_delay_s: float = Field(10, ge=0)
    downscale_delay_s: float = Field(300, ge=0)
    num_cpus: float = Field(0.5, ge=0, description="that Ray reserves for a replica")
    num_gpus: float = Field(0, ge=0, description="that Ray reserves, also a share of one; 0: it sees none")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min_replicas > self.max_replicas:
            raise ValueError(f"min_replicas {self.min_replicas} > max_replicas {self.max_replicas}")
        return self


class BatchedReplicas(Replicas):
    """Requests that arrive together are worked on together."""

    max_batch_size: int = Field(16, ge=1)
    batch_wait_s: float = Field(
        0.0, ge=0, le=1, description="for more to come; what comes while a batch is worked on is the next one"
    )


class VllmConfig(BaseModel):
    """Replicas of vLLM and what each may use. The model and its number type are the generator's settings."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    device: Literal["auto", "cpu", "gpu"] = Field("auto", description="auto: what the installed vLLM is for")
    accelerator_type: str | None = Field(None, description="a kind of GPU that Ray knows, such as H100")
    num_cpus: float = Field(1, gt=0, description="of a replica; without a GPU, also its threads")
    tensor_parallel_size: int = Field(1, ge=1, description="GPUs of a replica")
    min_replicas: int = Field(1, ge=0)
    max_replicas: int = Field(1, ge=1)
    target_ongoing_requests: float = Field(16, gt=0, description="of a replica; more than that adds replicas")
    max_ongoing_requests: int = Field(32, ge=1, description="answers that a replica writes at a time")
    max_queued_requests: int = Field(64, ge=-1, description="waiting for a replica; beyond it they are shed")
    upscale_delay_s: float = Field(10, ge=0)
    downscale_delay_s: float = Field(300, ge=0)
    gpu_memory_utilization: float = Field(
        0.9, gt=0, le=1, description="of a GPU's memory; vLLM does not start where less of it is free"
    )
    kv_cache_gib: float | None = Field(
        None, gt=0, description="null: 1 without a GPU, else what is left of it"
    )
    picture_cache_gib: float = Field(0.25, ge=0, description="for pictures that come again")
    tokens_per_step: int | None = Field(None, ge=1, description="longer prompts are read in chunks")
    tokens_per_piece: int = Field(4, ge=1, description="of a streamed answer; the first comes alone")
    enforce_eager: bool | None = Field(None, description="compile nothing; null: so without a GPU")
    engine_metrics: bool = Field(False, description="vLLM's own metrics, exported by Ray")
    engine_kwargs: Mapping[str, Any] = Field({}, description="more of vLLM's engine arguments")
    env: Mapping[str, SecretStr] = Field(
        {}, description="environment variables of a replica, such as HF_TOKEN"
    )

    @field_validator("engine_kwargs")
    @classmethod
    def _no_secret(cls, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        if isinstance(arguments.get("hf_token"), str):
            raise ValueError("a token would be printed with the settings: set it as env.HF_TOKEN")
        return arguments

    @model_validator(mode="after")
    def _replicas(self) -> VllmConfig:
        if self.min_replicas > self.max_replicas:
            raise ValueError(f"min_replicas {self.min_replicas} > max_replicas {self.max_replicas}")
        return self


class ServeConfig(BaseModel):
    """Where the server listens, who may ask, and how much."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: str = Field("127.0.0.1", min_length=1, description="the address to listen at; 0.0.0.0: every one")
    port: int = Field(8000, ge=0, le=65535, description="0: any free one")
    http_proxy: Literal["python", "haproxy"] = Field(
        "python",
        description="before the gateways, on a Ray that `mmrag serve` starts; haproxy (Linux) takes some "
        "10 ms less, but hides the callers' addresses; a question beyond 1 MiB it loses with its gateway",
    )
    page: bool = Field(True, description="serve the web page at /")
    cors_origins: tuple[str, ...] = Field((), description="other sites whose pages may ask, as https://host")

    allowed_hosts: tuple[str, ...] = Field(
        (),
        description="names without port that requests may call this server by; empty: any, but at a loopback "
        "address without api_keys only loopback's own",
    )

    api_keys: tuple[ApiKey, ...] = Field((), description="empty: everyone may ask, and sees every tenant")
    rate_per_minute: int = Field(0, ge=0, description="questions of a key or client address; 0: no limit")

    max_body_bytes: int = Field(32 * _MIB, ge=1024, description="of a request")
    max_picture_bytes: int = Field(20 * _MIB, ge=1024, description="of a picture, decoded from its base64")
    max_picture_pixels: int = Field(
        32_000_000, ge=1, description="of a request's picture, as its header declares them"
    )
    max_pictures: int = Field(
        8, ge=1, description="in the messages of a chat; only the last question's is read"
    )
    max_history_turns: int = Field(20, ge=0, description="of a conversation the last ones are read")
    max_question_chars: int = Field(
        8_000, ge=1, description="of a question; of a former turn so many are read"
    )
    max_k: int = Field(100, ge=1, le=1000, description="hits that a request may ask for")
    remote_images: RemoteImages = RemoteImages()

    deadline_s: float = Field(60.0, gt=0, description="for a request; then its work is cancelled: 503")
    max_concurrent: int = Field(32, ge=1, description="requests worked on at once, by one gateway")
    max_queued: int = Field(64, ge=0, description="requests that wait for one of those; more are shed: 503")
    store_patience_s: float = Field(
        30.0,
        ge=0,
        description="that a replica that starts waits for a store to answer; then it fails and is started "
        "again, in a first deploy or an update twice at most",
    )
    retry_after_s: int = Field(1, ge=1, description="what a 503 tells the client to wait")

    log: LogConfig = LogConfig()
    traces: TraceConfig = Field(
        TraceConfig(), description="of `mmrag serve`; `serve deploy` has its own file"
    )

    monitor: MonitorConfig = MonitorConfig()

    layout: Literal["graph", "compact"] = Field(
        "graph",
        description="compact: retriever, query encoder and aligner work inside each gateway instead of in "
        "replicas of their own: fewer hand-offs and processes, for one small machine",
    )
    gateway: Replicas = Field(
        Replicas(max_ongoing_requests=200), description="their limits are each one's own"
    )
    retriever: Replicas = Replicas()
    encoder: BatchedReplicas = BatchedReplicas()
    aligner: BatchedReplicas = Field(
        BatchedReplicas(num_cpus=0.25), description="where search has an aligner"
    )
    vllm: VllmConfig = VllmConfig()
    transformers: Replicas = Field(
        Replicas(num_cpus=1, target_ongoing_requests=2), description="the generator where vLLM does not run"
    )

    @field_validator("allowed_hosts")
    @classmethod
    def _names_only(cls, hosts: tuple[str, ...]) -> tuple[str, ...]:
        for host in hosts:
            if not _HOST.fullmatch(host):
                raise ValueError(f"{host!r} is no host's name without scheme and port; IPv6 is written [::1]")
        return hosts

    @model_validator(mode="after")
    def _callers_can_be_told_apart(self) -> Self:
        if self.http_proxy == "haproxy" and self.rate_per_minute and not self.api_keys:
            raise ValueError("behind haproxy all callers have one address: rate_per_minute needs api_keys")
        return self

    @model_validator(mode="after")
    def _keys_differ(self) -> Self:
        for what, values in (
            ("name", [key.name for key in self.api_keys]),
            ("key", [key.key.get_secret_value() for key in self.api_keys]),
        ):
            if any(count > 1 for count in Counter(values).values()):
                raise ValueError(f"api_keys: two of them have the same {what}")
        return self
