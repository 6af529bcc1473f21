"""Which networks stay on disk: those of the fronts, and those that unfinished trials may come to share."""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from optuna.trial import FrozenTrial, TrialState

from autoprune.search import pareto
from autoprune.search.storage import StudyHandle
from autoprune.search.trials import StoredTrial

__all__ = [
    "Beaten",
    "Holding",
    "beaten",
    "delete_networks",
    "droppable",
    "holdings",
    "sha256_beside",
    "weights_in",
]

_log = logging.getLogger(__name__)
_UNFINISHED = (TrialState.RUNNING, TrialState.WAITING)


@dataclass(frozen=True)
class Holding:
    """What one trial says about the file of a network.

    Args:
        number: The trial.
        state: Its state.
        values: Its objectives, where it is COMPLETE.
        is_feasible: Whether it keeps the study's constraints.
        path: The weights file of its network, once it has one; a trial that took over a result names the earlier file.
        sha256: Hash of that file.
        source: The trial whose result it took over, if it did.
        parent: The trial whose network it starts from, if it does.
    """

    number: int
    state: TrialState
    values: tuple[float, ...] | None = None
    is_feasible: bool = True
    path: str | None = None
    sha256: str | None = None
    source: int | None = None
    parent: int | None = None


def droppable(trials: Collection[Holding], directions: Sequence[str]) -> dict[str, str]:
    """Weights files that may go, with their hashes: those of COMPLETE trials that none of the following needs.

    A file stays while a trial names it that is on the front of all COMPLETE trials or on that of the feasible ones, or
    that is RUNNING or WAITING or took over its result; equal trials all stay. So does one that a RUNNING or WAITING
    trial starts from. Since COMPLETE trials never change, and whatever is dominated stays dominated, what may go now
    may go for ever, but for one thing: a trial may be claimed to start from it. Who deletes thus holds the lock.

    Args:
        trials: Of one study, all that were there at one moment.
        directions: ``"maximize"`` or ``"minimize"`` for each objective.
    """
    complete = [trial for trial in trials if trial.state is TrialState.COMPLETE]
    points = np.array([trial.values for trial in complete], dtype=np.float64).reshape(len(complete), len(directions))
    feasible = np.array([trial.is_feasible for trial in complete], dtype=np.bool_)
    minimise = [direction == "minimize" for direction in directions]
    on_front = pareto.front_mask(points, minimise)
    on_front[feasible] |= pareto.front_mask(points[feasible], minimise)
    needing = [trial for trial, is_on_front in zip(complete, on_front, strict=True) if is_on_front]
    unfinished = [trial for trial in trials if trial.state in _UNFINISHED]
    needing += unfinished
    sources = {trial.source for trial in needing} | {trial.parent for trial in unfinished}
    kept = {trial.path for trial in needing} | {trial.path for trial in complete if trial.number in sources}
    named = [(trial.path, trial.sha256) for trial in complete]
    return {path: sha256 for path, sha256 in named if path is not None and sha256 is not None and path not in kept}


def holdings(trials: Collection[FrozenTrial], objectives: Sequence[str], limits: Mapping[str, float]) -> list[Holding]:
    """What the trials of a study say about files.

    Args:
        trials: From ``StudyHandle.trials``.
        objectives: Their names, in order.
        limits: Largest value allowed, by the name of an objective or attribute; a trial that lacks one is infeasible.
    """
    values = [tuple(trial.values) if trial.state is TrialState.COMPLETE else None for trial in trials]
    feasible = np.ones(len(trials), dtype=np.bool_)
    for name, limit in limits.items():
        place = objectives.index(name) if name in objectives else None
        pairs = zip(trials, values, strict=True)
        found = [trial.user_attrs.get(name) if place is None else own and own[place] for trial, own in pairs]
        feasible &= pareto.within([[math.nan if cell is None else cell] for cell in found], [limit])
    return [
        Holding(
            number=trial.number,
            state=trial.state,
            values=own,
            is_feasible=bool(is_feasible),
            path=trial.weights,
            sha256=trial.sha256,
            source=trial.taken_over_from,
            parent=trial.parent,
        )
        for trial, own, is_feasible in zip(map(StoredTrial, trials), values, feasible, strict=True)
    ]


@dataclass(frozen=True)
class Beaten:
    """The networks that may go.

    Args:
        paths: Of all of them, by the number of each trial that names one.
        here: The weights files that are on this disk.
        unseen: Paths of those that are not, in folders that are there. They may come to be seen, where a shared folder
            shows late what another machine has written into it.
    """

    paths: Mapping[int, str]
    here: list[Path]
    unseen: frozenset[str]


def beaten(study: StudyHandle, trials: Collection[Holding], folders: Collection[Path]) -> Beaten:
    """The networks that may go.

    A file is left alone where the record beside it is not that of our trial: another database's study of the same name
    has written over it.

    Args:
        study: The study.
        trials: Its ``holdings``.
        folders: Where its networks lie; nothing elsewhere is named.
    """
    may_go = droppable(trials, study.directions)
    complete = (trial for trial in trials if trial.state is TrialState.COMPLETE)
    paths = {trial.number: trial.path for trial in complete if trial.path is not None and trial.path in may_go}
    there = {str(folder) for folder in folders if folder.is_dir()}
    seen = {str(path): path for folder in folders for path in weights_in(folder)}
    here = [path for name, path in seen.items() if name in may_go and sha256_beside(path) == may_go[name]]
    unseen = frozenset(path for path in may_go.keys() - seen.keys() if os.path.dirname(path) in there)
    return Beaten(paths, here, unseen)


def delete_networks(paths: Collection[Path]) -> list[Path]:
    """Delete weights files; the small records beside them stay. Several drivers may do this at once.

    Returns:
        The files deleted; one that can't be is told in a warning and tried again by the next call.
    """
    return [path for path in paths if _unlink(path)]


def weights_in(folder: Path) -> list[Path]:
    """The weights files in a folder by name; none where there is no folder."""
    try:
        with os.scandir(folder) as entries:
            return sorted(Path(entry.path) for entry in entries if entry.name.endswith(".safetensors"))
    except FileNotFoundError:
        return []


def sha256_beside(path: Path) -> str | None:
    """The hash of a weights file as the record beside it tells it; None where there is no such record."""
    try:
        found: str = json.loads(path.with_suffix(".json").read_text())["sha256"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return found


def _unlink(path: Path) -> bool:
    try:
        path.unlink()
    except FileNotFoundError:  # another driver was quicker
        return False
    except OSError as error:
        _log.warning("a network that is no longer needed can't be deleted: %s", error)
        return False
    return True
