"""What is amiss with a study's rows and files, and what of it can be mended."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from optuna.trial import TrialState

from autoprune.api._cleaning import clean
from autoprune.api._places import network_folders
from autoprune.api._reading import Study, storage_url
from autoprune.config import StudyConfig
from autoprune.errors import StorageError
from autoprune.search.front import EvaluationRows
from autoprune.search.invariants import Violation, file_violations, phase_violations, row_violations
from autoprune.search.phases import PhasePlace, PhaseRows, discard
from autoprune.search.storage import Database, StudyHandle, schema
from autoprune.search.trials import Lifecycle, drop_unknown_leases, expire_dead_leases, new_owner, orphans

__all__ = ["Complaint", "doctor"]


@dataclass(frozen=True)
class Complaint:
    """Something that is amiss.

    Args:
        kind: Which rule is broken; see `search.invariants.Kind`, and ``"schema"``, ``"file"``, ``"driver"``.
        text: What is amiss, in one sentence without its full stop.
        remedy: What mending does, or what people can do.
        trial: The trial that it is about, where it is about one.
        path: The file that it is about, where it is about one.
        can_mend: Whether `doctor` can mend it.
        mended: Whether it has.
    """

    kind: str
    text: str
    remedy: str
    trial: int | None = None
    path: str | None = None
    can_mend: bool = False
    mended: bool = False


@dataclass(frozen=True)
class _Finding:
    """A complaint, and what mends it with the database open for writing and the study locked; None: nothing does."""

    complaint: Complaint
    mend: Callable[[StudyHandle], object] | None = None


def doctor(name: str, *, mend: bool = False, storage: str | None = None) -> list[Complaint]:
    """Hold a study's rows and files against all that must hold of them; each file is read to its end.

    May be asked at any time, while drivers work and after they were killed. Only what nobody works with is mended:
    leases that have run out, rows of what is not there, shared phases that are gone or damaged, files that nobody will
    come back for, and tables of an older version.

    Args:
        name: The study.
        mend: Whether to mend what can be.
        storage: Database URL; see `storage_url`.

    Returns:
        What was found amiss, before anything was mended.

    Raises:
        StorageError: The database or the study is not there, or the file is damaged beyond reading.
    """
    url = storage_url(storage)
    found = _found(name, url)
    if not (mend and any(one.mend for one in found)):
        return [one.complaint for one in found]
    _mend(found, name, url)
    left = {one.complaint.text for one in _found(name, url)}  # Mended is what is no longer found.
    return [dataclasses.replace(one.complaint, mended=one.complaint.text not in left) for one in found]


def _found(name: str, url: str) -> list[_Finding]:
    db = Database.open_readonly(url)
    try:
        return [*_of_file(db)] or _look(db, Study(db, StudyHandle.open(db, name)), url)
    finally:
        db.close()


def _look(db: Database, study: Study, url: str) -> list[_Finding]:
    configs = study.configs()
    newest, networks = configs[max(configs)], network_folders(study)
    phases = tuple(folder.parents[1] / "phases" for folder in networks)
    limits = newest.constraints.limits
    of_networks = [
        *map(_of_network, file_violations(study.handle, limits=limits, folders=networks, deep=True)),
        *_of_places(study.handle, networks),
    ]
    return [
        *_of_tables(db),
        *map(_of_row, row_violations(study.handle)),
        *_of_leases(study.handle, newest),
        *_of_ends(study.handle, configs),
        *of_networks,
        *map(_of_phase, phase_violations(db, folders=phases, deep=True)),
        *_of_orphans(study.name, url, is_clear=not of_networks),
    ]


def _of_file(db: Database) -> Iterator[_Finding]:
    if wrong := db.damage():  # Then nothing that is read from it means anything.
        text = f"the database file is damaged: {wrong}"
        yield _Finding(Complaint("database", text, "put a copy of it back, or recover it: sqlite3 FILE .recover"))


def _of_tables(db: Database) -> Iterator[_Finding]:
    if (version := db.version()) < schema.SCHEMA_VERSION:
        text = f"the tables are of version {version}, this autoprune's of {schema.SCHEMA_VERSION}"
        complaint = Complaint("schema", text, "bring them to this version, as the next launch does", can_mend=True)
        yield _Finding(complaint, lambda study: None)  # To open the database for writing is enough.


def _of_row(found: Violation) -> _Finding:
    if found.kind == "evaluation" and found.number is not None:
        number = found.number
        return _finding(
            found, "forget that score", lambda study: EvaluationRows(study.db, study.study_id).forget(number)
        )
    if found.kind == "lease" and found.number is None:
        return _finding(found, "delete those leases", drop_unknown_leases)
    return _finding(found, "nothing mends it: tell us, with the database, or leave the trial out with --where")


def _finding(found: Violation, remedy: str, mend: Callable[[StudyHandle], object] | None = None) -> _Finding:
    path = None if found.path is None else str(found.path)
    return _Finding(Complaint(found.kind, found.text, remedy, found.number, path, can_mend=mend is not None), mend)


def _of_leases(study: StudyHandle, config: StudyConfig) -> Iterator[_Finding]:
    """Trials that nobody works at any longer, and leases of trials that have ended."""
    remedy = "end its lease; one that was lost waits for another try, as after the next launch"
    for one in orphans(study, grace_s=config.study.lease_s):
        complaint = Complaint("lease", f"trial {one.number} {one.why}", remedy, one.number, can_mend=True)
        yield _Finding(complaint, lambda study: _reap(study, config))


def _reap(study: StudyHandle, config: StudyConfig) -> None:
    search = config.study
    expire_dead_leases(study)
    Lifecycle(
        study, owner=new_owner(), n_trials=search.n_trials, grace_s=search.lease_s, max_retry=search.max_retry
    ).reap()


def _of_ends(study: StudyHandle, configs: dict[int, StudyConfig]) -> Iterator[_Finding]:
    most, finished = max(config.study.n_trials for config in configs.values()), study.counts().finished
    if finished > most:
        text = f"{finished} trials have finished, though at most {most} were ever asked for"
        yield _Finding(Complaint("unfinished", text, "nothing mends it: tell us, with the database"))


def _of_network(found: Violation) -> _Finding:
    remedy = "put its file back; `autoprune pareto --where` leaves the trial out, and its record still tells the widths"
    if found.kind == "parent's network":
        remedy = "nothing need be done: the trial starts from its next ancestor, or from the dense network"
    return _finding(found, remedy)


def _of_phase(found: Violation) -> _Finding:
    return _finding(
        found, "forget it: a trial that needs it computes it anew", lambda study: _forget_phase(study, found)
    )


def _forget_phase(study: StudyHandle, found: Violation) -> None:
    rows = PhaseRows(study.db)
    for phase in rows.by_last_use():
        if phase.key == found.key:
            _discard(rows, phase)


def _discard(rows: PhaseRows, phase: PhasePlace) -> None:
    try:
        discard(rows, phase)
    except OSError as error:
        raise StorageError(
            f"{phase.place} must be deleted, but can't be: {error.strerror}. Check who may write there."
        ) from error


def _of_places(study: StudyHandle, folders: tuple[Path, ...]) -> Iterator[_Finding]:
    """Results whose network is said to lie outside of the study's folders: somebody has changed the database."""
    for trial in study.trials():
        place = trial.user_attrs.get("weights")
        if trial.state is TrialState.COMPLETE and place is not None and Path(place).parent not in folders:
            text = (
                f"the network of trial {trial.number} is said to lie in {Path(place).parent}, not in the study's folder"
            )
            yield _Finding(
                Complaint("network", text, "don't load it, unless you moved it there", trial.number, str(place))
            )


def _of_orphans(name: str, url: str, *, is_clear: bool) -> Iterator[_Finding]:
    """Files that nobody will come back for; left alone where networks are missed, of which some may be one."""
    for kind in clean(name, dry_run=True, storage=url):
        size = f"{kind.size_bytes:,} bytes"
        text = f"{kind.what}: {len(kind.paths):,}, {size}, the first of them {kind.paths[0]}"
        if is_clear:
            complaint = Complaint("file", text, "delete them, as `autoprune clean` does", can_mend=True)
            yield _Finding(complaint, lambda study: None)
        else:
            yield _Finding(Complaint("file", text, "see first whether a network that is missed is among them"))


def _mend(found: list[_Finding], name: str, url: str) -> None:
    with contextlib.closing(Database.open(url, create=False)) as db:
        study = StudyHandle.open(db, name)
        with study.lock():  # Nobody claims, tells or deletes meanwhile.
            for one in found:
                if one.mend is not None:
                    one.mend(study)
    if any(one.complaint.kind == "file" and one.mend is not None for one in found):
        clean(name, storage=url)
