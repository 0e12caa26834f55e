"""What import-linter cannot see: what an import loads in the end, what the tests import, what is packaged."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

UNIT = Path(__file__).parent
ROOT = UNIT.parents[1]


def loaded_by(statement: str) -> set[str]:
    """The top-level packages that are in memory after `statement`, in a process of its own."""
    program = f"{statement}\nimport sys\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_the_command_line_opens_without_anything_heavy():
    heavy = {
        "ray",
        "torch",
        "transformers",
        "numpy",
        "pyarrow",
        "pymilvus",
        "elasticsearch",
        "tantivy",
        "PIL",
    }
    assert not loaded_by("import pipelines.cli") & heavy


@pytest.mark.parametrize("module", ["core.index", "core.retriever", "ingest.sources"])
def test_a_search_and_a_listing_load_neither_ray_nor_torch(module):
    assert not loaded_by(f"import pipelines.{module}") & {"ray", "torch", "transformers"}


def test_what_is_served_loads_torch_only_where_a_model_of_it_runs():
    assert not loaded_by("import pipelines.serve.app") & {"torch", "transformers"}


@pytest.mark.parametrize(
    "path", sorted(UNIT.rglob("test_*.py")), ids=lambda path: str(path.relative_to(UNIT))
)
def test_unit_tests_do_not_import_ray(path):
    imported = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            imported |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            imported.add(node.module.partition(".")[0])
    assert "ray" not in imported


def test_every_data_file_is_in_the_wheel():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    patterns = project["tool"]["setuptools"]["package-data"]["pipelines"]
    packaged = {path for pattern in patterns for path in (ROOT / "pipelines").glob(pattern)}
    there = {
        path
        for path in (ROOT / "pipelines").rglob("*")
        if path.is_file() and path.suffix != ".py" and "__pycache__" not in path.parts
    }
    assert there <= packaged


def test_opening_a_store_leaves_other_peoples_logging_alone():
    """A MemoryHandler that was closed writes nothing any more, and says nothing of it."""
    statement = (
        "import io, logging, logging.handlers as handlers\n"
        "out = io.StringIO()\n"
        "kept = handlers.MemoryHandler(1, target=logging.StreamHandler(out))\n"
        "logging.getLogger('theirs').addHandler(kept)\n"
        "import pipelines.core.stores.milvus\n"
        "logging.getLogger('theirs').error('heard')\n"
        "assert out.getvalue() == 'heard\\n'"
    )
    assert "pymilvus" in loaded_by(statement)


def test_without_its_extra_elasticsearch_is_said_to_be_missing():
    statement = (
        "import sys\n"
        "sys.modules['elasticsearch'] = None\n"
        "from pipelines.core.errors import MissingDependency, install_line\n"
        "try:\n"
        "    import pipelines.core.stores.elastic\n"
        "except MissingDependency as exc:\n"
        "    assert str(exc) == 'stores.elastic needs: ' + install_line('elastic')\n"
        "else:\n"
        "    raise AssertionError"
    )
    loaded_by(statement)
