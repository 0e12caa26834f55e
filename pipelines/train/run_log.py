"""The figures of a training run: a JSON line a step, a TensorBoard log, and the loss curve as a picture.

Knows nothing of models or Ray. A run that is taken up again writes the steps that it repeats anew.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tensorboardX import SummaryWriter

from pipelines.core.errors import MissingDependency, install_line
from pipelines.core.files import replace_file
from pipelines.core.job_metrics import Record, unrecorded
from pipelines.train.metrics import FIGURES, STEP

STEPS_FILE = "steps.jsonl"
CURVE_FILE = "loss.png"
PROGRESS_FILE = "progress.json"
_AVERAGED = 50  # steps; the thick line of the curve


class RunLog:
    """Written by one process, the worker of rank 0. `out` is kept from run to run; `steps` are to be done.

    `record`, which knows the label `model`, is told the same.
    """

    def __init__(self, out: Path, first_step: int, steps: int, record: Record = unrecorded) -> None:
        self._out, self._steps, self._record = out, steps, record
        out.mkdir(parents=True, exist_ok=True)
        kept = [record for record in read_steps(out) if record["step"] < first_step]
        path = out / STEPS_FILE
        # A new file in the old one's place: whoever reads it meanwhile sees whole lines only.
        replace_file(path, "".join(json.dumps(record) + "\n" for record in kept))
        self._file = path.open("a", encoding="utf-8")
        self._board = SummaryWriter(str(out / "tensorboard"), purge_step=first_step)

    def write(self, step: int, figures: Mapping[str, float]) -> None:
        """Figures of one step, such as loss or eval_loss."""
        self._file.write(json.dumps({"step": step, **figures}) + "\n")
        self._file.flush()
        for name, value in figures.items():
            self._board.add_scalar(name, value, step)
            self._record(FIGURES[name], value)
        self._record(STEP, step)
        tell(self._out, "training", step, self._steps)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        self._board.close()


def read_steps(out: Path) -> list[dict[str, Any]]:
    """The records of a run so far, oldest first. A last line that is only half written is left out."""
    try:
        lines = (out / STEPS_FILE).read_text("utf-8").split("\n")[:-1]
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in lines]


def tell(out: Path, what: str, done: int, total: int) -> None:
    """Say how far a worker is, to whoever follows the run."""
    replace_file(out / PROGRESS_FILE, json.dumps([what, done, total]))


@contextmanager
def followed(out: Path, progress: Callable[[str, int, int], None]) -> Iterator[None]:
    """Pass on, once a second, what a worker tells from now on."""
    (out / PROGRESS_FILE).unlink(missing_ok=True)
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(1.0):
            with suppress(FileNotFoundError):  # nothing was told yet
                progress(*json.loads((out / PROGRESS_FILE).read_bytes()))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        (out / PROGRESS_FILE).unlink(missing_ok=True)


def require_curve() -> None:
    """Raises MissingDependency where `draw_curve` would, hours later."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as exc:
        raise MissingDependency(f"the loss curve wants matplotlib: {install_line('train')}") from exc


def draw_curve(out: Path, title: str) -> Path:
    """`loss.png`: each step's loss, its mean over the last 50 steps, and the evaluations. Raises
    MissingDependency."""
    require_curve()
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    records = read_steps(out)
    trained = [(record["step"], record["loss"]) for record in records if "loss" in record]
    judged = [(record["step"], record["eval_loss"]) for record in records if "eval_loss" in record]
    figure, axes = pyplot.subplots(figsize=(8, 4.5), dpi=120)
    steps, losses = [step for step, _ in trained], [loss for _, loss in trained]
    axes.plot(steps, losses, color="0.8", linewidth=0.8, label="loss of a step")
    axes.plot(steps, _trailing_means(losses), color="tab:blue", label=f"mean of the last {_AVERAGED}")
    if judged:
        axes.plot(*zip(*judged, strict=True), "o-", color="tab:orange", label="held out")
    axes.set(xlabel="step", ylabel="loss per answer token (nats)", title=title, ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend()
    figure.tight_layout()
    figure.savefig(out / CURVE_FILE)
    pyplot.close(figure)
    return out / CURVE_FILE


def _trailing_means(values: list[float]) -> list[float]:
    starts = [max(0, end - _AVERAGED) for end in range(1, len(values) + 1)]
    return [sum(values[start:end]) / (end - start) for end, start in enumerate(starts, 1)]
