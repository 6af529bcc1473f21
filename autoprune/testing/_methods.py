"""The contracts of importances and methods, tried on a small network that trains for a few steps."""

from __future__ import annotations

import copy
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from autoprune import architectures
from autoprune.config import DataSpec, TrainSpec
from autoprune.cost import Limits
from autoprune.engine.channels import Traced
from autoprune.engine.contracts import Importance, Method, PhasePlan
from autoprune.engine.images import ImageSet, load_splits
from autoprune.engine.tracing import trace
from autoprune.engine.training import ImageFeed, Runtime, Samples, n_steps_of, train
from autoprune.testing._holding import hold
from autoprune.widths import Scores

__all__ = ["check_importance", "check_method"]

_N_IMAGES = 256


@dataclass(frozen=True, eq=False)
class _Example:
    """A network with weights of chance, and handwritten digits to train it on."""

    model: nn.Module
    traced: Traced
    images: ImageSet
    runtime: Runtime

    @property
    def samples(self) -> Samples:
        """A few batches to measure on."""
        return Samples(self.images, self.runtime, _N_IMAGES, seed=0)

    def answers(self, model: nn.Module) -> Tensor:
        """The logits in evaluation mode."""
        images, _ = next(iter(self.samples))
        with torch.no_grad():
            logits: Tensor = model.eval()(images)
        return logits


@cache
def _example() -> _Example:
    with tempfile.TemporaryDirectory() as folder:
        splits = load_splits(DataSpec(source="digits"), folder=Path(folder))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = architectures.build("resnet_digits", n_classes=splits.n_classes, in_channels=splits.train.shape[0])
    runtime = Runtime(torch.device("cpu"), "float32", splits.preprocess)
    images = splits.train.subset(torch.arange(_N_IMAGES))
    traced = trace(model.eval(), torch.zeros(1, *splits.train.shape))
    return _Example(model, traced, images, runtime)


def check_importance(importance: Importance) -> None:
    """Hold an importance against its contract, on a small residual network.

    Args:
        importance: With the hyper-parameters to be tried.

    Raises:
        AssertionError: Something does not hold.
    """
    here = _example()
    model = copy.deepcopy(here.model).eval()
    before = copy.deepcopy(model.state_dict())
    first, again = (importance.score(model, here.traced, batches=here.samples) for _ in range(2))
    _check_scores(first, here.traced)
    same = all(np.array_equal(first[name], again[name]) for name in first)
    hold(same, "the same network and batches must give the same scores")
    _check_unchanged(model, before)


def check_method(method: Method, *, recipe: TrainSpec | None = None, macs_target: float = 0.5) -> None:
    """Hold a method against its contract, on a small residual network that trains for an epoch of a few batches.

    Args:
        method: With the hyper-parameters to be tried.
        recipe: Of the sparsify phase.
        macs_target: Of the trial, for methods that aim at it.

    Raises:
        AssertionError: Something does not hold.
        ConfigError: The method does not go with the recipe.
    """
    here, recipe = _example(), recipe or TrainSpec(epochs=1, batch=64, learning_rate=0.01)
    model = copy.deepcopy(here.model).to(memory_format=torch.channels_last).eval()
    names = set(model.state_dict())
    before = here.answers(model)
    limits = Limits(macs=macs_target * here.traced.cost.dense_macs)
    hooks = method.attach(model, here.traced, plan=PhasePlan(recipe, n_steps_of(recipe, len(here.images)), limits))
    hold(_close(before, here.answers(model), 1e-6), "attaching a method must not change the network's answers")
    if method.trains:
        train(model, ImageFeed(here.images), recipe, runtime=here.runtime, seed=0, hooks=hooks)
    trained = here.answers(model)
    hold(bool(trained.isfinite().all()), "the answers after the sparsify phase must be finite numbers")
    state = {} if hooks.state is None else hooks.state.state_dict()
    if hooks.fold is not None:
        hooks.fold(here.samples)
        hold(_close(trained, here.answers(model), 1e-4), "folding must not change the network's answers")
    hold(set(model.state_dict()) == names, "after folding the network must have its own layers and no others")
    weights = copy.deepcopy(model.state_dict())
    first, again = (method.rank(model.eval(), here.traced, state=state, batches=here.samples) for _ in range(2))
    _check_scores(first, here.traced)
    same = all(np.array_equal(first[name], again[name]) for name in first)
    hold(same, "the same network, state and batches must rank the same")
    _check_unchanged(model, weights)
    hold(method.silence >= 0, "what counts as silent must be >= 0")


def _check_scores(scores: Scores, traced: Traced) -> None:
    widths = {group.name: group.width for group in traced.groups}
    hold(scores.keys() == widths.keys(), "there must be scores for every channel group and for no other")
    for name, score in scores.items():
        hold(score.shape == (widths[name],), f"group {name!r} must have one score for each of {widths[name]} channels")
        hold(bool(np.isfinite(score).all()), f"the scores of group {name!r} must be finite numbers")


def _check_unchanged(model: nn.Module, before: dict[str, Tensor]) -> None:
    same = all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    hold(same and not model.training, "scoring must leave the network as it was, in evaluation mode")


def _close(before: Tensor, after: Tensor, tolerance: float) -> bool:
    return float((before - after).abs().max()) <= tolerance * float(before.abs().max())
