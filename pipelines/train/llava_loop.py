"""The training step of a LLaVA: micro-batches in, one update of the weights out.

The same gradient comes out however the samples of a step are spread over workers and micro-batches, and a
loop that is loaded with another's state goes on as that one would have. Knows nothing of data, files or Ray;
a worker of a data-parallel job passes its place.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from pipelines.core.errors import MmragError
from pipelines.train.llava_config import LlavaTraining
from pipelines.train.llava_model import IGNORED, Trainable, fill, gathered, training_dtype

Batch = Mapping[str, Any]
"""What TokenLoss takes; `attention_mask` (B, L), 1 where there is a token, which is only counted; optionally
`ids`: the samples' ids, for messages."""

_FIRST_SCALE, _LEAST_SCALE, _GROW_AFTER = 2.0**16, 1.0, 2000
_EMBEDDINGS_OR_HEAD = re.compile(r"embed|lm_head")


@dataclass(frozen=True, slots=True)
class Place:
    """This process's place among the workers of a data-parallel job.

    `wrap` makes a TokenLoss data-parallel: DistributedDataParallel, or `llava_model.shard` over a mesh.
    """

    rank: int = 0
    world: int = 1
    device: str = "cpu"
    wrap: Callable[[nn.Module], nn.Module] = lambda module: module


@dataclass(frozen=True, slots=True)
class StepResult:
    """`step` counts from 1. `loss` is the mean over the step's `labels` (tokens learnt from); `tokens` are
    all tokens read. Both over all workers. `skipped`: float16 gradients overflowed, nothing was updated."""

    step: int
    loss: float
    labels: int
    tokens: int
    grad_norm: float
    learning_rate: float
    skipped: bool = False


@dataclass(frozen=True, slots=True)
class LoopState:
    """What a loop holds beside the weights. The data position and the random state are functions of `step`
    and the seed; the learning rate is one of `step`."""

    step: int
    loss_scale: float
    steady: int
    """Steps since the loss scale last changed."""
    optimizer: dict[str, Tensor]
    """`NAME:exp_avg` and so on, of each weight that learns; on the CPU."""


