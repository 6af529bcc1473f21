"""Which fine-tunings of a front come when: all at once, or in a race as what is known by then asks for."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from optuna.trial import FrozenTrial

from autoprune.api._places import network_path
from autoprune.api._reading import Study
from autoprune.config import SettingSpec, TrialSpec
from autoprune.errors import WeightsError, first_line
from autoprune.pipeline import Link, Workbench
from autoprune.search.front import FEWEST_RACED, EvaluationRows, RacedPair, TestScore, raced, summary
from autoprune.search.trials import Attr, StoredTrial, lineage_of

__all__ = ["Job", "Rounds"]


@dataclass(frozen=True)
class Job:
    """One fine-tuning, as it is sent to a worker."""

    lineage: tuple[Link, ...]  # The trial that is scored comes last.
    seed: int
    fingerprint: str

    @property
    def number(self) -> int:
        return self.lineage[-1].spec.number

    @property
    def setting(self) -> SettingSpec:
        return self.lineage[-1].spec.setting

    @property
    def name(self) -> str:
        return f"trial {self.number}, seed {self.seed}"


class Rounds:
    """The runs that an evaluation asks for, round by round.

    Args:
        study: The study.
        members: Trials whose networks are on the front, by cost.
        workbench: Its network and data.
        seeds: Fine-tunings of each member, in a race the most.
        race: Whether only near-ties get more than the first `FEWEST_RACED`.

    Raises:
        ConfigError: The data has no test split.
        DataError: The test split is not like the training data, or is the same.
    """

    def __init__(
        self, study: Study, members: Sequence[FrozenTrial], workbench: Workbench, *, seeds: int, race: bool
    ) -> None:
        self._study, self._members, self._workbench = study, members, workbench
        self._seeds, self._race = seeds, race
        self._fingerprint = workbench.work.test().fingerprint
        self.n_at_first = min(seeds, FEWEST_RACED) if race else seeds

    def first(self) -> list[Job]:
        """What is not known of the first round.

        Raises:
            WeightsError: The record of a member is missing.
        """
        return self._missing({member.number: self.n_at_first for member in self._members})

    def left(self, jobs: Sequence[Job]) -> list[Job]:
        """Those that are not known yet."""
        known = {(score.number, score.seed) for score in self._scores()}
        return [job for job in jobs if (job.number, job.seed) not in known]

    def next(self) -> list[Job]:
        """After a round one more run of every member that can't be told apart from a neighbour; none: it is over."""
        near = {number for pair in self.outcome() if not pair.told_apart for number in (pair.cheaper, pair.costlier)}
        n_known = Counter(score.number for score in self._scores() if score.number in near)
        return self._missing({number: n + 1 for number, n in n_known.items() if n < self._seeds})

    def outcome(self) -> tuple[RacedPair, ...]:
        """How a race stands after a round; empty where it is none."""
        if not self._race:
            return ()
        scores, order = self._scores(), [member.number for member in self._members]
        known = {number: summary([each.score for each in scores if each.number == number]) for number in order}
        return tuple(raced(order, known))

    def _scores(self) -> list[TestScore]:
        rows = EvaluationRows(self._study.handle.db, self._study.handle.study_id).read()
        return [row for row in rows if row.fingerprint == self._fingerprint]

    def _missing(self, wanted: Mapping[int, int]) -> list[Job]:
        """What is not known of so many seeds by member; seed by seed: all parents are there before the second round."""
        if not wanted:
            return []
        lineages = _lineages(self._study, [trial for trial in self._members if trial.number in wanted], self._workbench)
        jobs = [
            Job(lineage, seed, self._fingerprint)
            for seed in range(max(wanted.values()))
            for number, lineage in lineages.items()
            if seed < wanted[number]
        ]
        return self.left(jobs)


def _lineages(study: Study, members: Sequence[FrozenTrial], workbench: Workbench) -> dict[int, tuple[Link, ...]]:
    """What it takes to make each member's network again, by its number."""
    newest, n_images = workbench.setting, workbench.work.n_examples
    configs, trials = study.configs(), {trial.number: StoredTrial(trial) for trial in study.handle.trials()}

    def link(trial: StoredTrial) -> Link:
        point, own = trial.point, configs[trial.attrs[Attr.REVISION]].setting
        # Recipes are the trial's own; where things lie is known best by the newest revision.
        spec = TrialSpec(
            setting=dataclasses.replace(
                own, network=newest.network, data=newest.data, task=newest.task, artifacts=newest.artifacts
            ),
            study=study.name,
            number=trial.number,
            method=point.method,
            hyper=point.hyper,
            width_rule=point.width_rule,
            macs_target=point.macs_target,
            recipe=point.recipe,
            epochs=None if point.epochs is None else trial.attrs[Attr.IMAGES] / n_images,
        )
        return Link(spec, _kept(study, trial.frozen))

    return {
        member.number: tuple(link(trial) for trial in lineage_of(trials[member.number], trials)) for member in members
    }


def _kept(study: Study, trial: FrozenTrial) -> dict[str, list[int]]:
    """The channels that a trial kept, from the record beside its network, which retention leaves there."""
    try:
        path = network_path(study, trial.user_attrs[Attr.WEIGHTS]).with_suffix(".json")
        record = json.loads(path.read_text())
        is_ours, kept = record["sha256"] == trial.user_attrs[Attr.SHA256], dict(record["kept"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise WeightsError(
            f"the record beside the network of trial {trial.number} must say which channels it kept, but can't be "
            f"read: {first_line(error)}. Put the study's artifacts folder back where it was."
        ) from error
    if not is_ours:
        raise WeightsError(
            f"{path} must be the record of trial {trial.number}, but is that of another one, such as of a study of the "
            "same name in another database. Put the old file back."
        )
    return kept
