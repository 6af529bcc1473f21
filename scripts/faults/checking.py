"""What must hold of a study after all faults: nothing lost, nothing twice, nothing that runs, no wrong front."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import sqlalchemy as sa
import torch

import autoprune
from autoprune.errors import AutopruneError
from autoprune.pipeline import open_workbench
from autoprune.search.invariants import file_violations, row_violations, unsettled
from autoprune.search.storage import Database, StudyHandle, schema
from autoprune.search.trials import StoredTrial
from faults import network
from faults.arena import Arena

__all__ = ["finish", "violations_in"]

_END_S = 600.0
_SCORE_TOLERANCE = 3 / 449  # Of 449 validation images, those that rounding may tip in another batch.


def finish(arena: Arena) -> None:
    """Resume the study to its end, undisturbed, and check it; violations are added to the arena's."""
    for driver in arena.drivers:
        arena.end_driver(driver)
    resumed = arena.start("resume", "chaos", "--trials", str(arena.wanted))
    arena.wait_end(resumed, within_s=_END_S, told="in the last, undisturbed resume")
    said = arena.output(resumed)
    if resumed.returncode != 0 or f"{arena.wanted} of {arena.wanted} trials finished" not in said:
        arena.blame(f"the last resume ended with {resumed.returncode}: {said[-300:]}")
    arena.look()
    shown = arena.start("pareto", "chaos", "--format", "json")
    if shown.wait(120) != 0:
        arena.blame(f"pareto ended with {shown.returncode}: {arena.output(shown)[-300:]}")
        return
    front = [int(row["number"]) for row in json.loads(arena.output(shown))]
    for violation in violations_in(arena.direct_url, n_trials=arena.wanted, front=front):
        arena.blame(violation)


def violations_in(url: str, *, n_trials: int, front: Sequence[int]) -> list[str]:
    """Everything that a finished study in a database must not be.

    Args:
        url: The database.
        n_trials: What was asked for last.
        front: Trials that `autoprune pareto` shows.
    """
    db = Database.open_readonly(url)
    try:
        study = StudyHandle.open(db, "chaos")
        trials = [StoredTrial(trial) for trial in study.trials()]
        rules = [*row_violations(study), *file_violations(study, limits={}, deep=True)]
        rules += unsettled(study, n_trials=n_trials)
        with db.reading() as connection:
            computed = connection.execute(sa.select(schema.phases).where(schema.phases.c.place.is_(None))).all()
    finally:
        db.close()
    found = [*map(str, rules), *_front(trials, front)]
    found += [f"phase {row.key} is still being computed by {row.owner}" for row in computed]
    return [*found, *_networks(url, [trial for trial in trials if trial.number in front])]


def _front(trials: Sequence[StoredTrial], front: Sequence[int]) -> Iterator[str]:
    """By the definition, trial against trial: accuracy is maximised, the cost minimised."""
    points = {trial.number: trial.frozen.values for trial in trials if trial.state.name == "COMPLETE"}
    wanted = [
        number
        for number, (score, cost) in points.items()
        if not any(s >= score and c <= cost and (s, c) != (score, cost) for s, c in points.values())
    ]
    if sorted(wanted) != sorted(front):
        yield f"the front is {sorted(front)} instead of {sorted(wanted)}"


def _networks(url: str, front: Sequence[StoredTrial]) -> Iterator[str]:
    """Each network of the front is there, is the one that was scored, and scores that again."""
    torch.set_num_threads(1)
    sys.modules.setdefault("network", network)  # The name that the study knows it by.
    workbench = open_workbench(autoprune.open_study("chaos", url).config.setting)
    for trial in front:
        try:
            model = autoprune.load_model(Path(str(trial.weights)), factory=network.Net)
        except AutopruneError as error:
            yield f"the network of trial {trial.number} of the front can't be loaded: {error}"
            continue
        score, told = workbench.work.score(workbench.runtime.place(model)), float(trial.frozen.values[0])
        if abs(score - told) > _SCORE_TOLERANCE:
            yield f"the network of trial {trial.number} scores {score:.4f} instead of {told:.4f}"
