"""What must hold of a study's rows and files, whoever died when: each function returns what does not.

- `row_violations` may be asked at any moment, while drivers work and after they were killed.
- `file_violations` as well, but under the study's lock where drivers work, since they delete networks that are beaten.
- `phase_violations` is the same for the phases, which all studies of a database share.
- `unsettled` is asked once nobody drives the study any more and it has been resumed to its end.

They read and never write. Nothing of them is a matter of taste: a violation means that autoprune has a fault, or that
somebody else has changed the database or its files. What a killed process leaves and the next one heals, such as a
lease that has run out, a half-written file or a network without its row, is none.
"""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import sqlalchemy as sa
from optuna.trial import TrialState

from autoprune.search import pareto
from autoprune.search.files import Holding, holdings, sha256_beside
from autoprune.search.phases import PhaseRows
from autoprune.search.storage import Database, StudyHandle, schema
from autoprune.search.trials import Attr, StoredTrial

__all__ = ["Kind", "Violation", "file_violations", "phase_violations", "row_violations", "unsettled"]

Kind: TypeAlias = Literal[
    "number", "key", "result", "reason", "lease", "retry", "parent", "taken over", "revision", "evaluation",
    "network", "parent's network", "phase", "unfinished", "left over",
]  # fmt: skip

_ENDED = (TrialState.COMPLETE, TrialState.PRUNED)
_Trials: TypeAlias = Mapping[int, StoredTrial]  # by number


@dataclass(frozen=True)
class Violation:
    """Something that must hold and does not.

    Args:
        kind: Which of the rules is broken.
        text: What is amiss, in one sentence without its full stop.
        number: The trial that it is about, where it is about one.
        path: The file that it is about, where it is about one.
        key: The shared phase that it is about, where it is about one.
    """

    kind: Kind
    text: str
    number: int | None = None
    path: Path | None = None
    key: str | None = None

    def __str__(self) -> str:
        return f"{self.kind}: {self.text}"


# Rows


def row_violations(study: StudyHandle) -> list[Violation]:
    """What is amiss in the rows of a study: trials, leases, revisions, test scores.

    Args:
        study: Opened anew, since a handle that is in use knows trials that have ended from before. It may be read only.
    """
    leases = _leases(study)  # Before the trials: a trial is there before its lease.
    trials = {trial.number: StoredTrial(trial) for trial in study.trials()}
    return [
        *_of_numbers(trials),
        *_of_keys(trials),
        *(found for trial in trials.values() for found in _of_trial(trial, study)),
        *_of_retries(trials),
        *_of_lineages(trials),
        *_of_leases(trials, leases),
        *_of_evaluations(trials, study),
    ]


def _leases(study: StudyHandle) -> dict[int, str]:
    """Owner of each lease of the study by trial id."""
    table = schema.leases
    with study.db.reading() as connection:
        query = sa.select(table.c.trial_id, table.c.owner).where(table.c.study_id == study.study_id)
        return {row.trial_id: row.owner for row in connection.execute(query)}


def _of_numbers(trials: _Trials) -> Iterator[Violation]:
    missing = sorted(set(range(len(trials))) - trials.keys())
    if missing:
        yield Violation("number", f"no trial has number {missing[0]}, though there are later ones", missing[0])


def _of_keys(trials: _Trials) -> Iterator[Violation]:
    by_key = defaultdict(list)
    for trial in trials.values():
        if trial.key is not None and trial.state is not TrialState.FAIL:
            by_key[trial.key].append(trial)
    for alike in by_key.values():
        # A reaper queues the next try before it fails the one that was lost.
        being_retired = {trial.retry_of for trial in alike if trial.state is TrialState.WAITING}
        left = [t for t in alike if t.state is not TrialState.RUNNING or t.number not in being_retired]
        if len(left) > 1:
            first, second = left[:2]
            text = f"trials {first.number} ({first.state.name}) and {second.number} ({second.state.name}) are the same"
            yield Violation("key", text, second.number)


