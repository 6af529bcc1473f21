"""The composition root: where the torch half and the search half meet; heavy imports lie inside the functions."""

from __future__ import annotations

import dataclasses
import os
import socket
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoprune.config import StudyConfig, load_study, read_stored, stock_spaces
from autoprune.errors import ConfigError, StudyFailedError
from autoprune.spec import RungReport, SettingSpec, TrialSpec

if TYPE_CHECKING:
    import pandas as pd

    from autoprune.search.claims import Claim, Counts
    from autoprune.search.database import Database
    from autoprune.search.dispatch import Dispatcher
    from autoprune.search.study import StudyRecord
    from autoprune.workbench import Workbench

__all__ = [
    "Inspection",
    "Outcome",
    "Plan",
    "Progress",
    "Study",
    "catalogue",
    "inspect",
    "launch",
    "list_names",
    "open_study",
    "plan",
    "resume",
    "storage_url",
    "stop",
]


def storage_url(storage: str | None = None) -> str:
    """The database to use: the argument, else ``AUTOPRUNE_STORAGE``, else ``autoprune.db`` in the current folder."""
    return storage or os.environ.get("AUTOPRUNE_STORAGE") or "sqlite:///autoprune.db"


# -- reading ---------------------------------------------------------------------------------------------------------


class Study:
    """A study of a database, opened for reading; works while drivers write.

    Args:
        db: An open database.
        record: The study in it.
    """

    def __init__(self, db: Database, record: StudyRecord) -> None:
        self._db, self._record = db, record

    @property
    def name(self) -> str:
        """The study's name."""
        return self._record.name

    @property
    def config(self) -> StudyConfig:
        """The configuration of the newest revision."""
        return read_stored(self._record.config["config"])

    @property
    def record(self) -> StudyRecord:
        """The study's rows in the database."""
        return self._record

    def trials(self) -> pd.DataFrame:
        """Every trial of every state, one row each."""
        from autoprune.search.query import trials_frame

        return trials_frame(self._db, self._record)

    def front(self, *, where: str | None = None, sort: str | None = None, spacing: float | None = None) -> pd.DataFrame:
        """The Pareto front.

        Args:
            where: Only among trials that satisfy this, such as ``"macs_ratio <= 0.5 and method == 'slimming'"``.
            sort: A column; accuracy and other maximised ones come largest first. Default: by MACs ratio.
            spacing: Leave out points so that no two are nearer than this in MACs ratio.

        Raises:
            ConfigError: ``where`` or ``sort`` names no column, or is no comparison.
        """
        from autoprune.search.query import front, thinned

        search = self.config.study
        rows = front(self.trials(), search.objectives, search.directions, where=where, sort=sort)
        return rows if spacing is None else thinned(rows, "macs_ratio", "accuracy", gap=spacing)

    def hypervolume(self) -> float:
        """What the front dominates up to the reference point, as a share of the whole box."""
        from autoprune.search.query import hypervolume_of

        search = self.config.study
        return hypervolume_of(self.front(), search.objectives, search.directions, search.reference_point)

    def counts(self) -> Counts:
        """Number of trials by state."""
        from autoprune.search.claims import Claims

        return Claims(self._record, owner="reader", n_trials=1).counts()


def open_study(name: str, storage: str | None = None) -> Study:
    """Open a study for reading.

    Raises:
        StorageError: The database or the study is not there.
    """
    from autoprune.search.database import Database
    from autoprune.search.study import StudyRecord

    db = Database.open_readonly(storage_url(storage))
    return Study(db, StudyRecord.open(db, name))


def stop(name: str, storage: str | None = None) -> list[str]:
    """Ask every driver of a study to wind down.

    Returns:
        Host and process of each driver that was at work, in words.
    """
    from autoprune.search.database import Database
    from autoprune.search.study import StudyRecord

    db = Database.open(storage_url(storage), create=False)
    record = StudyRecord.open(db, name)
    record.request_stop()
    return [f"{driver.host}, process {driver.pid}" for driver in record.drivers() if driver.left_at is None]


def catalogue() -> dict[str, Any]:
    """The methods there are, each with the range of its hyper-parameters."""
    from autoprune import methods

    return methods.ranges()


