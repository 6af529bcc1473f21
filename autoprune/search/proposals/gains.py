"""What a trial is expected to add to the front, from what the trials before it have found."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from autoprune.config import ACCURACY, Metric

__all__ = ["ErrorModel", "Member", "error_at", "worth"]

_PRIOR = np.array([0.0, 0.6, 0.3])  # Of a ResNet-20 on CIFAR-10; any other network's trials soon outvote it.
_PRIOR_WEIGHT = np.array([0.0, 1.0, 4.0])  # Squared errors of the logarithm that a squared deviation from it weighs.
_FLOOR = 0.95  # Of the least error known, the dense network's or another's: what none is expected to get below.
_LEAST_EXCESS = 2e-3
_OF_PARENT = 0.5  # Share of what a parent is better than the model says that its child is expected to keep.


@dataclass(frozen=True)
class Member:
    """A finished trial whose network others may start from.

    Args:
        number: Its number.
        macs_ratio: What it costs.
        score: What it reaches.
        images: Images that its lineage has seen in fine-tune phases, those of each ancestor as `worth` counts them.
        depth: Trials before it in its lineage.
        sha256: Hash of its network's file.
    """

    number: int
    macs_ratio: float
    score: float
    images: float
    depth: int
    sha256: str


@dataclass(frozen=True)
class ErrorModel:
    """Expected error of a network: ``floor + exp(a) macs_ratio^-b images^-c``, b and c >= 0, and never above 1.

    What has been cut has learnt less of the images that it saw before than one that saw them as it is: see `worth`.

    Args:
        floor: The error below which no pruned network is expected to get, >= 0.
        coefficients: a, b, c.
        metric: What the error is made of.
    """

    floor: float
    coefficients: tuple[float, float, float]
    metric: Metric = ACCURACY

    @staticmethod
    def fitted(
        members: Sequence[Member],
        *,
        dense_score: float | None = None,
        metric: Metric = ACCURACY,
        least_error: float = math.inf,
    ) -> ErrorModel:
        """The model whose logarithms fit trials best, by least squares with a prior on b and c.

        Args:
            members: Trained networks, at least one.
            dense_score: Of the dense network, where it is known.
            metric: What they are scored by.
            least_error: The least that any network has, where ``members`` are not all of them.
        """
        errors = [metric.error(member.score) for member in members]
        floor = _floor(None if dense_score is None else min(metric.error(dense_score), least_error, *errors))
        rows = np.array([[1.0, -math.log(m.macs_ratio), -math.log(m.images)] for m in members])
        logs = np.array([math.log(max(error - floor, _LEAST_EXCESS)) for error in errors])
        weight = np.diag(_PRIOR_WEIGHT)
        found = np.linalg.lstsq(rows.T @ rows + weight, rows.T @ logs + weight @ _PRIOR, rcond=None)[0]
        a, b, c = found.tolist()
        return ErrorModel(floor, (a, max(b, 0.0), max(c, 0.0)), metric)

    def error(self, macs_ratio: float, images: float) -> float:
        """Expected error in (0, 1]."""
        return min(1.0, self.floor + self._excess(macs_ratio, images))

    def of_child(self, parent: Member | None, *, macs_ratio: float, images: float) -> float:
        """Expected score of a network that is cut from a parent and trained.

        Args:
            parent: None for the dense network.
            macs_ratio: Of the child.
            images: Of the child's own training.
        """
        if parent is None:
            return self.metric.value(self.error(macs_ratio, images))
        better = math.log(self._excess_of(parent) / self._excess(parent.macs_ratio, parent.images))
        seen = worth(parent.images, of=parent.macs_ratio, at=macs_ratio) + images
        excess = self._excess(macs_ratio, seen) * math.exp(_OF_PARENT * better)
        return self.metric.value(min(1.0, self.floor + excess))

    def of_more(self, member: Member, *, images: float) -> float:
        """Expected score of a network that is trained on as it is."""
        _, _, c = self.coefficients
        shrunk = float(((member.images + images) / member.images) ** -c)
        reached = self.metric.worsened(self.metric.value(self.floor), self._excess_of(member) * shrunk)
        return self.metric.best((member.score, reached))

    def _excess(self, macs_ratio: float, images: float) -> float:
        a, b, c = self.coefficients
        return math.exp(a - b * math.log(macs_ratio) - c * math.log(images))

    def _excess_of(self, member: Member) -> float:
        return max(self.metric.error(member.score) - self.floor, _LEAST_EXCESS)


def worth(images: float, *, of: float, at: float) -> float:
    """Images that a network would have to see itself for what it has from a larger one: by the share of MACs left.

    Fits the trials of `studies/tasks/regression.toml` best among powers of that share (squared error of the logarithms
    5.6; 6.6 where inherited images count in full, 5.9 by the square).

    Args:
        images: That the larger one has seen.
        of: MACs ratio of the larger one.
        at: MACs ratio of the smaller one.
    """
    return images * min(at / of, 1.0)


def error_at(n_images: float, *, error: float, trained_on: float, dense_error: float | None = None) -> float:
    """The error that a network would be expected to have after another number of images.

    It lets trials of unlike lengths be compared: what is longer has to be better by as much as length alone brings.

    Args:
        n_images: The number that it is asked for, > 0.
        error: That of what the network reaches.
        trained_on: Images that it has seen, > 0.
        dense_error: Of the dense network, where it is known.
    """
    floor = _floor(dense_error)
    excess = max(error - floor, _LEAST_EXCESS)
    return float(floor + excess * (trained_on / n_images) ** _PRIOR[2])


def _floor(dense_error: float | None) -> float:
    return 0.0 if dense_error is None else _FLOOR * dense_error
