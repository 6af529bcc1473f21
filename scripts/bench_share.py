"""The share of the workers' time that a study has spent in training, from what its database keeps of each trial.

A study holds as many workers as it ever had trials at once, from the start of its first trial to the end of its last.
Training is what trials say of their dense, sparsify, teacher and fine-tune phases; the rest is scoring, surgery, files,
proposals, and waiting.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from autoprune.api import open_study
from autoprune.search.trials import Attr, StoredTrial

_TRAINING = ("dense", "sparsify", "teacher", "finetune")


@dataclass(frozen=True)
class Timeline:
    """What the workers of a study have done.

    Args:
        n_workers: The most trials at once.
        span_s: From the start of the first trial to the end of the last.
        phases: Seconds by phase, summed over trials.
    """

    n_workers: int
    span_s: float
    phases: Counter[str]

    @property
    def share(self) -> float:
        """Of the workers' time, what went into training."""
        return sum(self.phases[phase] for phase in _TRAINING) / (self.n_workers * self.span_s)

    @property
    def between(self) -> float:
        """Of the workers' time, what no trial tells of: proposals, claims, and waiting."""
        return 1 - self.phases.total() / (self.n_workers * self.span_s)


def timeline_of(trials: Iterable[StoredTrial]) -> Timeline:
    """From the trials that have ended and have computed something, of which there must be one."""
    spans, phases = list[tuple[float, float]](), Counter[str]()
    for trial in trials:
        begin, end = trial.frozen.datetime_start, trial.frozen.datetime_complete
        if begin is not None and end is not None and trial.taken_over_from is None:
            spans.append((begin.timestamp(), end.timestamp()))
            phases.update(trial.attrs.get(Attr.WALL_S) or {})
    span_s = max(end for _, end in spans) - min(begin for begin, _ in spans)
    return Timeline(_most_at_once(spans), span_s, phases)


def _most_at_once(spans: Sequence[tuple[float, float]]) -> int:
    # One that begins when another ends takes its place.
    changes = sorted([(begin, 1) for begin, _ in spans] + [(end, -1) for _, end in spans])
    at_once, most = 0, 0
    for _, change in changes:
        at_once += change
        most = max(most, at_once)
    return most


def main() -> None:
    """Read a study."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["share"])
    parser.add_argument("study", help="its name")
    parser.add_argument("--storage", help="the database's URL")
    args = parser.parse_args()
    with open_study(args.study, args.storage) as study:
        found = timeline_of(map(StoredTrial, study.handle.history()))
    print(f"{found.share:.1%} of {found.n_workers} workers' {found.span_s:.0f} s in training", end="; ")
    told = [f"{name} {seconds / found.n_workers / found.span_s:.1%}" for name, seconds in found.phases.most_common()]
    print(", ".join([*told, f"between trials {found.between:.1%}"]))


if __name__ == "__main__":
    main()