def list_names(kind: str, storage: str | None = None) -> list[tuple[str, str]]:
    """Names with a word on each.

    Args:
        kind: ``"methods"``, ``"architectures"``, ``"spaces"`` or ``"studies"``.
        storage: The database, for studies.
    """
    if kind == "methods":
        from autoprune.methods import METHODS

        return [(name, (method.__doc__ or "").splitlines()[0]) for name, method in sorted(METHODS.items())]
    if kind == "architectures":
        from autoprune.architectures import ARCHITECTURES

        own = [(name, (build.__doc__ or "").splitlines()[0]) for name, build in sorted(ARCHITECTURES.items())]
        return [*own, ("torchvision/NAME", "Any classification network of torchvision, untrained.")]
    if kind == "spaces":
        return [(name, path.read_text().splitlines()[0].lstrip("# ")) for name, path in stock_spaces().items()]
    from autoprune.search.database import Database
    from autoprune.search.study import list_studies

    rows = list_studies(Database.open_readonly(storage_url(storage)))
    return [(r.name, f"{r.n_finished} finished, {r.n_running} running, {r.n_failed} failed") for r in rows]


# -- inspecting and planning -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class GroupRow:
    """One channel group: its name, dense width, and the share of the dense MACs in layers that it takes part in."""

    name: str
    width: int
    step: int
    layers: int
    macs_share: float


@dataclass(frozen=True)
class Inspection:
    """What tracing a study's network found.

    Args:
        network: Its name.
        image_shape: (C, H, W).
        macs: Dense MACs. flops = 2 * macs.
        params: Dense parameters.
        groups: Prunable channel groups.
        refused: What can't be pruned, why, and what to do about it.
        least_macs_ratio: MACs ratio at the minimum widths.
    """

    network: str
    image_shape: tuple[int, int, int]
    macs: int
    params: int
    groups: tuple[GroupRow, ...]
    refused: tuple[str, ...]
    least_macs_ratio: float