def _of_trial(trial: StoredTrial, study: StudyHandle) -> Iterator[Violation]:
    if trial.key is None:  # another tool has made it
        return
    number = trial.number
    if trial.state is TrialState.COMPLETE:
        values = trial.frozen.values or []
        if len(values) != len(study.objectives) or not all(map(math.isfinite, values)):
            yield Violation("result", f"trial {number} is COMPLETE with the values {values}", number)
        for name, value in zip(study.objectives, values, strict=False):
            # Result and values come from one tell, or two drivers have written to one trial.
            if trial.attrs.get(name, value) != value:
                text = f"the result of trial {number} tells {name} as {trial.attrs[name]!r}, its value is {value!r}"
                yield Violation("result", text, number)
    if trial.state is TrialState.FAIL and not trial.reason:
        yield Violation("reason", f"trial {number} has failed without a reason", number)
    if trial.state in _ENDED and trial.owner is None:
        yield Violation("lease", f"trial {number} has a result, but no driver has claimed it", number)
    if trial.revision is None or not trial.revision >= 1:
        yield Violation("revision", f"trial {number} was claimed under revision {trial.revision}", number)


def _of_retries(trials: _Trials) -> Iterator[Violation]:
    tries: dict[int, int] = {}
    for trial in trials.values():
        if trial.retry_of is None:
            continue
        number, first = trial.number, trials.get(trial.retry_of)
        if trial.retry_of in tries:
            text = f"trial {trial.retry_of} is tried again twice, by {tries[trial.retry_of]} and {number}"
            yield Violation("retry", text, number)
        tries[trial.retry_of] = number
        if first is None or first.number >= number:
            yield Violation(
                "retry", f"trial {number} tries {trial.retry_of} again, which is not there before it", number
            )
        elif first.state not in (TrialState.FAIL, TrialState.RUNNING):
            text = f"trial {number} tries {first.number} again, which is {first.state.name}"
            yield Violation("retry", text, number)
        elif (first.key, first.seed_number, first.given) != (trial.key, trial.seed_number, trial.given):
            yield Violation("retry", f"trial {number} tries {first.number} again, but is another one", number)


def _of_lineages(trials: _Trials) -> Iterator[Violation]:
    for trial in trials.values():
        number = trial.number
        if trial.parent is not None:
            parent = trials.get(trial.parent)
            if parent is None or parent.state is not TrialState.COMPLETE:
                yield Violation("parent", f"trial {number} starts from {trial.parent}, which has no network", number)
            elif trial.attrs.get(Attr.PARENT_SHA256) not in (None, parent.sha256):
                text = f"trial {number} starts from {parent.number}, but from another network than the one it has"
                yield Violation("parent", text, number)
        if trial.started_from is not None:
            origin = trials.get(trial.started_from)
            if origin is None or origin.state is not TrialState.COMPLETE:
                text = f"trial {number} has started from {trial.started_from}, which has no network"
                yield Violation("parent", text, number)
        if trial.taken_over_from is not None:
            source = trials.get(trial.taken_over_from)
            if source is None or source.state is not TrialState.COMPLETE or source.taken_over_from is not None:
                text = f"trial {number} has the result of {trial.taken_over_from}, which has not computed one"
                yield Violation("taken over", text, number)
            elif source.sha256 != trial.sha256 or source.frozen.values != trial.frozen.values:
                yield Violation("taken over", f"trial {number} has another result than {source.number}", number)


def _of_leases(trials: _Trials, leases: Mapping[int, str]) -> Iterator[Violation]:
    known = {trial.frozen._trial_id for trial in trials.values()}
    for trial_id in sorted(leases.keys() - known):
        yield Violation("lease", f"there is a lease of a trial with the id {trial_id}, which is not there")
    for trial in trials.values():
        is_running = trial.state is TrialState.RUNNING and trial.key is not None
        if is_running and trial.frozen._trial_id not in leases and trial.claimed_at is None:
            yield Violation("lease", f"trial {trial.number} is RUNNING, and nobody stands for it", trial.number)


def _of_evaluations(trials: _Trials, study: StudyHandle) -> Iterator[Violation]:
    table = schema.evaluations
    with study.db.reading() as connection:
        if not sa.inspect(connection).has_table(table.name):  # a database of version 1 that is read only
            return
        rows = connection.execute(sa.select(table).where(table.c.study_id == study.study_id)).all()
    for row in rows:
        trial = trials.get(row.trial_number)
        if trial is None or trial.state is not TrialState.COMPLETE:
            text = f"there is a test score of trial {row.trial_number}, which has no network"
            yield Violation("evaluation", text, row.trial_number)
        elif not math.isfinite(row.accuracy):
            yield Violation("evaluation", f"a test score of trial {row.trial_number} is {row.accuracy}", trial.number)


# Files


