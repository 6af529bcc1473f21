"""Images whose batches several processes share."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from autoprune.config import TrainSpec
from autoprune.engine.training.feeds import Feed, ImageFeed, Reader
from autoprune.engine.training.runtime import Runtime
from autoprune.engine.training.teams import Team, Work, team_of

__all__ = ["SharedFeed"]


class SharedFeed(Feed):
    """Another feed, whose batches are trained on by a team: what is drawn and seen is what one process would see.

    Args:
        feed: The batches.
        processes: How many share each of them, >= 2.
        is_synchronised: Whether BatchNorm goes over the whole batch, rather than over each share.
    """

    def __init__(self, feed: ImageFeed, *, processes: int, is_synchronised: bool) -> None:
        self._feed, self._processes, self._is_synchronised = feed, processes, is_synchronised
        self._team: Team | None = None
        self._work: Work | None = None

    def steps_a_pass(self, spec: TrainSpec) -> int:
        """The other feed's."""
        return self._feed.steps_a_pass(spec)

    def n_steps(self, spec: TrainSpec) -> int:
        """The other feed's."""
        return self._feed.n_steps(spec)

    def open(self, spec: TrainSpec, n_steps: int, *, generator: torch.Generator) -> Reader:
        """The other feed's batches, whole."""
        return self._feed.open(spec, n_steps, generator=generator)

    def loss(
        self, model: nn.Module, batch: Any, spec: TrainSpec, *, runtime: Runtime, turn: int, generator: torch.Generator
    ) -> Tensor:
        """The loss on this process's share, times its part of the batch."""
        if self._work is None or self._work.model is not model:
            self._work = Work(model, runtime, self._feed.distill, spec.label_smoothing, self._is_synchronised)
        self._team = team_of(self._processes, runtime.device)
        shown = self._feed.show(batch, spec, runtime=runtime, turn=turn, generator=generator)
        return self._team.loss(self._work, shown)

    def backward(self, loss: Tensor, scaler: torch.amp.GradScaler) -> None:
        """Add the gradients of all shares."""
        assert self._team is not None
        self._team.backward(loss, scaler)