class Loop:
    """Raises MmragError, naming step and samples, when loss or gradient stop being finite numbers."""

    def __init__(self, trainable: Trainable, config: LlavaTraining, place: Place | None = None) -> None:
        self.trainable = trainable
        self.config = config
        self.place = place or Place()
        self.steps_done = 0
        half = training_dtype(config, self.place.device) == torch.float16
        # float16 gradients below 6e-8 vanish: the loss is scaled up, and the gradients down again.
        self._scale, self._steady = (_FIRST_SCALE if half else 1.0), 0
        self._scaling = half
        self._module = self.place.wrap(trainable.loss)
        self._parameters = trainable.parameters()
        self._optimizers = optimizers(self._parameters, config)

    def step(self, micro_batches: Sequence[Batch]) -> StepResult:
        """One update from this worker's share of the step's samples. All workers call it together, each with
        the same number of micro-batches; these may hold any number of tokens."""
        assert micro_batches
        number = self.steps_done + 1
        labels, tokens = map(int, self._total(*_sizes(micro_batches)).tolist())
        if not labels:
            raise MmragError(f"step {number}: no sample has a token to learn from{self._ids(micro_batches)}")
        rate = learning_rate(self.config, self.steps_done)
        self._zero_grad()
        self._module.train()
        losses = self._backward(micro_batches, labels)
        loss = float(self._total(losses.sum())) / labels
        if not math.isfinite(loss):
            pairs = zip(micro_batches, losses.tolist(), strict=True)
            bad = [batch for batch, one in pairs if not math.isfinite(one)]
            raise MmragError(
                f"step {number}: the loss is {loss}{self._ids(bad)}. Look at these samples, lower "
                "learning_rate, or set dtype to float32; the last checkpoint is as it was"
            )
        norm = self._clip()
        if not math.isfinite(norm) and not self._scaling:
            raise MmragError(
                f"step {number}: the gradient is {norm}{self._ids(micro_batches)}. Lower learning_rate, or "
                "set dtype to float32; the last checkpoint is as it was"
            )
        if math.isfinite(norm):
            for optimizer in self._optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = rate
                optimizer.step()
        self._zero_grad()
        self._rescale(number, overflow=not math.isfinite(norm))
        self.steps_done = number
        return StepResult(number, loss, labels, tokens, norm, rate, skipped=not math.isfinite(norm))

    def evaluate(self, batches: Iterable[Batch]) -> float:
        """The mean loss of a token over all workers' batches; they may have unequal numbers of them."""
        self._module.eval()
        loss, labels = torch.zeros((), dtype=torch.float64), 0
        with torch.no_grad():
            for batch in self._together(batches):
                # Past DistributedDataParallel, whose forward would wait for the other workers.
                loss += float(self.trainable.loss(_to(batch, self.place.device)))
                labels += _sizes([batch])[0]
        total = self._total(loss, labels)
        if not total[1]:
            raise MmragError("the evaluation data has no token with a label")
        return float(total[0] / total[1])

    def state(self) -> LoopState:
        """Collective where the weights are sharded."""
        moments = {
            f"{name}:{key}": gathered(value)
            for name, parameter in self._parameters.items()
            for optimizer in self._optimizers
            for key, value in optimizer.state.get(parameter, {}).items()
        }
        return LoopState(self.steps_done, self._scale, self._steady, moments)

    def load_state(self, state: LoopState) -> None:
        self.steps_done, self._scale, self._steady = state.step, state.loss_scale, state.steady
        names = {parameter: name for name, parameter in self._parameters.items()}
        for optimizer in self._optimizers:
            for parameter in (one for group in optimizer.param_groups for one in group["params"]):
                restored: dict[str, Tensor] = {}
                for key in ("step", "exp_avg", "exp_avg_sq", "momentum_buffer"):
                    if (value := state.optimizer.get(f"{names[parameter]}:{key}")) is None:
                        continue  # another optimizer's, or saved before the first update
                    local = parameter.to_local() if isinstance(parameter, DTensor) else parameter
                    restored[key] = value.to(local.device) if key == "step" else torch.zeros_like(parameter)
                    fill(restored[key], value)
                if restored:
                    optimizer.state[parameter] = restored

    def _zero_grad(self) -> None:
        for optimizer in self._optimizers:
            optimizer.zero_grad(set_to_none=True)

    def _backward(self, micro_batches: Sequence[Batch], labels: int) -> Tensor:
        """Each micro-batch's summed loss. Leaves the gradient of the step's mean loss, scaled."""
        losses = []
        last = len(micro_batches) - 1
        for number, batch in enumerate(micro_batches):
            # Dropout as a function of the micro-batch's place in the step, which no restart and no other
            # spread of the same micro-batches over workers changes.
            place = self.place.rank * len(micro_batches) + number
            torch.manual_seed(micro_seed(self.config.seed, self.steps_done, place))
            with _synchronised(self._module, number == last):
                loss = self._module(_to(batch, self.place.device))
                # The wrapper averages over workers what is to be summed.
                (loss * (self._scale * self.place.world / labels)).backward()
            losses.append(loss.detach().double())
        return torch.stack(losses)

    def _clip(self) -> float:
        """The norm of the whole gradient, before it is clipped in place."""
        learnt = list(self._parameters.values())
        gradients = [parameter.grad for parameter in learnt if parameter.grad is not None]
        if self._scaling:
            torch._foreach_div_(gradients, self._scale)
        norm = get_total_norm(gradients)
        if isinstance(norm, DTensor):
            norm = norm.full_tensor()
        if self.config.clip_norm:
            clip_grads_with_norm_(learnt, self.config.clip_norm, norm)
        return float(norm)

    def _rescale(self, number: int, overflow: bool) -> None:
        if not self._scaling:
            return
        self._steady = 0 if overflow else self._steady + 1
        if overflow:
            self._scale /= 2
        elif self._steady >= _GROW_AFTER:
            self._scale, self._steady = self._scale * 2, 0
        if self._scale < _LEAST_SCALE:
            raise MmragError(f"step {number}: float16 gradients overflow at every scale; use dtype bfloat16")

    def _total(self, *values: Tensor | float) -> Tensor:
        """The sums over all workers, float64, on this worker's device."""
        total = torch.stack([torch.as_tensor(value, dtype=torch.float64).cpu() for value in values])
        total = total.to(self.place.device)
        if self.place.world > 1:
            distributed.all_reduce(total)
        return total

    def _together(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """This worker's batches. Where the weights are sharded a forward pass needs every worker, so one
        that has run out passes batches without labels until none has any left."""
        if not (isinstance(self._module, FSDPModule) and self.place.world > 1):
            yield from batches
            return
        idle = {
            "input_ids": torch.zeros(1, 2, dtype=torch.long),
            "attention_mask": torch.ones(1, 2, dtype=torch.long),
            "labels": torch.full((1, 2), IGNORED),
        }
        mine = iter(batches)
        while True:
            batch = next(mine, None)
            if not self._total(batch is not None)[0]:
                return
            yield batch or idle

    def _ids(self, batches: Sequence[Batch]) -> str:
        """ " (samples a, b)" of all workers, which must call it together."""
        mine = [str(sample) for batch in batches for sample in batch.get("ids", ())]
        everyone = [mine]
        if self.place.world > 1:
            everyone = [mine] * self.place.world
            distributed.all_gather_object(everyone, mine)
        ids = [sample for one in everyone for sample in one]
        return f" (samples {', '.join(ids)})" if ids else ""


def optimizers(parameters: Mapping[str, nn.Parameter], config: LlavaTraining) -> list[torch.optim.Optimizer]:
    """AdamW of everything, or of what Muon (Jordan, kellerjordan.github.io/posts/muon) is not for: it takes
    the matrices of hidden layers, neither embeddings nor head, at AdamW's learning rate (Liu et al.,
    arXiv 2502.16982).
    """
    hidden = {
        name: parameter
        for name, parameter in parameters.items()
        if config.optimizer == "muon" and parameter.ndim == 2 and not _EMBEDDINGS_OR_HEAD.search(name)
    }
    others = [parameter for name, parameter in parameters.items() if name not in hidden]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in others if p.ndim > 1]},
        # Biases and norms: decay would pull them towards doing nothing.
        {"params": [p for p in others if p.ndim < 2], "weight_decay": 0.0},
    ]
    rate, decay = config.learning_rate, config.weight_decay
    found: list[torch.optim.Optimizer] = [torch.optim.AdamW(groups, lr=rate, weight_decay=decay, fused=True)]
    if hidden:
        muon = torch.optim.Muon(
            list(hidden.values()), lr=rate, weight_decay=decay, adjust_lr_fn="match_rms_adamw"
        )
        found.append(muon)
    return found


