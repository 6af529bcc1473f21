"""What may be deleted of a study's files, while it runs and afterwards."""

from __future__ import annotations

import contextlib
import logging
import shutil
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from optuna.trial import FrozenTrial, TrialState

from autoprune.api._reading import Study, storage_url
from autoprune.config import StudyConfig
from autoprune.errors import StorageError
from autoprune.search.files import (
    Beaten,
    Holding,
    beaten,
    delete_networks,
    driver_signs,
    holdings,
    is_shared,
    own_phases,
    remove_scratch,
    stale_checkpoints,
    stale_scratch,
    stray_files,
    temporary_files,
)
from autoprune.search.phases import PhaseRows, discard
from autoprune.search.storage import Database, StudyHandle
from autoprune.search.trials import Growing

__all__ = ["Removed", "Retention", "clean"]

_log = logging.getLogger(__name__)
_GONE_S = 600.0  # Shared folders show within a minute what another machine has written.


@dataclass(frozen=True)
class Removed:
    """Files of one kind that were deleted, or would be.

    Args:
        what: The kind, in words.
        paths: Files and whole folders.
        size_bytes: What they took in all.
    """

    what: str
    paths: tuple[Path, ...]
    size_bytes: int


def _artifacts(configs: Mapping[int, StudyConfig]) -> list[Path]:
    """Where the study's files lie; a revision may have moved them."""
    return [Path(folder) for folder in dict.fromkeys(config.setting.artifacts for config in configs.values())]


def _newest(study: Study) -> StudyConfig:
    configs = study.configs()
    return configs[max(configs)]


