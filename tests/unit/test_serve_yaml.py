"""deploy/serve.yaml is what Ray Serve reads, and names what is there."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

FILE = Path(__file__).parents[2] / "deploy" / "serve.yaml"
# In a process of its own: unit tests do not import Ray.
PROGRAM = (
    "import json, sys, yaml\n"
    "from ray.serve.schema import ServeDeploySchema\n"
    "config = ServeDeploySchema.model_validate(yaml.safe_load(open(sys.argv[1])))\n"
    "print(json.dumps([[app.import_path, app.args] for app in config.applications]))\n"
)


def test_ray_serve_reads_it() -> None:
    from pipelines import cli_serve

    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROGRAM, FILE], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    [[import_path, args]] = json.loads(done.stdout.splitlines()[-1])
    module, _, name = import_path.partition(":")
    assert module == cli_serve.__name__
    assert callable(getattr(cli_serve, name))
    assert set(args) == {"index", "config"}