def _inspection(workbench: Workbench) -> Inspection:
    cost, network = workbench.traced.cost, workbench.setting.network
    dense, rows = dict(zip(cost.groups, cost.dense, strict=True)), []
    for group in workbench.traced.groups:
        # What the layers that touch the group cost: MACs are linear in one width, so one step tells the slope.
        fewer = cost.macs({**dense, group.name: group.width - group.step})
        share = (cost.dense_macs - fewer) * (group.width // group.step) / cost.dense_macs
        layers = len({member.module for member in group.members})
        rows.append(GroupRow(group.name, group.width, group.step, layers, share))
    return Inspection(
        network=str(network.architecture or network.factory),
        image_shape=workbench.splits.train.shape,
        macs=cost.dense_macs,
        params=cost.dense_params,
        groups=tuple(rows),
        refused=tuple(str(refusal) for refusal in workbench.traced.refused),
        least_macs_ratio=cost.macs_ratio(workbench.min_widths()),
    )


def inspect(path: Path | str) -> Inspection:
    """Trace a study file's network: its channel groups, what they cost, what is refused and why."""
    from autoprune.workbench import open_workbench

    return _inspection(open_workbench(load_study(Path(path), catalogue()).setting))


@dataclass(frozen=True)
class Plan:
    """What a launch would do.

    Args:
        config: The resolved configuration.
        inspection: The traced network.
        opening: The first proposals, in order.
        identity: What may never change within the study.
    """

    config: StudyConfig
    inspection: Inspection
    opening: tuple[dict[str, Any], ...]
    identity: Mapping[str, Any]


def _overridden(config: StudyConfig, *, n_trials: int | None, concurrency: int | None) -> StudyConfig:
    if n_trials is not None:
        config = dataclasses.replace(config, study=dataclasses.replace(config.study, n_trials=n_trials))
    if concurrency is not None:
        config = dataclasses.replace(config, resources=dataclasses.replace(config.resources, concurrency=concurrency))
    return config


def _space_of(config: StudyConfig, workbench: Workbench) -> Any:
    from autoprune.search.space import Space

    space = Space(config.space, workbench.traced.cost, min_widths=workbench.min_widths())
    highest = config.space.macs_target.high or max(float(v) for v in config.space.macs_target.values or (1.0,))
    if highest < space.least_macs_ratio:
        raise ConfigError(
            f"`macs_target` must reach {space.least_macs_ratio:.4f}, the MACs ratio of the minimum widths, "
            f"but ends at {highest}. Raise it, lower `min_width`, or exclude fewer layers."
        )
    return space


def plan(path: Path | str, *, n_trials: int | None = None, concurrency: int | None = None) -> Plan:
    """Work out what `launch` would do, without writing to any database."""
    from autoprune.search.propose import opening
    from autoprune.workbench import open_workbench

    config = _overridden(load_study(Path(path), catalogue()), n_trials=n_trials, concurrency=concurrency)
    workbench = open_workbench(config.setting)
    space = _space_of(config, workbench)
    points = tuple(point.to_dict() for point in opening(space, config.study.n_trials))
    return Plan(config, _inspection(workbench), points, _identity(config, workbench))


def _identity(config: StudyConfig, workbench: Workbench) -> dict[str, Any]:
    search = config.study
    reference = {objective: search.reference_point[objective] for objective in search.objectives}
    return {**workbench.identity, "objectives": list(search.objectives), "reference point": reference}


# -- running ---------------------------------------------------------------------------------------------------------


class Progress:
    """What a launch tells while it runs; every method may be overridden, and does nothing here."""

    def note(self, text: str) -> None:
        """One line for people."""

    def update(self, study: Study, dispatcher: Dispatcher) -> None:
        """Called about once a second while trials run."""

    def interrupted(self) -> None:
        """Called at the first Ctrl-C."""


@dataclass(frozen=True)
class Outcome:
    """How a launch ended.

    Args:
        study: The study, open for reading.
        finished: Whether exactly ``n_trials`` trials have finished.
        n_finished: COMPLETE and PRUNED trials.
        n_trials: The number asked for.
        why: Why it stopped early, or None.
    """

    study: Study
    finished: bool
    n_finished: int
    n_trials: int
    why: str | None


def _execute(config: dict[str, Any], report: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Run one trial in a worker process."""
    import torch

    from autoprune.engine.phases import PhaseStore
    from autoprune.trial import run_trial

    spec = TrialSpec.from_dict(config["spec"])
    if spec.setting.threads is not None:
        torch.set_num_threads(spec.setting.threads)

    def tell(rung_report: RungReport) -> None:
        report(dataclasses.asdict(rung_report))

    result = run_trial(spec, tell, PhaseStore(Path(spec.setting.artifacts) / "phases"))
    return result.to_dict()


def _train_dense(setting: SettingSpec) -> dict[str, Any]:
    import torch

    from autoprune.engine.phases import PhaseStore
    from autoprune.workbench import open_workbench

    if setting.threads is not None:
        torch.set_num_threads(setting.threads)
    phase = open_workbench(setting).dense(PhaseStore(Path(setting.artifacts) / "phases"))
    return {**phase.record, "place": str(phase.path), "size_bytes": phase.path.stat().st_size}


def launch(
    path: Path | str,
    *,
    storage: str | None = None,
    n_trials: int | None = None,
    time_limit_s: float | None = None,
    concurrency: int | None = None,
    address: str | None = None,
    progress: Progress | None = None,
) -> Outcome:
    """Start the study of a file, or join it where it runs already.

    Args:
        path: The study file.
        storage: Database URL; see `storage_url`.
        n_trials: Overrides the file's.
        time_limit_s: Wind down after this many seconds.
        concurrency: Trials at once; overrides the file's.
        address: A Ray cluster; None starts one on this machine.
        progress: Told what happens.

    Returns:
        How it ended; the study can always be resumed.

    Raises:
        ConfigError: The file, a flag or the cluster is wrong.
        IdentityError: A study of this name exists and is another one.
        StudyFailedError: Too many trials failed; the first error is told.
    """
    config = _overridden(load_study(Path(path), catalogue()), n_trials=n_trials, concurrency=concurrency)
    return _run(config, storage, time_limit_s=time_limit_s, address=address, progress=progress or Progress())


def resume(
    name: str,
    *,
    storage: str | None = None,
    n_trials: int | None = None,
    time_limit_s: float | None = None,
    concurrency: int | None = None,
    address: str | None = None,
    progress: Progress | None = None,
) -> Outcome:
    """Continue a study from what the database knows, or raise its number of trials; see `launch`."""
    study = open_study(name, storage)
    config = _overridden(study.config, n_trials=n_trials, concurrency=concurrency)
    return _run(config, storage, time_limit_s=time_limit_s, address=address, progress=progress or Progress())


def _run(
    config: StudyConfig, storage: str | None, *, time_limit_s: float | None, address: str | None, progress: Progress
) -> Outcome:
    from autoprune.distributed import drive, open_cluster, plan_slots
    from autoprune.search.claims import Claims
    from autoprune.search.database import Database
    from autoprune.search.dispatch import Dispatcher, FailureCaps
    from autoprune.search.propose import Proposer
    from autoprune.search.study import StudyRecord
    from autoprune.workbench import open_workbench

    search, setting = config.study, config.setting
    workbench = open_workbench(setting)
    space = _space_of(config, workbench)
    db = Database.open(storage_url(storage), create=True)
    record = StudyRecord.create_or_join(
        db,
        name=search.name,
        identity=_identity(config, workbench),
        config={"config": config.to_dict(), "cost": workbench.traced.cost.to_dict()},
        directions=search.directions,
        objectives=search.objectives,
    )
    study = Study(db, record)
    owner = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
    claims = Claims(record, owner=owner, n_trials=search.n_trials, grace_s=search.lease_s, max_retry=search.max_retry)
    context = [setting.sparsify.to_dict(), setting.finetune.to_dict(), setting.recalibration_images]
    proposer = Proposer(
        space, n_trials=search.n_trials, sampler=search.sampler, seed=search.seed,
        directions=search.directions, context=context,
    )  # fmt: skip
    caps = FailureCaps(in_a_row=search.max_failures_in_a_row, in_all=search.max_failures)
    record.enter(owner)
    try:
        with open_cluster(address) as cluster:
            slots = plan_slots(cluster, config.resources)
            dispatcher = Dispatcher(
                record, claims, proposer, concurrency=slots.concurrency, caps=caps,
                objectives=search.objectives, lease_s=search.lease_s, time_limit_s=time_limit_s,
            )  # fmt: skip
            ready = dataclasses.replace(setting, threads=setting.threads or slots.threads)
            _prepare_dense(db, owner, workbench, dispatcher, cluster=cluster, gpu=slots.gpu, progress=progress)

            def make_config(claim: Claim) -> dict[str, Any]:
                spec = TrialSpec(setting=ready, study=search.name, number=claim.number, **claim.attrs["point"])
                return {"spec": spec.to_dict()}

            progress.note(
                f"study {search.name!r}: {search.n_trials} trials, {slots.concurrency} at once, "
                f"each with {ready.threads} thread(s)" + (f" and {slots.gpu:g} GPU" if slots.gpu else "")
            )
            drive(
                dispatcher, execute=_execute, make_config=make_config, slots=slots,
                scratch=Path(setting.artifacts) / "ray",
                on_progress=lambda: progress.update(study, dispatcher), on_interrupt=progress.interrupted,
            )  # fmt: skip
    finally:
        record.leave(owner)
    counts = claims.counts()
    why = dispatcher.stopping.value if dispatcher.stopping and not dispatcher.finished else None
    return Outcome(study, counts.finished >= search.n_trials, counts.finished, search.n_trials, why)


def _prepare_dense(
    db: Database, owner: str, workbench: Workbench, dispatcher: Dispatcher,
    *, cluster: Any, gpu: float, progress: Progress,
) -> None:  # fmt: skip
    """Have the dense network ready, trained once however many drivers start together."""
    import time

    from autoprune.distributed import run_once
    from autoprune.engine.phases import PhaseStore
    from autoprune.search.phase_rows import PhaseRows

    setting, key = workbench.setting, workbench.dense_key
    rows, store = PhaseRows(db), PhaseStore(Path(setting.artifacts) / "phases")
    told = False
    while dispatcher.stopping is None:
        state = rows.claim(key, kind="dense", owner=owner, grace_s=60.0)
        if state == "ready":
            if store.find("dense", key) is not None:
                return
            rows.forget(key)  # The database says that it is there, but the file is gone or damaged.
        elif state == "busy":
            if not told:
                progress.note("the dense network is being made ready by another driver; waiting for it")
                told = True
            time.sleep(1.0)
        else:
            _make_dense(
                rows, key, owner, workbench, dispatcher, cluster=cluster, gpu=gpu, progress=progress, run=run_once
            )
            return


def _make_dense(
    rows: Any, key: str, owner: str, workbench: Workbench, dispatcher: Dispatcher,
    *, cluster: Any, gpu: float, progress: Progress, run: Any,
) -> None:  # fmt: skip
    setting = workbench.setting
    what = "scoring the given dense weights" if setting.network.weights else "training the dense network"
    progress.note(f"{what}, once for the study")
    threads = setting.threads or max(1, int(cluster.cpus))
    whole = dataclasses.replace(setting, threads=threads)
    beaten = 0.0

    def keep_lease() -> None:
        import time

        nonlocal beaten
        if time.monotonic() - beaten > 10:
            beaten = time.monotonic()
            rows.beat(key, owner=owner, grace_s=60.0)
        if dispatcher.stopping is not None:
            raise StudyFailedError(f"the dense network is not ready: {dispatcher.stopping.value}. Resume to go on.")

    done = run(lambda: _train_dense(whole), cpu=cluster.cpus, gpu=1.0 if gpu else 0.0, while_waiting=keep_lease)
    rows.publish(key, place=done["place"], sha256=done["sha256"], size_bytes=done["size_bytes"])
    progress.note(f"dense network: validation accuracy {done['accuracy']:.4f}, {done['macs']:,} MACs")
