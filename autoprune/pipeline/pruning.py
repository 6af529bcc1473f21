"""One network pruned once, without a study."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from autoprune import methods
from autoprune.config import TrainSpec, seed_of
from autoprune.cost import Limits
from autoprune.engine.asking import Forward, ask, first_input, moved
from autoprune.engine.attention import narrow_attention
from autoprune.engine.channels import Traced
from autoprune.engine.contracts import Method
from autoprune.engine.folding import fold_constants
from autoprune.engine.plain import plain_weights
from autoprune.engine.surgery import cut
from autoprune.engine.tasks import Task, TaskWorkload
from autoprune.engine.tracing import trace
from autoprune.engine.training import Runtime, default_device, train
from autoprune.errors import ConfigError, NetworkError
from autoprune.pipeline.choosing import Ranking
from autoprune.pipeline.heads import trace_for_training
from autoprune.pipeline.task_probing import TaskProbe

__all__ = ["Pruned", "prune"]

_N_SAMPLES = 5_000


@dataclass(frozen=True, eq=False)
class Pruned:
    """A network that was pruned, and what became of it.

    Args:
        network: The smaller network, on the CPU, in evaluation mode.
        kept: By channel group, the channels that stayed.
        dense_widths: By channel group, how many there were.
        macs: MACs for one input; ``dense_macs`` before. flops = 2 * macs.
        dense_macs: See ``macs``.
        params: Parameters; ``dense_params`` before.
        dense_params: See ``params``.
        refused: What can't be pruned, why, and what to do about it.
        score: What the task's metric says of it, where there is a task.
        dense_score: What it says of the network before.
    """

    network: nn.Module
    kept: Mapping[str, list[int]]
    dense_widths: Mapping[str, int]
    macs: int
    dense_macs: int
    params: int
    dense_params: int
    refused: tuple[str, ...]
    score: float | None = None
    dense_score: float | None = None

    @property
    def macs_ratio(self) -> float:
        """Pruned / dense MACs."""
        return self.macs / self.dense_macs

    @property
    def params_ratio(self) -> float:
        """Pruned / dense parameters."""
        return self.params / self.dense_params

    def __str__(self) -> str:
        lines = [
            f"{self.macs:,} of {self.dense_macs:,} MACs ({self.macs_ratio:.3f})",
            f"{self.params:,} of {self.dense_params:,} parameters ({self.params_ratio:.3f})",
        ]
        if self.score is not None and self.dense_score is not None:
            lines.append(f"score {self.score:.4f}, before {self.dense_score:.4f}")
        lines += [f"  {name}: {len(kept)} of {self.dense_widths[name]}" for name, kept in self.kept.items()]
        lines += [f"  not prunable: {refusal}" for refusal in self.refused]
        return "\n".join(lines)


def prune(
    model: nn.Module,
    example_inputs: Any = None,
    *,
    macs_ratio: float = 0.5,
    params: int | None = None,
    task: Task | None = None,
    method: str = "magnitude",
    hyper: Mapping[str, Any] | None = None,
    width_rule: str = "global",
    exclude: Sequence[str] = (),
    min_width: int = 1,
    multiple: int = 1,
    forward: Forward | None = None,
    recipe: TrainSpec | None = None,
    seed: int = 0,
) -> Pruned:
    """Make a network smaller, once and at once.

    Without a task nothing is trained, and its BatchNorm statistics are those of the larger network. With one they are
    estimated anew, and the network is fine-tuned.

    Args:
        model: Left as it is.
        example_inputs: What it is run on: a tensor, a tuple of arguments, or a mapping of arguments by name; a batch of
            one or more. None: those of the task.
        macs_ratio: Most MACs of the pruned network, as a share of the dense one's, in (0, 1].
        params: Most parameters.
        task: What to recalibrate, fine-tune and score on.
        method: What ranks channels, without training: ``"magnitude"``, or with a task ``"damage"`` or ``"taylor"``.
        hyper: Its hyper-parameters.
        width_rule: How widths follow from scores: ``"global"``, ``"uniform"``, ``"aofp"``, ``"per_mac"``, ...
        exclude: Layers and channel groups that stay as they are.
        min_width: Channels that each group keeps at least.
        multiple: Widths become multiples of it.
        forward: ``forward(model, inputs)`` runs the network, where calling it does not; a task has its own.
        recipe: Of the fine-tuning; None: one pass, as goes without saying for the kind of task.
        seed: Of the fine-tuning.

    Raises:
        ConfigError: Arguments that are out of range or don't go together.
        NetworkError: The network can't be traced, or nothing of it can be pruned.
        InfeasibleError: Not even the smallest widths keep the limits.
        DataError: The task's batches, loss or metric are not what they must be.
    """
    ranks_by = _ranking_method(method, hyper or {}, macs_ratio=macs_ratio)
    dense = plain_weights(narrow_attention(copy.deepcopy(model).eval()))
    work = _settled(task, dense, forward=forward)
    example = moved(first_input(_example(example_inputs, work)), torch.device("cpu"))
    traced = _traced(dense, example, work, exclude=exclude, forward=forward or ask)
    least = {group.name: min(group.width, min_width) for group in traced.groups}
    limits = Limits(macs=macs_ratio * traced.cost.dense_macs, params=params, min_widths=least, multiple=multiple)
    return _prune(dense, traced, ranks_by, work, rule=width_rule, limits=limits, recipe=recipe, seed=seed)


def _prune(
    dense: nn.Module,
    traced: Traced,
    ranks_by: Method,
    work: TaskWorkload | None,
    *,
    rule: str,
    limits: Limits,
    recipe: TrainSpec | None,
    seed: int,
) -> Pruned:
    if work is not None:
        work.runtime.place(dense)
    batches = () if work is None else work.samples(_N_SAMPLES, seed=seed_of("rank", seed))
    kept, _ = Ranking("the method", ranks_by, batches).kept(dense, traced, rule=rule, limits=limits)
    small = cut(fold_constants(dense, traced, kept, silence=ranks_by.silence), traced.groups, kept)
    score = dense_score = None
    if work is not None:
        dense_score = work.score(dense)
        work.recalibrate(small, n_examples=_N_SAMPLES, seed=seed_of("recalibrate", seed))
        recipe = recipe or dataclasses.replace(work.kind.recipe, epochs=1.0)
        train(small, work.feed(), recipe, runtime=work.runtime, seed=seed_of("finetune", seed))
        score = work.score(small)
    widths, cost = {name: len(indices) for name, indices in kept.items()}, traced.cost
    return Pruned(
        network=small.cpu().eval(),
        kept={name: indices.tolist() for name, indices in kept.items()},
        dense_widths={group.name: group.width for group in traced.groups},
        macs=int(cost.macs(widths)),
        dense_macs=cost.dense_macs,
        params=int(cost.params(widths)),
        dense_params=cost.dense_params,
        refused=tuple(str(refusal) for refusal in traced.refused),
        score=score,
        dense_score=dense_score,
    )


def _ranking_method(name: str, hyper: Mapping[str, Any], *, macs_ratio: float) -> Method:
    if not 0 < macs_ratio <= 1:
        raise ConfigError(f"`macs_ratio` must be in (0, 1], but got {macs_ratio}. Give a share of the dense MACs.")
    method = methods.build(name, hyper)
    if method.trains:
        raise ConfigError(
            f"`method` must be one that ranks a network as it is, but {name!r} has a phase of training before. Take "
            "'magnitude', 'damage' or 'taylor', or search with `autoprune.search`."
        )
    return method


def _example(given: Any, work: TaskWorkload | None) -> Any:
    if given is not None:
        return given
    if work is None:
        raise ConfigError("`example_inputs` must say what the network is run on, or `task` must, but both are missing.")
    return work.example


def _settled(task: Task | None, dense: nn.Module, *, forward: Forward | None) -> TaskWorkload | None:
    if task is None:
        return None
    if forward is not None:
        raise ConfigError("`forward` is the Task's to say where there is one. Give it to the Task.")
    runtime = Runtime(default_device(), "float32", None)
    return TaskProbe(dense, TaskWorkload(task, runtime), learns=False).settled()


def _traced(
    dense: nn.Module, example: Any, work: TaskWorkload | None, *, exclude: Sequence[str], forward: Forward
) -> Traced:
    if work is None:
        traced = trace(dense, example, exclude=exclude, forward=forward)
    else:
        traced = trace_for_training(dense, example, work.train_once, exclude=exclude, forward=work.forward)
    if not traced.groups:
        first = next((f" ({str(refusal).rstrip('.')})" for refusal in traced.refused), "")
        raise NetworkError(f"the network must have a channel group that can be pruned, but there is none{first}.")
    return traced
