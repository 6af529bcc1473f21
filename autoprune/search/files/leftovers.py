"""Files that nobody will come back for: of failed trials, dead drivers and writers, and phases that are not shared."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa
from optuna.trial import TrialState

from autoprune.search.files.retention import Holding
from autoprune.search.phases import PhasePlace, PhaseRows
from autoprune.search.storage import StudyHandle, schema
from autoprune.search.trials import Attr, is_gone

__all__ = [
    "OLD_S",
    "DriverSigns",
    "driver_signs",
    "own_phases",
    "stale_checkpoints",
    "stray_files",
    "temporary_files",
]

OLD_S = 3600.0  # No write takes an hour, and no driver at work is silent for one.
_OF_A_TRIAL = re.compile(r"(\d+)\.(safetensors|json)(\.[0-9a-f]+\.tmp)?")


def stray_files(files: Iterable[Path], trials: Collection[Holding]) -> list[Path]:
    """Of the files in a folder of networks those of trials that the database doesn't know or that have no result.

    What RUNNING and WAITING trials write is left alone, and so is what a trial names as its network, with its record:
    about that decides ``retention.droppable``.

    Args:
        files: Listed *before* the trials were read: a trial is in the database before it writes anything.
        trials: All trials of the study.
    """
    states = {trial.number: trial.state for trial in trials}
    named = {trial.path for trial in trials if trial.path is not None}
    strays = []
    for file in files:
        match = _OF_A_TRIAL.fullmatch(file.name)
        if match is None or states.get(int(match[1])) in (TrialState.RUNNING, TrialState.WAITING):
            continue
        is_temporary = match[3] is not None
        if is_temporary or str(file.with_name(f"{match[1]}.safetensors")) not in named:
            strays.append(file)
    return strays


def temporary_files(folder: Path) -> list[Path]:
    """Half-written files in a folder that nobody has touched for an hour: their writers died."""
    found = sorted([*folder.glob("*.tmp"), *folder.glob("*.tmp.npy")])
    return [path for path in found if path.is_file() and time.time() - path.stat().st_mtime > OLD_S]


def stale_checkpoints(folder: Path, trials: Collection[Holding]) -> list[Path]:
    """Checkpoints of trainings that nobody goes on with: none is older than a minute while it is trained.

    While a trial waits for another try, it may be the one that goes on with any of them, so that all stay.

    Args:
        folder: Of checkpoints.
        trials: All trials of the study.
    """
    if any(trial.state is TrialState.WAITING for trial in trials):
        return []
    return [path for path in sorted(folder.glob("*.checkpoint")) if time.time() - path.stat().st_mtime > OLD_S]


@dataclass(frozen=True)
class DriverSigns:
    """What the database knows of drivers, those of all its studies.

    Args:
        alive: Names of those that work, as far as one can know.
        ended: Names of those that left or were not seen for an hour.
    """

    alive: frozenset[str]
    ended: frozenset[str]


def driver_signs(study: StudyHandle) -> DriverSigns:
    """Which drivers of the study's database may be alive."""
    table, now = schema.drivers, study.db.now()
    with study.db.reading() as connection:
        rows = connection.execute(sa.select(table.c.owner, table.c.seen_at, table.c.left_at)).all()
    ended = {row.owner for row in rows if row.left_at is not None or now - row.seen_at > OLD_S or is_gone(row.owner)}
    return DriverSigns(frozenset(row.owner for row in rows) - ended, frozenset(ended))


def own_phases(study: StudyHandle, rows: PhaseRows, folders: Collection[Path]) -> Sequence[PhasePlace]:
    """Finished sparsify phases that trials of this study started from, and no trial of another study.

    What trials that run or wait start from is left alone.

    Args:
        study: The study.
        rows: The ledger of its database.
        folders: Where its phases lie; others are not named.
    """
    trials, attributes = schema.optuna_trials, schema.optuna_trial_attributes
    query = (
        sa.select(attributes.c.value_json, trials.c.study_id)
        .join(trials, attributes.c.trial_id == trials.c.trial_id)
        .where(attributes.c.key == Attr.PHASE)
        .distinct()
    )
    with study.db.reading() as connection:
        used = {(json.loads(text), study_id == study.study_id) for text, study_id in connection.execute(query)}
    others, in_use = {key for key, is_ours in used if not is_ours}, rows.in_use()
    ours = {key for key, is_ours in used if is_ours} - others - in_use
    return [
        phase
        for phase in rows.by_last_use()
        if phase.kind == "sparsify" and phase.key in ours and Path(phase.place).parent in folders
    ]
