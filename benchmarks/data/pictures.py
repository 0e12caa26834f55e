"""A folder of 5,730 distinct real pictures: the GIMP manual's (screenshots, photographs) and Noto's emoji.

    python -m benchmarks.data.pictures --out DIR

Needs apt-get and dpkg for the manual (GFDL) and npm for the emoji (Apache-2.0); nothing is committed.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
from pathlib import Path

from .emoji import fetch_emoji
from .gimp import fetch_manual

_SUFFIXES = {".png", ".jpg", ".jpeg", ".gif"}


def build(out: Path) -> Path:
    """Fetch what is missing; returns the folder that holds each distinct picture once."""
    folder = out / "distinct"
    if folder.is_dir():
        return folder
    out.mkdir(parents=True, exist_ok=True)
    fetch_emoji(out)
    roots = [fetch_manual("en", out), out / "pictures" / "google"]
    beside = out / "distinct.part"
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir()
    for path in sorted(p for root in roots for p in root.rglob("*") if p.suffix in _SUFFIXES):
        name = hashlib.sha256(path.read_bytes()).hexdigest()[:20]
        shutil.copyfile(path, beside / f"{name}{path.suffix}")
    beside.rename(folder)
    return folder


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    print(build(parser.parse_args().out))
