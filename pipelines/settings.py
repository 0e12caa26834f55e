"""Every setting: a typed model beside its owner, composed here from defaults, YAML, environment and `--set`.

Later wins: defaults, the YAML file (or a profile's name), `MMRAG_*` variables
(`MMRAG_STORES__MILVUS__TOKEN=...`, meant for secrets), `--set a.b=c`.
"""

from __future__ import annotations

import difflib
import hashlib
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ConfigDict, SecretStr, ValidationError
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    InitSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from pipelines.core.addresses import masked
from pipelines.core.answer import AnswerConfig
from pipelines.core.embedder import EmbedderConfig
from pipelines.core.encoder import EncoderConfig
from pipelines.core.errors import UsageError
from pipelines.core.generator import GeneratorConfig
from pipelines.core.index import IndexConfig
from pipelines.core.retriever import SearchConfig
from pipelines.core.stores.config import StoresConfig
from pipelines.evaluate.config import EvaluateConfig
from pipelines.ingest.config import IngestConfig
from pipelines.serve.config import ServeConfig
from pipelines.train.aligner_config import AlignerTraining
from pipelines.train.encoder_config import EncoderTraining
from pipelines.train.llava_config import LlavaTraining

PROFILES = Path(__file__).parent / "profiles"
_HIDDEN = "***"
# In a problem of PyYAML's: a password may begin with "*", "&" or "!".
_QUOTED_NAME = re.compile(r"\b(alias|anchor|tag|handle)\b.*", re.DOTALL)
_QUOTED = re.compile(r"'[^<:,\]}-][^']*'")  # a character of the file's, and none of YAML's own tokens
# What PyYAML raises for values that are none of their type, or nested too deep, beside errors of its own.
_NO_YAML = (yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError, RecursionError)
_PREFIX = "MMRAG_"
_READ_ELSEWHERE = frozenset({"MMRAG_API_KEY"})  # by `mmrag ask`
# Kubernetes tells a pod of every service of its namespace, and ours are called mmrag-...
_SERVICE_LINK = re.compile(
    r"MMRAG_(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)", re.ASCII
)
_LINKED_ADDRESS = re.compile(r"(tcp|udp|sctp)://")


