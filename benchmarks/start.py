"""How long the library and the command line take to start.

    python benchmarks/start.py [--runs 15]

Whole processes, in turn: Python alone, `import pipelines`, `mmrag --help`.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
from pathlib import Path

from measure import seconds

COMMANDS = {
    "python alone": [sys.executable, "-c", "pass"],
    "import pipelines": [sys.executable, "-c", "import pipelines"],
    "mmrag --help": [str(Path(sys.executable).with_name("mmrag")), "--help"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--runs", type=int, default=15)
    runs = parser.parse_args().runs
    took: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(runs):
        for name, command in COMMANDS.items():
            took[name].append(
                seconds(lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL))  # noqa: B023
            )
    for name, found in took.items():
        print(f"{name}: {statistics.median(found):.3f} s, slowest {max(found):.3f} s of {runs}")


if __name__ == "__main__":
    main()
