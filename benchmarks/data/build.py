"""Write judged data sets from public packages, to ingest and to evaluate on.

    python -m benchmarks.data.build WORK [emoji] [gimp] [mixed] [plates] [easy-vqa] [gcompris]

All of them by default. Each becomes WORK/NAME/ (see judged.py). Archives stay in WORK/downloads. One that is
there is left as it is.
Needs npm for the emoji, pip for easy-VQA, apt-get and dpkg for the GIMP manual and GCompris.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from . import easy_vqa, emoji_across, gcompris, gimp, mixed, plates
from .judged import sizes
from .packages import PackageError

BUILDERS = {
    "emoji": emoji_across,
    "gimp": gimp,
    "mixed": mixed,
    "plates": plates,
    "easy-vqa": easy_vqa,
    "gcompris": gcompris,
}


def build(name: str, work: Path) -> Path:
    """The data set's folder, made if it is not there. Raises PackageError."""
    folder, beside = work / name, work / f"{name}.part"
    if not folder.is_dir():
        shutil.rmtree(beside, ignore_errors=True)
        BUILDERS[name].build(work, beside)
        beside.rename(folder)
    return folder


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(BUILDERS))
    args = parser.parse_args(arguments)
    if unknown := set(args.names) - set(BUILDERS):
        parser.error(f"there is no {', '.join(sorted(unknown))}; there are {', '.join(BUILDERS)}")
    for name in args.names or BUILDERS:
        try:
            folder = build(name, args.work)
        except PackageError as exc:
            sys.exit(str(exc))
        found, one = sizes(folder), BUILDERS[name]
        print(f"{folder}: {one.TASK}, {found['manifest']:,} documents", end="")
        print(f", {found['dev']:,} questions to choose on (dev), {found['test']:,} to report (test)")
        print(f"  licence: {one.LICENCE}")


if __name__ == "__main__":
    main()
