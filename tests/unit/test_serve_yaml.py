"""deploy/serve.yaml is what Ray Serve reads, and names what is there."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

FILE = Path(__file__).parents[2] / "deploy" / "serve.yaml"
# In a process of its own: unit tests do not import Ray.
PROGRAM = (
    "import json, sys, yaml\n"
    "from ray.serve.schema import ServeDeploySchema\n"
    "config = ServeDeploySchema.model_validate(yaml.safe_load(open(sys.argv[1])))\n"
    "print(json.dumps([[app.import_path, app.args] for app in config.applications]))\n"
    "print(config.tracing_config.model_dump_json() if config.tracing_config else 'null')\n"
)


def read(file: Path) -> tuple[list[Any], dict[str, Any] | None]:
    """Its applications and how they are traced."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROGRAM, file], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    applications, tracing = map(json.loads, done.stdout.splitlines()[-2:])
    return applications, tracing


def test_ray_serve_reads_it() -> None:
    from pipelines import cli_serve

    [[import_path, args]], tracing = read(FILE)
    assert tracing is None
    module, _, name = import_path.partition(":")
    assert module == cli_serve.__name__
    assert callable(getattr(cli_serve, name))
    assert set(args) == {"index", "config"}


def test_the_comment_on_traces_is_what_ray_serve_reads(tmp_path: Path) -> None:
    from pipelines.serve import traces

    traced = tmp_path / "serve.yaml"
    traced.write_text(re.sub(r"^# (?=tracing_config:)", "", FILE.read_text(), flags=re.MULTILINE))
    assert read(traced)[1] == {
        "enabled": True, "sampling_ratio": 0.1, "exporter_import_path": traces.OTLP
    }  # fmt: skip
