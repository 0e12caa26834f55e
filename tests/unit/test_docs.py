"""The documentation: the site builds without a warning, says what there is, and its commands can be read.

What it runs is in tests/ray/test_docs_commands.py.
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from command_lines import check, commands, parsed
from doc_blocks import COMMANDS, DOCS, MARKS, READ, ROOT, Block, blocks, runnable
from pydantic import BaseModel
from typer.main import get_command

import pipelines
from pipelines.cli import app
from pipelines.core.errors import install_line
from pipelines.core.index import IndexConfig, StoresConfig
from pipelines.settings import Settings, load_settings

PAGES = sorted(DOCS.rglob("*.md"))
BESIDE = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "deploy/README.md")]
README, CHINESE = ROOT / "README.md", ROOT / "README.zh.md"
BLOCKS = [block for page in [*PAGES, *BESIDE] for block in blocks(page)]
SHELL = [block for block in BLOCKS if block.language == "sh"]


# The site.


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(out)]
    quiet = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=quiet, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    return out


def test_the_reference_names_all_that_the_code_has(site: Path) -> None:
    page = {file.stem: file.read_text("utf-8") for file in (site / "reference").iterdir()}
    for words in command_names(get_command(app), "mmrag"):
        assert f"<code>{words}</code>" in page["cli"]
    for name in SETTINGS:
        assert f"{name}<" in page["settings"], name
    for name in ("/v1/search", "/v1/answer", "/v1/chat/completions", "/healthz", "mmrag_shed_total"):
        assert name in page["http"]
    for name in pipelines.__all__:
        assert re.search(rf'id="pipelines\.[a-z_.]+\.{name}"', page["python"]), name


def test_a_reader_sees_what_no_test_runs(site: Path) -> None:
    page = (site / "how-to" / "scale-out.html").read_text("utf-8")
    assert "<small>No test runs this: it needs a Milvus and an Elasticsearch.</small>" in page
    assert not re.search(r"<!-- (not run|run by|tested by)", page)


def test_a_reader_is_sent_nowhere_else(site: Path) -> None:
    """Styles, scripts, fonts and pictures come with the site."""
    loaded = r"<(script|img|iframe)[^>]*\ssrc=.?https?:|<link[^>]*rel=.?(stylesheet|preconnect)[^>]*https?:"
    for page in site.rglob("*.html"):
        assert not re.search(loaded, page.read_text("utf-8")), page


# What the words name is there.


def command_names(command: Any, name: str) -> Iterator[str]:
    for word, inner in getattr(command, "commands", {}).items():
        yield f"{name} {word}"
        yield from command_names(inner, f"{name} {word}")


def setting_names(model: type[BaseModel], above: str = "") -> Iterator[str]:
    """Of groups, too."""
    for name, field in model.model_fields.items():
        yield above + name
        for kind in (field.annotation, *getattr(field.annotation, "__args__", ())):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                yield from setting_names(kind, f"{above}{name}.")


SETTINGS = set(setting_names(Settings))
GROUPS = "|".join(Settings.model_fields)


@pytest.mark.parametrize("page", [*PAGES, README, CHINESE], ids=lambda page: str(page.relative_to(ROOT)))
def test_settings_and_variables_that_a_page_names_exist(page: Path) -> None:
    text = page.read_text("utf-8")
    for name in re.findall(rf"`((?:{GROUPS})\.[a-z0-9_.]+)(?=[`=])", text):
        assert name in SETTINGS, name
    for name in re.findall(r"MMRAG_([A-Z0-9_]+)", text):
        known = name.lower().replace("__", ".") in SETTINGS
        assert known or name == "API_KEY" or name.endswith("_"), name


@pytest.mark.parametrize("page", [README, CHINESE, *PAGES], ids=lambda page: str(page.relative_to(ROOT)))
def test_files_that_a_page_links_to_exist(page: Path) -> None:
    """Pages under reference/ are made with the site, whose build checks them."""
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text("utf-8")):
        if not re.match(r"https?:|.*reference/", target):
            assert (page.parent / target).exists(), target


def test_contributing_has_a_place_for_each_part_of_the_package() -> None:
    rows = (ROOT / "CONTRIBUTING.md").read_text("utf-8").split("## Tests")[0]
    parts = {
        path
        for path in (ROOT / "pipelines").iterdir()
        if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    for path in parts - set((ROOT / "pipelines").glob("cli_*.py")):
        assert f"{path.name}{'/' if path.is_dir() else ''}`" in rows, path


# Commands.


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_a_block_is_run_or_says_why_not(block: Block) -> None:
    assert block.language in (*COMMANDS, "yaml", "text"), "a block has a language"
    if block.language in COMMANDS:
        assert block.mark in MARKS or (not block.mark and block.page in PAGES)
    if block.mark in ("run by", "tested by"):
        file, _, test = block.says.partition("::")
        tree = ast.parse((ROOT / file).read_text("utf-8"))
        functions = (ast.FunctionDef, ast.AsyncFunctionDef)
        [found] = [n for n in ast.walk(tree) if isinstance(n, functions) and n.name == test]
        if block.mark == "run by":
            words = {word for command in commands(block.text) for word in command[1:]}
            assert words <= {n.value for n in ast.walk(found) if isinstance(n, ast.Constant)}


def test_every_page_with_a_block_that_is_not_marked_is_read() -> None:
    assert sorted(READ) == [str(page.relative_to(DOCS).with_suffix("")) for page in PAGES if runnable(page)]


@pytest.mark.parametrize("block", SHELL, ids=str)
def test_commands_exist_with_their_options_and_settings(block: Block) -> None:
    read = subprocess.run(["bash", "-n"], input=block.text, capture_output=True, text=True)
    assert read.returncode == 0, read.stderr
    for words in commands(block.text):
        check(words)


@pytest.mark.parametrize(
    "page", [README, CHINESE, DOCS / "how-to" / "evaluate.md"], ids=lambda page: page.name
)
def test_a_judge_of_saved_answers_is_told_whose_pictures_it_sees(page: Path) -> None:
    shell = [words for block in blocks(page) if block.language == "sh" for words in commands(block.text)]
    judging = [words for words in shell if any(word.startswith("evaluate.judge.") for word in words)]
    assert judging
    for words in judging:
        assert "--index" in words or "--answers" not in words


@pytest.mark.parametrize("block", [one for one in BLOCKS if one.language == "python"], ids=str)
def test_python_can_be_read(block: Block) -> None:
    compile(block.text, str(block), "exec")


@pytest.mark.parametrize("block", [one for one in BLOCKS if one.language == "yaml"], ids=str)
def test_yaml_is_settings(block: Block, tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text(block.text, "utf-8")
    load_settings(file)


@pytest.mark.parametrize(
    "wrong",
    [
        "mmrag serch pump",
        "mmrag search --indx kb",
        "mmrag train llava --out run",
        "mmrag ingest x --set ingest.writer=2",
        "mmrag config show --config server --set serve.port=x",
        "make instal",
        "true && mmrag search pump -k many",
        "HF_HOME=models OMP_NUM_THREADS=1 mmrag serch pump",
        "ray exec cluster.yaml 'mmrag ingest corpus --indx kb'",
        "python -m benchmarks.nothing",
    ],
)
def test_a_wrong_command_would_be_found(wrong: str) -> None:
    with pytest.raises((Exception, SystemExit)):  # typer's own, ours, or the assertion
        [check(words) for words in commands(wrong)]


FIGURES = [
    README,
    *sorted((ROOT / "pipelines/models").glob("*/README.md")),
    *(ROOT / f"benchmarks/{name}.md" for name in ("aligner", "joint_encoder", "modalities", "quality")),
]
NO_QUALITY = re.compile(r"benchmarks\.data\.|benchmarks/ingest\.py|-")  # data, speed, `python -c`


@pytest.mark.parametrize("page", FIGURES, ids=lambda page: str(page.relative_to(ROOT)))
def test_make_quality_runs_what_a_page_has_its_figures_of_quality_from(page: Path) -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    recipe = re.search(r"^quality:.*\n((?:\t.*\n)+)", makefile, re.MULTILINE)
    assert recipe
    text = page.read_text("utf-8")
    programs = [
        name for name in re.findall(r"python (?:-m )?([a-z_./-]+)", text) if not NO_QUALITY.match(name)
    ]
    kinds = re.findall(r"--set (train\.aligner\.kind=\w+)", text)
    assert {*programs, *kinds} <= set(recipe[1].split())
    assert programs or page.parent.name != "benchmarks"


def test_an_index_is_moved_to_servers_with_the_models_that_it_has(tmp_path: Path) -> None:
    """Those of a default index: it is refused under any others."""
    found = blocks(DOCS / "how-to" / "scale-out.md")
    [at] = [n for n, block in enumerate(found) if "mmrag import" in block.text]
    [command] = [words for words in commands(found[at].text) if words[1] == "import"]
    assert str(parsed(command[1:])["config"]) == "servers.yaml"
    (tmp_path / "servers.yaml").write_text(found[at - 1].text)
    index = load_settings(tmp_path / "servers.yaml").index
    assert index.stores.milvus
    assert index.stores.elastic
    assert index.model_copy(update={"stores": StoresConfig()}) == IndexConfig()


# The two READMEs.


def test_the_chinese_readme_keeps_step() -> None:
    """The same headings, code, tables and links, in the same order."""
    english, chinese = README.read_text("utf-8"), CHINESE.read_text("utf-8")
    for outline in (r"^(#+) ", r"^(\|)", r"^(- )"):
        assert [*re.findall(outline, english, re.MULTILINE)] == [*re.findall(outline, chinese, re.MULTILINE)]
    assert [code(block) for block in blocks(README)] == [code(block) for block in blocks(CHINESE)]
    links = [re.findall(r"\]\(([^)]+)\)", text) for text in (english, chinese)]
    assert links[0][0] == "README.zh.md"
    assert links[1][0] == "README.md"
    assert sorted(links[0][1:]) == sorted(links[1][1:])


def code(block: Block) -> list[str]:
    """Without comments and the room before them."""
    lines = (re.sub(r"(^|\s+)#.*$", "", line) for line in block.text.splitlines())
    return [line for line in lines if line]


# What a page promises.


FROM_AN_INDEX = re.compile(r"(?:pip install|install ')[^`\n]*?(?<![./\w])mmrag\b")


@pytest.mark.parametrize(
    "page", [README, CHINESE, *BESIDE[1:], *PAGES], ids=lambda page: str(page.relative_to(ROOT))
)
def test_no_page_installs_mmrag_from_a_package_index(page: Path) -> None:
    """It is on none: whoever takes the name there would be installed."""
    assert not FROM_AN_INDEX.search(page.read_text("utf-8"))


def test_no_message_does_either() -> None:
    code = {path: path.read_text("utf-8") for path in (ROOT / "pipelines").rglob("*.py")}
    assert not [path for path, text in code.items() if FROM_AN_INDEX.search(text)]
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    named = {name for text in code.values() for name in re.findall(r"install_line\('(\w+)'\)", text)}
    assert {"elastic", "gpu", "ocr", "train"} <= named <= extras.keys()
    for name in named:
        _, _, _, lock, _, *_ = install_line(name).split()
        assert (ROOT / lock).is_file()
