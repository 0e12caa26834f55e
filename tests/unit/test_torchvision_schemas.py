"""What `make install` puts beside vLLM: torchvision can be imported beside a torch it was not built for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPTS = Path(__file__).parents[2] / "scripts"
# torchvision, as far as it matters here: loads its operators, then describes them to torch.
PACKAGE = """
from torchvision import extension
import torch

@torch.library.register_fake("torchvision::nms")
def nms(dets, scores, iou_threshold):
    return dets
"""
WITHOUT_OPERATORS = "def _has_ops(): return False"
WITH_OPERATORS = """
import torch
torch.library.define("torchvision::nms", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
def _has_ops(): return True
"""
START = "import sys, torchvision_schemas; torchvision_schemas.install(); "


def run(folder: Path, extension: str, code: str) -> subprocess.CompletedProcess[str]:
    package = folder / "torchvision"
    package.mkdir()
    (package / "__init__.py").write_text(PACKAGE, "utf-8")
    (package / "extension.py").write_text(extension, "utf-8")
    path = f"import sys; sys.path[:0] = [{str(folder)!r}, {str(SCRIPTS)!r}]; "
    # -S: no start-up file of the environment's own.
    libraries = f"sys.path += {[entry for entry in sys.path if entry]!r}; "
    return subprocess.run(
        [sys.executable, "-S", "-c", path + libraries + code], capture_output=True, text=True, timeout=120
    )


def test_without_it_torchvision_cannot_be_imported_beside_another_torch(tmp_path: Path) -> None:
    assert "nms does not exist" in run(tmp_path, WITHOUT_OPERATORS, "import torchvision").stderr


def test_missing_operators_get_schemas(tmp_path: Path) -> None:
    code = START + "import torchvision, torch; print(torch.ops.torchvision.nms, torch.ops.torchvision.qnms)"
    done = run(tmp_path, WITHOUT_OPERATORS, code)
    assert done.stdout.strip() == "torchvision.nms torchvision.qnms", done.stderr


def test_a_torchvision_that_fits_is_left_alone(tmp_path: Path) -> None:
    # A second definition of nms would be an error.
    code = START + "import torchvision, torch; print(hasattr(torch.ops.torchvision, 'qnms'))"
    done = run(tmp_path, WITH_OPERATORS, code)
    assert done.stdout.strip() == "False", done.stderr


def test_nothing_heavy_is_imported_at_start(tmp_path: Path) -> None:
    code = "before = set(sys.modules); " + START + "print(sorted(set(sys.modules) - before))"
    assert run(tmp_path, WITHOUT_OPERATORS, code).stdout.strip() == "['torchvision_schemas']"
