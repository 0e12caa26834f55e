"""Fine-tuning that is killed at random steps and taken up again, against a run that nobody disturbed.

    python benchmarks/train_resume.py [--points 5] [--seed 0]

At each point SIGKILL goes to every process of `mmrag train llava` at once, Ray's included, and the same
command is given again. What counts is the largest difference of a step's loss over all steps of the run.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from llava_run import STEPS, command, conversations, losses, train

from benchmarks.processes import below, kill
from pipelines.train.run_log import read_steps


def killed_and_resumed(work: Path, out: Path, step: int) -> tuple[int, int]:
    """The last step that was done when it was killed, and the first one that was done after."""
    process = subprocess.Popen(
        command(work, out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    while not any(record["step"] >= step for record in read_steps(out)):
        if process.poll() is not None:
            raise SystemExit(f"the job ended before step {step}")
        time.sleep(0.02)
    kill([*below(process.pid), psutil.Process(process.pid)])
    process.wait()
    last = max(losses(out))
    summary = train(work, out)
    return last, STEPS - summary["steps_run"] + 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--points", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as folder:
        work = conversations(Path(folder))
        train(work, work / "whole")
        whole = losses(work / "whole")
        for point in range(arguments.points):
            out = work / f"killed-{point}"
            last, first = killed_and_resumed(work, out, rng.randrange(1, STEPS))
            found = losses(out)
            if found.keys() != whole.keys():
                raise SystemExit(f"steps are missing: {sorted(whole.keys() ^ found.keys())}")
            apart = max(abs(found[step] - loss) for step, loss in whole.items())
            where = f"killed after step {last}, taken up at {first}"
            print(f"{where}: losses of {len(found)} steps, at most {apart:.1e} apart", flush=True)


if __name__ == "__main__":
    main()