class Retention:
    """Deletes the networks that a study's ``[retention]`` lets go, after each finished trial; several drivers may.

    What has been beaten stays so: a trial whose network has gone is settled and not looked at again, or each call would
    take longer than the one before. Gone is what was deleted here, or has not been seen for a while.

    Args:
        study: Opened on the driver's own study record.
        clock: This process's seconds, which never go back.
    """

    def __init__(self, study: Study, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._study, self._clock = study, clock
        self._growing = Growing()
        self._held: dict[int, Holding] = {}
        self._unseen_since: dict[int, float] = {}
        self._limits: Mapping[str, float] = {}

    def apply(self) -> list[Path]:
        """Delete them; returns the weights files that were deleted."""
        study, handle = self._study, self._study.handle
        with handle.lock():  # So that nobody claims a trial that starts from what is being deleted.
            # The trials first: what completes under a revision that we don't know yet must not be among them.
            trials = handle.history()
            try:
                configs = study.configs()
            except StorageError as error:  # A driver of a newer version may have written the revision.
                _log.warning("no network was dropped, since %s", error)
                return []
            newest = configs[max(configs)]
            held = self._holdings(trials, newest.constraints.limits)
            for checkpoint in stale_checkpoints(Path(newest.setting.artifacts) / "checkpoints", held):
                checkpoint.unlink(missing_ok=True)
            if newest.retention.networks == "all":
                return []
            folders = [folder / "trials" / study.name for folder in _artifacts(configs)]
            found = beaten(handle, held, folders)
            gone = delete_networks(found.here)
            self._settle(found, deleted=gone)
            return gone

    def _holdings(self, trials: Sequence[FrozenTrial], limits: Mapping[str, float]) -> Collection[Holding]:
        """What the trials hold, but for those that are settled or ended without a result."""
        if limits != self._limits:  # Then other trials are feasible.
            self._growing, self._held, self._limits = Growing(), {}, limits

        def take_in(places: list[int]) -> None:
            for one in holdings([trials[place] for place in places], self._study.handle.objectives, limits):
                if one.state is TrialState.COMPLETE or not one.state.is_finished():
                    self._held[one.number] = one
                else:
                    self._held.pop(one.number, None)

        self._growing.read(trials, forget=self._held.clear, take_in=take_in)
        return self._held.values()

    def _settle(self, found: Beaten, *, deleted: Collection[Path]) -> None:
        """Note which trials have no more to let go."""
        now, gone = self._clock(), set(map(str, deleted))
        unseen = [number for number, path in found.paths.items() if path in found.unseen]
        self._unseen_since = {number: self._unseen_since.get(number, now) for number in unseen}
        settled = {number for number, path in found.paths.items() if path in gone}
        settled |= {number for number, since in self._unseen_since.items() if now - since > _GONE_S}
        for number in settled:
            del self._held[number]


def clean(name: str, *, phases: bool = False, dry_run: bool = False, storage: str | None = None) -> list[Removed]:
    """Delete files of a study that nobody will come back for; what running trials write or need is never touched.

    These are networks that ``[retention]`` lets go, files of trials that failed or that this database doesn't know,
    scratch folders of drivers that ended, half-written files, and checkpoints that nobody goes on with. In a folder
    that a study of this name in another database uses as well, what is unknown here is left alone.

    Args:
        name: The study.
        phases: Also the cached sparsify phases that no other study of the database has used.
        dry_run: Only tell what would be deleted.
        storage: Database URL; see `storage_url`.

    Returns:
        What was deleted, by kind; kinds of which there was nothing are left out.

    Raises:
        StorageError: The database or the study is not there, or a file can't be deleted.
    """
    url = storage_url(storage)
    db = Database.open_readonly(url) if dry_run else Database.open(url, create=False)
    study = Study(db, StudyHandle.open(db, name))
    with contextlib.nullcontext() if dry_run else study.handle.lock():  # Nobody claims what is being deleted.
        removed = _clean(study, phases=phases, dry_run=dry_run)
    db.close()
    return [one for one in removed if one.paths]


def _clean(study: Study, *, phases: bool, dry_run: bool) -> list[Removed]:
    name, db = study.name, study.handle.db
    artifacts = _artifacts(study.configs())
    networks = [folder / "trials" / name for folder in artifacts]
    # Files before trials, and trials before the configuration: see `stray_files` and `Retention`.
    # In a folder that another database's study of the name uses as well, what is unknown here may be known there.
    own = [folder for folder in networks if folder.is_dir() and not is_shared(folder, study.handle)]
    files = [path for folder in own for path in sorted(folder.iterdir())]
    trials = study.handle.trials()
    newest = _newest(study)
    held = holdings(trials, study.handle.objectives, newest.constraints.limits)
    may_go = beaten(study.handle, held, networks).here if newest.retention.networks == "front" else []
    signs = driver_signs(study.handle)
    scratch = [path for folder in artifacts for path in stale_scratch(folder / "ray", signs)]
    parts = ("phases", "data", "checkpoints")
    kept = [path for folder in artifacts for part in parts for path in temporary_files(folder / part)]
    checkpoints = [path for folder in artifacts for path in stale_checkpoints(folder / "checkpoints", held)]
    removed = [
        _remove("networks that other trials beat", may_go, dry_run=dry_run),
        _remove("files of trials that failed or are unknown", stray_files(files, held), dry_run=dry_run),
        _remove("scratch folders of drivers that ended", scratch, dry_run=dry_run, by=remove_scratch),
        _remove("half-written files", kept, dry_run=dry_run),
        _remove("checkpoints of trainings that nobody goes on with", checkpoints, dry_run=dry_run),
    ]
    if phases:
        rows = PhaseRows(db)
        unshared = {Path(p.place): p for p in own_phases(study.handle, rows, [f / "phases" for f in artifacts])}
        found = _remove(
            "phases that only this study used", unshared, dry_run=dry_run, by=lambda path: discard(rows, unshared[path])
        )
        removed.append(found)
    return removed


def _delete(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _remove(what: str, paths: Iterable[Path], *, dry_run: bool, by: Callable[[Path], None] = _delete) -> Removed:
    gone, size_bytes = [], 0
    for path in paths:
        try:
            here = _size_bytes(path)
            if not dry_run:
                by(path)
        except OSError as error:
            raise StorageError(
                f"{error.filename or path} must be deleted, but can't be: {error.strerror}. Check who may write there; "
                "what came before it is gone, and the same command goes on."
            ) from error
        gone.append(path)
        size_bytes += here
    return Removed(what, tuple(gone), size_bytes)


def _size_bytes(path: Path) -> int:
    inside, size_bytes = [path, *path.rglob("*")] if path.is_dir() else [path], 0
    for file in inside:
        with contextlib.suppress(FileNotFoundError):  # Whose it is may be deleting it as well.
            size_bytes += file.lstat().st_size if file.is_file() or file.is_symlink() else 0
    return size_bytes
