"""The fine-tune phase of a trial: its rungs on the way, its end in time, and where another worker takes it up."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from autoprune.config import Progressed, TrialSpec
from autoprune.engine.training import Checkpoint, Pacer
from autoprune.pipeline.progress import Pulse, Reporter
from autoprune.pipeline.steps import Choice, Cut, Parent, finetuning
from autoprune.pipeline.workbench import Workbench

__all__ = ["Tuned", "tune"]


@dataclass(frozen=True)
class Tuned:
    """What the fine-tune phase gave.

    Args:
        rungs: Accuracy at each rung, the last one after the whole phase.
        images: Images seen.
        scoring_s: Seconds of the phase in which accuracy was measured.
    """

    rungs: dict[str, float]
    images: int
    scoring_s: float


class _Rungs:
    """The points of the phase where the network is scored, and what it scored there.

    Args:
        shares: Of the phase, rising; rung 0 is before it.
        score: Scores the network as it is.
        report: Told of each rung, and of the progress between them.
        pulse: Of the phase.
        macs_ratio: Of the network.
    """

    def __init__(
        self,
        shares: tuple[float, ...],
        score: Callable[[], float],
        report: Reporter,
        *,
        pulse: Pulse,
        macs_ratio: float,
    ) -> None:
        self._waiting, self._score, self._report = list(shares), score, report
        self._pulse, self._macs_ratio = pulse, macs_ratio
        self.reached: dict[str, float] = {}
        self.scoring = [0.0]  # Seconds of each time.

    def score(self) -> float:
        """Score the network at the next rung, without a word."""
        start = time.monotonic()
        self.reached[str(len(self.reached))] = found = self._score()
        self.scoring.append(time.monotonic() - start)
        return found

    def reach(self, share: float) -> None:
        """Score the network at a rung, and tell it."""
        rung, (rate, left_s) = len(self.reached), self._pulse.pace(share)
        word = Progressed(phase="finetune", progress=share, rung=rung, score=self.score(), macs_ratio=self._macs_ratio)
        self._report(dataclasses.replace(word, images_per_s=rate, seconds_left=left_s))

    def on_step(self, share: float) -> None:
        """A step has been taken."""
        if self._waiting and self._waiting[0] <= share < 1:
            while self._waiting and self._waiting[0] <= share:
                self._waiting.pop(0)
            self._pulse.count(share)
            self.reach(share)
        else:
            self._pulse(share)

    def told(self) -> dict[str, Any]:
        """What a checkpoint keeps of it."""
        return {"reached": self.reached, "waiting": self._waiting}

    def take_up(self, told: dict[str, Any]) -> None:
        """Go on where a checkpoint was kept; a driver that has not heard of these rungs hears of them now."""
        self.reached, self._waiting = dict(told["reached"]), list(told["waiting"])
        for rung, score in self.reached.items():
            self._report(
                Progressed(phase="finetune", progress=0.0, rung=int(rung), score=score, macs_ratio=self._macs_ratio)
            )


def tune(
    spec: TrialSpec,
    parent: Parent,
    choice: Choice,
    pruned: Cut,
    *,
    workbench: Workbench,
    report: Reporter,
    teacher: Any,
    seed: int,
    deadline: float | None,
    checkpoint: Checkpoint,
) -> Tuned:
    """Fine-tune the pruned network, from where the last worker has kept it, if one has.

    Args:
        spec: The trial.
        parent: What was cut.
        choice: What has stayed.
        pruned: Recalibrated; trained in place.
        workbench: Of the trial's setting.
        report: Given the progress and each rung.
        teacher: Whom the network learns from beside the labels.
        seed: Of the phase.
        deadline: When the phase must be over, by the monotonic clock; None: whenever it is.
        checkpoint: Named by all that the phase depends on.
    """
    if pruned.is_untouched:
        return Tuned({"0": parent.dense.record[workbench.setting.task.metric_name]}, 0, 0.0)
    work, recipe = workbench.work, spec.finetune
    rungs = _Rungs(
        spec.setting.rungs, lambda: work.score(pruned.network), report,
        pulse=Pulse(report, "finetune", images=work.examples_in(1, recipe)), macs_ratio=choice.macs_ratio,
    )  # fmt: skip
    training = finetuning(pruned.network, recipe, workbench=workbench, seed=seed, teacher=teacher)
    told = checkpoint.restore(training)
    if told is None:
        rungs.reach(0.0)
    else:
        rungs.take_up(told)
    pacer = None
    if deadline is not None:
        pacer = Pacer(training, lambda: deadline - time.monotonic() - _saving_s(rungs.scoring[-1]))

    def after_step(share: float) -> None:
        if pacer is not None:
            pacer.look()
        rungs.on_step(share)

    checkpoint.run(training, after_step, told=rungs.told)
    rungs.score()
    return Tuned(rungs.reached, work.examples_in(training.step, recipe), sum(rungs.scoring))


def _saving_s(scoring_s: float) -> float:
    """Seconds to keep for what comes after the fine-tune phase: the last scoring, the file, the last report."""
    return 1.5 * scoring_s + 1.0
