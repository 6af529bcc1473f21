"""Files that nobody will come back for: of failed trials, dead drivers and writers, and phases that are not shared."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from optuna.trial import TrialState

from autoprune.search.files.retention import Holding
from autoprune.search.phases import PhasePlace, PhaseRows
from autoprune.search.storage import StudyHandle, schema
from autoprune.search.trials import Attr, is_gone

__all__ = [
    "MAKING",
    "DriverSigns",
    "driver_signs",
    "own_phases",
    "remove_scratch",
    "stale_checkpoints",
    "stale_scratch",
    "stray_files",
    "temporary_files",
]

_OLD_S = 3600.0  # No write takes an hour, and no driver at work is silent for one.
MAKING = ".tune-"  # Before the name of a scratch folder that does not name its driver yet.
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
    return [path for path in found if path.is_file() and time.time() - path.stat().st_mtime > _OLD_S]


def stale_checkpoints(folder: Path, trials: Collection[Holding]) -> list[Path]:
    """Checkpoints of trainings that nobody goes on with: none is older than a minute while it is trained.

    While a trial waits for another try, it may be the one that goes on with any of them, so that all stay.

    Args:
        folder: Of checkpoints.
        trials: All trials of the study.
    """
    if any(trial.state is TrialState.WAITING for trial in trials):
        return []
    return [path for path in sorted(folder.glob("*.checkpoint")) if time.time() - path.stat().st_mtime > _OLD_S]


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
    ended = {row.owner for row in rows if row.left_at is not None or now - row.seen_at > _OLD_S or is_gone(row.owner)}
    return DriverSigns(frozenset(row.owner for row in rows) - ended, frozenset(ended))


def stale_scratch(folder: Path, signs: DriverSigns, *, owner_file: str) -> list[Path]:
    """Scratch folders whose driver is known to have ended.

    Of one that names no driver nothing is left, since `remove_scratch` was cut short, or it is stale when nobody has
    touched anything in it for an hour and no driver is at work.

    Args:
        folder: Where the scratch folders lie.
        signs: Who may be alive.
        owner_file: The file in a scratch folder that names its driver.
    """
    stale = []
    for scratch in sorted((*folder.glob("tune-*"), *folder.glob(f"{MAKING}*"))):
        if scratch.is_symlink() or not scratch.is_dir():
            continue
        try:
            owner = (scratch / owner_file).read_text()
        except OSError:
            owner = ""
        if owner:
            is_stale = owner in signs.ended or is_gone(owner)
        else:
            is_left = not scratch.name.startswith(MAKING) and _is_empty(scratch)
            is_stale = is_left or (not signs.alive and _is_old(scratch))
        if is_stale:
            stale.append(scratch)
    return stale


def remove_scratch(folder: Path, *, owner_file: str) -> None:
    """Delete a scratch folder, the name of its driver last, so that what is left is known for what it is.

    Others may delete it at the same time, or write to it: what they leave is found by the next `clean`.

    Raises:
        OSError: Something can't be deleted.
    """
    with contextlib.suppress(FileNotFoundError):
        for path in folder.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, onerror=_unless_missing)
            elif path.name != owner_file:
                path.unlink(missing_ok=True)
        (folder / owner_file).unlink(missing_ok=True)
        folder.rmdir()


def _unless_missing(function: object, path: str, info: tuple[Any, BaseException, Any]) -> None:
    if not isinstance(info[1], FileNotFoundError):
        raise info[1]


def _is_empty(folder: Path) -> bool:
    try:
        return next(folder.iterdir(), None) is None
    except OSError:
        return False


def _is_old(folder: Path) -> bool:
    newest = max(path.lstat().st_mtime for path in [folder, *folder.rglob("*")])
    return time.time() - newest > _OLD_S


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
