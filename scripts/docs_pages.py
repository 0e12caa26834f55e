"""What the documentation site holds beside docs/: pages made from the code, and files of the repository.

A hook of mkdocs. The commands come from typer's own generator, settings and HTTP bodies from their JSON
schemas, the Python API by mkdocstrings. Nothing of it is kept in git.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
TAKEN_IN = (
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "LICENSE",
    "THIRD_PARTY.md",
    "cluster.yaml",
    "benchmarks/**/*.md",
    "benchmarks/**/*.py",
    "benchmarks/**/*.yaml",
    "deploy/**/*",
    "examples/*.py",
    "requirements/*.txt",
    "pipelines/models/*/README.md",
    "pipelines/profiles/*.yaml",
)
"""They keep their places relative to each other, under repository/."""

Schema = Mapping[str, Any]
_MARK = re.compile(r"^<!-- (not run|run by|tested by): (.+) -->$", re.MULTILINE)
_SEEN = {
    "not run": "No test runs this: {}.",
    "run by": "Run by `{}`.",
    "tested by": "`{}` does the same on data of its own.",
}
_REQUIRED = object()
_BOUNDS = {"exclusiveMinimum": ">", "minimum": "≥", "exclusiveMaximum": "<", "maximum": "≤"}
_HUGE = 2**32


def on_files(files: Files, config: MkDocsConfig) -> Files:
    pages = {"cli": cli_page, "settings": settings_page, "http": http_page, "python": python_page}
    for name, page in pages.items():
        files.append(File.generated(config, f"reference/{name}.md", content=page()))
    for file in sorted({file for pattern in TAKEN_IN for file in ROOT.glob(pattern) if file.is_file()}):
        if not file.name.startswith("."):
            where = f"repository/{file.relative_to(ROOT).as_posix()}"
            files.append(File.generated(config, where, abs_src_path=str(file)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """A link out of docs/ leads to what was taken in, and the mark above a block of commands can be read."""
    up = "../" * page.file.src_uri.count("/")
    markdown = markdown.replace(f"]({up}../", f"]({up}repository/")
    return _MARK.sub(lambda mark: f"<small>{_SEEN[mark[1]].format(mark[2])}</small>\n", markdown)


def cli_page() -> str:
    from typer import Context
    from typer.cli import get_docs_for_click
    from typer.main import get_command

    from pipelines.cli import app

    command = get_command(app)
    context = Context(command, info_name="mmrag")
    return get_docs_for_click(obj=command, ctx=context, name="mmrag", title="Commands")


def settings_page() -> str:
    from pipelines.settings import Settings

    schema = Settings.model_json_schema()
    head = [
        "# Settings",
        "",
        "Later wins: defaults, the file of `--config` (or a profile's name), `MMRAG_` variables with `__`",
        "between the parts of a name (`MMRAG_STORES__MILVUS__TOKEN`), `--set name=value`.",
        "`mmrag config show` prints those in force.",
    ]
    return "\n".join([*head, *_groups("", schema, {}, schema.get("$defs", {}))]) + "\n"


def _groups(name: str, group: Schema, default: Any, models: Schema) -> Iterator[str]:
    """A section for each group of settings: the single ones in a table, the groups within it after it."""
    single, groups = [], []
    for key, field in group["properties"].items():
        told, value = field.get("description", ""), field.get("default", _REQUIRED)
        if isinstance(default, Mapping):
            value = default.get(key, value)
        if model := _model(field, models):
            kind = "" if value else "By default there is none. "
            kind = "A list. " if field.get("type") == "array" else kind
            about = f"{kind}{model.get('description', '')}{_sentence(told)}"
            groups.append((key, {**model, "description": about}, value))
        else:
            single.append((f"`{name}.{key}`", _type(field, models), _code(value), told))
    if name:
        yield from ("", f"## {name}", "", *_paragraph(group.get("description", "")))
        yield from _table(("setting", "type", "default", ""), single)
    for key, model, value in groups:
        yield from _groups(f"{name}.{key}".lstrip("."), model, value, models)


def http_page() -> str:
    from pipelines.serve.backend import Backend
    from pipelines.serve.config import ServeConfig
    from pipelines.serve.gateway import create_app

    # The document does not depend on what answers.
    document = create_app(cast(Backend, None), ServeConfig()).openapi()
    lines = [
        "# HTTP",
        "",
        "What `mmrag serve` answers; its own `/openapi.json` has all of it. With `serve.api_keys` set,",
        '`/v1/` wants `Authorization: Bearer KEY`. An error is `{"error": {"message", "type"}}`.',
    ]
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            lines += ["", f"## {method.upper()} {path}", "", *_paragraph(operation.get("description", ""))]
            lines += _table(("status", "body", ""), _responses(operation))
            if body := operation.get("requestBody"):
                [content] = body["content"].values()
                lines += ["", f"Body: {_type(content['schema'], {})}."]
    lines += ["", "## Bodies"]
    for name, schema in document["components"]["schemas"].items():
        lines += ["", f"### {name}", "", *_paragraph(schema.get("description", ""))]
        lines += _table(("field", "type", "default", ""), _fields(schema))
    told = "In Prometheus' text form. With several gateways each sample has its `replica`."
    lines += ["", "## Metrics", "", told, ""]
    lines += _table(("metric", "kind", ""), _metrics())
    return "\n".join(lines) + "\n"


def _fields(schema: Schema) -> Iterator[tuple[str, ...]]:
    required = schema.get("required", ())
    for key, field in schema.get("properties", {}).items():
        value = _REQUIRED if key in required else field.get("default")
        yield f"`{key}`", _type(field, {}), _code(value), field.get("description", "")


def _metrics() -> Iterator[tuple[str, ...]]:
    from pipelines.serve.metrics import Metrics, cache_lookups, drift, ingested
    from pipelines.serve.protection import Admission

    others = [cache_lookups(0, 0), ingested(0), *drift({}, {})]
    for family in [*Metrics(Admission(1, 1, 1)).families(), *others]:
        suffix = "_total" if family.type == "counter" else ""
        yield f"`{family.name}{suffix}`", family.type, family.documentation


def _responses(operation: Schema) -> Iterator[tuple[str, ...]]:
    for status, response in operation["responses"].items():
        bodies = (
            _type(content["schema"], {}) if "json" in kind else f"`{kind}`"
            for kind, content in response.get("content", {}).items()
        )
        yield status, " or ".join(bodies), response["description"]


def python_page() -> str:
    import pipelines

    head = [
        "# Python",
        "",
        "`from pipelines import ...`. These names stay within a minor version; everything else may change.",
    ]
    names = ((module, name) for module, names in pipelines._MODULES.items() for name in names)
    order = sorted(names, key=lambda pair: (pair[1] != "KnowledgeBase", pair[1].lower()))
    # A settings model's fields are on the settings' page.
    bare = {"Settings", "AlignerTraining", "EncoderTraining", "LlavaTraining", "LoraSettings"}
    for module, name in order:
        head += ["", f"::: pipelines.{module}.{name}"]
        if name in bare:
            head += ["    options:", "      members: false"]
    return "\n".join(head) + "\n"


# Of JSON schemas, as pydantic writes them.


def _model(field: Schema, models: Schema) -> Schema | None:
    """The model that a field is, may be, or lists."""
    for one in (field, *field.get("anyOf", ()), field.get("items", {})):
        found = models.get(str(one.get("$ref", "")).rpartition("/")[2])
        if found and "properties" in found:
            return cast(Schema, found)
    return None


def _type(field: Schema, models: Schema) -> str:
    if "$ref" in field:
        name = field["$ref"].rpartition("/")[2]
        found = models.get(name, {})
        return _type(found, models) if found and "properties" not in found else f"[{name}](#{name.lower()})"
    if "anyOf" in field:
        return " or ".join(dict.fromkeys(_type(one, models) for one in field["anyOf"]))
    if "enum" in field or "const" in field:
        return " or ".join(f"`{value}`" for value in field.get("enum", [field.get("const")]))
    kind = {"array": "list", "object": "map"}.get(field.get("type", ""), field.get("type", ""))
    if field.get("format") == "password":
        kind = "secret"
    if kind == "list" and "items" in field:
        kind = f"list of {_type(field['items'], models)}"
    bounds = [f"{sign} {field[key]:g}" for key, sign in _BOUNDS.items() if field.get(key, _HUGE) < _HUGE]
    return f"{kind} {', '.join(bounds)}".strip()


def _code(value: Any) -> str:
    return "required" if value is _REQUIRED else f"`{json.dumps(value, ensure_ascii=False)}`"


def _sentence(text: str) -> str:
    return f"\n\n{text[:1].upper()}{text[1:]}." if text else ""


def _paragraph(text: str) -> Iterator[str]:
    if text:
        yield from (text, "")


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    for number, row in enumerate(rows):
        if not number:
            yield f"| {' | '.join(head)} |"
            yield "|---" * len(head) + "|"
        yield f"| {' | '.join(' '.join(cell.split()).replace('|', chr(92) + '|') for cell in row)} |"
