"""How long the library and the command line take to start.

    python benchmarks/start.py [--runs 15]

Whole processes, in turn: Python alone, `import pipelines`, `mmrag --help`. Seconds by the clock, and of the
processor, which other work on the machine hardly changes.
"""

from __future__ import annotations

import argparse
import resource
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
    took: dict[str, list[tuple[float, float]]] = {name: [] for name in COMMANDS}
    for _ in range(runs):
        for name, command in COMMANDS.items():
            before = processor_s()
            clock = seconds(lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL))  # noqa: B023
            took[name].append((clock, processor_s() - before))
    for name, found in took.items():
        clock, processor = map(statistics.median, zip(*found, strict=True))
        print(f"{name}: {clock:.3f} s by the clock, {processor:.3f} s of the processor, medians of {runs}")


def processor_s() -> float:
    """Of all processes that were started here and have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