class TrainConfig(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    aligner: AlignerTraining = AlignerTraining()
    encoder: EncoderTraining = EncoderTraining()
    llava: LlavaTraining = LlavaTraining()


class Settings(BaseSettings):
    """The root of `--set` and of the YAML file."""

    model_config = SettingsConfigDict(
        frozen=True, extra="forbid", env_prefix=_PREFIX, env_nested_delimiter="__"
    )

    encoder: EncoderConfig = EncoderConfig()
    embedder: EmbedderConfig = EmbedderConfig()
    stores: StoresConfig = StoresConfig()
    search: SearchConfig = SearchConfig()
    ingest: IngestConfig = IngestConfig()
    train: TrainConfig = TrainConfig()
    answer: AnswerConfig = AnswerConfig()
    generator: GeneratorConfig = GeneratorConfig()
    serve: ServeConfig = ServeConfig()
    evaluate: EvaluateConfig = EvaluateConfig()

    @property
    def index(self) -> IndexConfig:
        """The part that an index is made of."""
        return IndexConfig(encoder=self.encoder, embedder=self.embedder, stores=self.stores)

    def answers_by(self) -> str:
        """SHA-256 of what decides an answer: two servers with the same give the same. Knows no secret."""
        decides = {"encoder", "embedder", "stores", "search", "answer", "generator"}
        return hashlib.sha256(self.model_dump_json(include=decides).encode()).hexdigest()


def load_settings(config: Path | str | None = None, assignments: Sequence[str] = ()) -> Settings:
    """The effective settings. `config`: a YAML file, or the name of a profile. Raises UsageError, naming each
    setting that is wrong."""
    _refuse_unknown(os.environ)
    from_file = _read_yaml(config)

    class Layered(Settings):
        @classmethod
        def settings_customise_sources(cls, settings_cls: Any, *sources: Any, **named: Any) -> Any:
            return (
                named["init_settings"],
                named["env_settings"],
                InitSettingsSource(settings_cls, init_kwargs=from_file),
            )

    try:
        settings = Layered(**_assigned(assignments))
    except ValidationError as exc:
        problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {_explained(e)}" for e in exc.errors())
        raise UsageError(f"settings: {problems}") from exc
    except SettingsError as exc:
        raise UsageError(f"settings: {_unreadable() or exc}") from exc
    for name, value in flattened(settings.model_dump()).items():
        if isinstance(value, float) and not math.isfinite(value):
            raise UsageError(f"settings: {name}: must be a finite number")
    return settings


def _refuse_unknown(environment: Mapping[str, str]) -> None:
    """Raises UsageError for variables that would set nothing: a server must not stand open for a typo."""
    unknown = [name for name, value in environment.items() if _sets_nothing(name.upper(), value)]
    if unknown:
        told = (f"{name} is no setting: {_meant(name.upper())}" for name in sorted(unknown))
        raise UsageError(f"environment: {'; '.join(told)}")


def _sets_nothing(name: str, value: str) -> bool:
    group = name.removeprefix(_PREFIX).partition("__")[0].lower()
    linked = _SERVICE_LINK.fullmatch(name) or (name.endswith("_PORT") and _LINKED_ADDRESS.match(value))
    known = group in Settings.model_fields or name in _READ_ELSEWHERE
    return name.startswith(_PREFIX) and not known and not linked


def _meant(name: str) -> str:
    variables = {one: re.sub("_+", "_", one) for one in (*_variables(Settings), *_READ_ELSEWHERE)}
    bare = re.sub("_+", "_", name)
    same = [one for one, squeezed in variables.items() if squeezed == bare]
    if near := same or difflib.get_close_matches(name, variables, n=1):
        return f"is {near[0]} meant?"
    return "`mmrag config show` lists them, and MMRAG_ENCODER__KIND is how encoder.kind is written"


def _variables(model: type[BaseModel], above: str = _PREFIX) -> Iterator[str]:
    """Of groups, too."""
    for name, field in model.model_fields.items():
        variable = f"{above}{name.upper()}"
        yield variable
        for kind in (field.annotation, *get_args(field.annotation)):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                yield from _variables(kind, f"{variable}__")


def _unreadable() -> str:
    """The variables whose value is wanted as JSON and is none. Without the values: some are secrets."""
    source, found = EnvSettingsSource(Settings), []
    for name, value in source.env_vars.items():
        source.env_vars = {name: value}
        try:
            source()
        except SettingsError:
            found.append(name.upper())
    told = "; ".join(f"{name} is not valid JSON" for name in found)
    if any("__" not in name for name in found):  # a whole group, such as MMRAG_STORES=x
        told += ". Write one variable a setting, as MMRAG_ENCODER__KIND"
    return told


def origins(config: Path | str | None = None, assignments: Sequence[str] = ()) -> dict[str, str]:
    """By dotted name, where each setting that was set comes from: the file, `environment`, or `--set`."""
    layers = {
        str(config): _read_yaml(config),
        "environment": EnvSettingsSource(Settings)(),
        "--set": _assigned(assignments),
    }
    return {name: layer for layer, tree in layers.items() for name in flattened(tree)}


def flattened(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Values by dotted name."""
    return dict(_flattened(tree))


def _flattened(tree: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from _flattened(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def shown(settings: Settings) -> dict[str, Any]:
    """What may be printed, of JSON's types: `***` stands for each secret, also for a user in an address."""
    body: dict[str, Any] = _plain(settings.model_dump())
    return body


def _plain(value: Any) -> Any:
    match value:
        case SecretStr():
            return _HIDDEN
        case Mapping():
            return {str(key): _plain(inner) for key, inner in value.items()}
        case list() | tuple():
            return [_plain(inner) for inner in value]
        case None | bool() | int() | float():
            return value
        case _:
            return masked(str(value))


def _explained(error: Any) -> str:
    return "no such setting" if error["type"] == "extra_forbidden" else str(error["msg"])


def _read_yaml(config: Path | str | None) -> dict[str, Any]:
    if config is None:
        return {}
    path = _profile(Path(config)) or Path(config)
    try:
        body = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except FileNotFoundError as exc:
        profiles = ", ".join(sorted(file.stem for file in PROFILES.iterdir()))
        raise UsageError(f"--config {path}: there is no such file, and no such profile: {profiles}") from exc
    except (OSError, UnicodeDecodeError) as exc:
        raise UsageError(f"--config {path}: {exc}") from exc
    except _NO_YAML as exc:
        raise UsageError(f"--config {path}: {_broken(exc)}") from exc
    if not isinstance(body, dict):
        raise UsageError(f"--config {path}: wanted settings such as 'encoder: {{kind: lite}}'")
    return body


def _broken(exc: Exception) -> str:
    """What is wrong, and where. Nothing that the file says, as PyYAML would: it may be a password."""
    match exc:
        case yaml.MarkedYAMLError(problem=str(problem), problem_mark=yaml.Mark(line=line, column=column)):
            bare = _QUOTED.sub("…", _QUOTED_NAME.sub(r"\1", problem))
            return f"line {line + 1}, column {column + 1}: {bare}"
        case yaml.reader.ReaderError(position=position, reason=reason):
            return f"character {position + 1}: {reason}"
    return "holds a value that is none of its type, as a date in a 13th month"


def _profile(config: Path) -> Path | None:
    """The packaged file of that name, where no file of the user's has it."""
    packaged = PROFILES / f"{config.name}.yaml"
    is_name = config == Path(config.name) and not config.is_file()
    return packaged if is_name and packaged.is_file() else None


def _assigned(assignments: Sequence[str]) -> dict[str, Any]:
    """`["a.b=1", "a.c=x"]` -> `{"a": {"b": 1, "c": "x"}}`; a value is read as YAML."""
    tree: dict[str, Any] = {}
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        keys = path.strip().split(".")
        if not equals or not all(keys):
            raise UsageError(f"--set {assignment!r}: write it as name.of.setting=value")
        try:
            value = yaml.safe_load(text)
        except _NO_YAML as exc:
            raise UsageError(f"--set {path}: the value is not valid YAML ({_broken(exc)})") from exc
        branch = tree
        for key in keys[:-1]:
            branch = branch.setdefault(key, {})
            if not isinstance(branch, dict):
                raise UsageError(f"--set {assignment!r}: {key} is set to a value already")
        branch[keys[-1]] = value
    return tree