def file_violations(
    study: StudyHandle, *, limits: Mapping[str, float], folders: tuple[Path, ...] | None = None, deep: bool = False
) -> list[Violation]:
    """What is amiss with the networks of a study: each member of a front has its own, and so has each parent to come.

    Args:
        study: As for `row_violations`. Where drivers work, hold its lock, or networks are missed that have been beaten
            meanwhile.
        limits: Largest value allowed, by the name of an objective or attribute: those of the newest revision.
        folders: Only networks in these folders are looked for; None: wherever they lie.
        deep: Whether to read all of each network, rather than to believe the record beside it.
    """
    held = holdings(study.trials(), study.objectives, limits)
    found = []
    for path, (one, kind) in _needed(held, study.directions).items():
        if folders is not None and path.parent not in folders:
            continue
        wrong = _wrong_with(path, one.sha256, deep=deep)
        if wrong:
            text = f"the network of trial {one.number} {wrong} ({path})"
            found.append(Violation(kind, text, one.number, path))
    return found


def _needed(held: Collection[Holding], directions: Sequence[str]) -> dict[Path, tuple[Holding, Kind]]:
    """The networks that must be there, each with the trial that computed it and what it is needed for.

    This says once more, and more plainly, what `search.files` keeps.
    """
    by_number = {one.number: one for one in held}
    complete = [one for one in held if one.values is not None and len(one.values) == len(directions)]
    needing: list[tuple[Holding | None, Kind]] = []
    for rivals in (complete, [one for one in complete if one.is_feasible]):
        needing += [(one, "network") for one in _front(rivals, directions)]
    unfinished = [one for one in held if one.state in (TrialState.RUNNING, TrialState.WAITING)]
    needing += [(by_number.get(one.parent), "parent's network") for one in unfinished if one.parent is not None]
    needed: dict[Path, tuple[Holding, Kind]] = {}
    for one, kind in needing:
        if one is not None and one.path is not None:
            source = one if one.source is None else by_number.get(one.source, one)
            needed.setdefault(Path(one.path), (source, kind))
    return needed


def _front(trials: Sequence[Holding], directions: Sequence[str]) -> list[Holding]:
    points = np.array([one.values for one in trials], dtype=np.float64).reshape(len(trials), len(directions))
    mask = pareto.front_mask(points, [direction == "minimize" for direction in directions])
    return [one for one, is_on_front in zip(trials, mask, strict=True) if is_on_front]


def phase_violations(db: Database, *, folders: tuple[Path, ...] | None = None, deep: bool = False) -> list[Violation]:
    """What is amiss with the shared phases of a database: each finished one lies where its row says.

    Args:
        db: An open database, read only or not.
        folders: Only phases in these folders are looked for; None: wherever they lie.
        deep: As for `file_violations`.
    """
    found = []
    for phase in PhaseRows(db).by_last_use():
        path = Path(phase.place)
        if folders is not None and path.parent not in folders:
            continue
        wrong = _wrong_with(path, phase.sha256, deep=deep)
        if not wrong and path.stat().st_size != phase.size_bytes:
            wrong = f"has {path.stat().st_size} bytes instead of {phase.size_bytes}"
        if wrong:
            text = f"the {phase.kind} phase {phase.key[:16]} {wrong} ({path})"
            found.append(Violation("phase", text, path=path, key=phase.key))
    return found


def _wrong_with(path: Path, sha256: str | None, *, deep: bool) -> str:
    """What is wrong with a weights file and its record; empty if nothing is."""
    if not path.is_file():
        return "is not there"
    beside = sha256_beside(path)
    if beside is None:
        return "has no record beside it"
    if beside != sha256:
        return "has the record of another one"
    if deep and _sha256_of(path) != sha256:
        return "is damaged"
    return ""


def _sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# At the end


def unsettled(study: StudyHandle, *, n_trials: int) -> list[Violation]:
    """What a study that has been driven to its end, and is driven no more, should not have.

    Args:
        study: As for `row_violations`.
        n_trials: How many trials it was to have; never lowered while it ran.
    """
    leases = _leases(study)
    trials = {trial.number: StoredTrial(trial) for trial in study.trials()}
    found = [
        Violation("left over", f"trial {trial.number} is still {trial.state.name}", trial.number)
        for trial in trials.values()
        if trial.key is not None and not trial.state.is_finished()
    ]
    by_id = {trial.frozen._trial_id: trial.number for trial in trials.values()}
    for trial_id in leases:
        number = by_id.get(trial_id)
        found.append(Violation("left over", f"there is still a lease of trial {number}", number))
    n_finished = sum(trial.state in _ENDED for trial in trials.values())
    if n_finished != n_trials:
        found.append(Violation("unfinished", f"{n_finished} trials have finished instead of {n_trials}"))
    return found