def learning_rate(config: LlavaTraining, steps_done: int) -> float:
    """Linear warm-up to `learning_rate`, then half a cosine (Loshchilov & Hutter, arXiv 1608.03983) to 0."""
    if steps_done < config.warm_up:
        return config.learning_rate * (steps_done + 1) / config.warm_up
    progress = (steps_done - config.warm_up) / max(1, config.steps - config.warm_up)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def micro_seed(seed: int, step: int, place: int) -> int:
    """The random seed of the micro-batch at `place` in a step's global batch: 63 bits."""
    digest = hashlib.blake2b(f"{seed}/{step}/{place}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def _sizes(batches: Sequence[Batch]) -> tuple[int, int]:
    """(labels, tokens). The first token of a sample is never predicted."""
    for batch in batches:
        mask = batch["attention_mask"]
        assert (mask[:, 1:] <= mask[:, :-1]).all(), "padded on the left: attention would see it"
    labels = sum(int((batch["labels"][:, 1:] != IGNORED).sum()) for batch in batches)
    return labels, sum(int(batch["attention_mask"].sum()) for batch in batches)


def _to(batch: Batch, device: str) -> dict[str, Tensor]:
    return {
        name: value.to(device, non_blocking=True)
        for name, value in batch.items()
        if isinstance(value, Tensor) and name != "attention_mask"
    }


@contextmanager
def _synchronised(module: nn.Module, wanted: bool) -> Iterator[None]:
    """Gradients meet once a step, after the last micro-batch; before it they only add up locally."""
    if isinstance(module, DistributedDataParallel) and not wanted:
        with module.no_sync():
            yield
        return
    if isinstance(module, FSDPModule):
        module.set_requires_gradient_sync(wanted)
    yield
