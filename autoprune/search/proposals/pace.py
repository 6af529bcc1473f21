"""How long training takes, from what it took."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from optuna.trial import FrozenTrial, TrialState

from autoprune.search.trials import Attr, StoredTrial

__all__ = ["Pace", "TimeLeft"]

_TRAINING = "finetune"


@dataclass(frozen=True)
class TimeLeft:
    """What remains of a launch that ends at a time.

    Args:
        seconds: Until its end.
        of: Seconds that it had in all.
        workers: Trials at once.
    """

    seconds: float
    of: float
    workers: int


@dataclass(frozen=True)
class Pace:
    """Seconds of training: ``base_s + macs_s * macs_ratio`` an image, and ``overhead_s`` a trial besides.

    Args:
        base_s: Seconds an image that no pruning saves, >= 0.
        macs_s: Seconds an image of the MACs of the dense network, >= 0.
        overhead_s: Seconds of a trial for all but training, >= 0.
    """

    base_s: float
    macs_s: float
    overhead_s: float

    def seconds(self, n_images: float, macs_ratio: float) -> float:
        """How long a trial takes."""
        return self.overhead_s + n_images * (self.base_s + self.macs_s * macs_ratio)

    def n_images(self, seconds: float, macs_ratio: float) -> float:
        """How many images a trial can be trained on; 0 where it has no time for any."""
        return max(0.0, seconds - self.overhead_s) / (self.base_s + self.macs_s * macs_ratio)

    def after(self, history: Sequence[FrozenTrial]) -> Pace:
        """The pace that fits the trials of a history best, by least squares of the relative error.

        This one counts as two more trials, a dense one and one of a quarter of the MACs, so that few trials, or trials
        all alike, change it little.

        Args:
            history: All trials of a study.
        """
        runs, overheads = [], []
        for trial in map(StoredTrial, history):
            seconds, images = trial.attrs.get(Attr.WALL_S) or {}, trial.attrs.get(Attr.IMAGES) or 0
            if trial.state is TrialState.COMPLETE and trial.taken_over_from is None and images:
                runs.append((trial.attrs["macs_ratio"], seconds[_TRAINING] / images))
                overheads.append(sum(s for phase, s in seconds.items() if phase in _OVERHEAD))
        runs += [(ratio, self.base_s + self.macs_s * ratio) for ratio in (1.0, 0.25)]
        ratios, image_s = np.array(runs, dtype=np.float64).T
        rows = np.column_stack([1 / image_s, ratios / image_s])
        (base_s, macs_s), *_ = np.linalg.lstsq(rows, np.ones(len(rows)), rcond=None)
        if base_s < 0 or macs_s < 0:  # One term alone then fits best.
            column = 1 if base_s < 0 else 0
            only = float(rows[:, column].sum() / (rows[:, column] ** 2).sum())
            base_s, macs_s = (0.0, only) if column == 1 else (only, 0.0)
        overhead_s = float(np.median([*overheads, self.overhead_s]))
        return Pace(float(base_s), float(macs_s), overhead_s)


_OVERHEAD = ("surgery", "recalibrate", "latency", "scoring", "save")  # Not what is there for all: teacher, dense.
