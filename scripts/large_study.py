"""A study of as many trials as one likes, written straight into the tables of a database.

It is a real one, which `autoprune launch` goes on with: a ResNet-56 on scikit-learn's digits with given weights, whose
points have 30 parameters, nearly all of them multipliers of one width rule. Only the trials' results are invented.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sa
from optuna.distributions import BaseDistribution, distribution_to_json
from safetensors.torch import save_file

from autoprune import architectures
from autoprune.api._numerics import join
from autoprune.api._planning import load_config, planner_of, space_of
from autoprune.api._running import proposer_of
from autoprune.config import StudyConfig
from autoprune.pipeline import Workbench, open_workbench
from autoprune.search.proposals import Space
from autoprune.search.storage import Database, StudyHandle, schema
from autoprune.search.trials import Claim, Lifecycle, Point

__all__ = ["NAME", "N_PARAMS", "write_study"]

NAME, N_PARAMS = "bench", 30
_MOMENT = "2026-01-01 00:00:00.000000"
_OWNER = "here:1:abc"
_STATES = ("COMPLETE",) * 8 + ("PRUNED", "FAIL")
_AT_ONCE = 5_000  # Trials whose rows are held in memory.
_STUDY = """\
[study]
name = "{name}"
n_trials = {n_trials}

[space]
methods = ["magnitude"]
width_rules = ["per_group"]
macs_target = {{ low = 0.05, high = 0.9, scale = "log" }}
shape = {{ low = 0.25, high = 2.0, scale = "log" }}

[network]
architecture = "resnet56"
weights = "weights.safetensors"

[data]
source = "digits"
validation = "random:0.4"

[train.finetune]
epochs = 1

[engine]
precision = "float32"
artifacts = "{artifacts}"
"""


def write_study(folder: Path, n: int, *, storage: str) -> Path:
    """A study with ``n`` trials on a trade-off with noise, most of them complete, and room for more of them.

    Args:
        folder: Where the study file, its weights and artifacts lie.
        n: How many trials.
        storage: Of a database that holds no study yet; a SQLite file is made.

    Returns:
        The study file.
    """
    file = folder / "study.toml"
    save_file(architectures.build("resnet56", n_classes=10, in_channels=1).state_dict(), folder / "weights.safetensors")
    file.write_text(_STUDY.format(name=NAME, n_trials=n + 1_000, artifacts=folder / "artifacts"))
    config = load_config(file)
    workbench = open_workbench(config.setting)
    db = Database.open(storage, create=True)
    study, space = join(config, workbench, db), space_of(config, workbench)
    opening = _dense(config, space, workbench, study)
    rng = np.random.default_rng(0)
    ratios = rng.uniform(0.01, 1.0, n).round(4)
    scores = (0.95 * ratios**0.1 - rng.gamma(1.0, 0.05, n)).clip(0).round(4)
    states = ["COMPLETE" if i <= len(opening) else str(rng.choice(_STATES)) for i in range(n)]
    with db.writing() as connection:
        for at in range(1, n, _AT_ONCE):
            numbers = range(at, min(at + _AT_ONCE, n))
            points = {number: _point(space, rng) for number in numbers}
            if at == 1:
                for number, target in zip(numbers, opening, strict=False):
                    points[number] = dataclasses.replace(points[number], macs_target=target)
            found = {i: (float(scores[i]), float(ratios[i]), states[i]) for i in numbers}
            _insert(connection, _rows(study.study_id, space, points, found))
    if not db.is_sqlite:
        _settle(db)
    db.close()
    return file


def _dense(config: StudyConfig, space: Space, workbench: Workbench, study: StudyHandle) -> tuple[float, ...]:
    """Have the first trial be the dense network, as every study does; the MACs targets that come next."""
    planner = planner_of(config, space, workbench)
    assert planner is not None
    proposer = proposer_of(config, space, study, planner=planner, has_phase=lambda point: False)
    lifecycle = Lifecycle(study, owner=_OWNER, n_trials=config.study.n_trials)
    proposal = proposer.propose([])
    claim = None if proposal is None else lifecycle.claim(proposal)
    assert isinstance(claim, Claim)
    facts = {
        "accuracy": 0.96,
        "macs_ratio": 1.0,
        "params_ratio": 1.0,
        "macs": 40_000_000,
        "params": 300_000,
        "images": 0,
    }
    lifecycle.complete(claim.trial_id, [0.96, 1.0], facts)
    return planner.ladder


def _point(space: Space, rng: np.random.Generator) -> Point:
    return space.point({name: _drawn(p.distribution, rng) for name, p in space.parameters.items()})


def _drawn(distribution: BaseDistribution, rng: np.random.Generator) -> Any:
    choices = getattr(distribution, "choices", None)
    if choices is not None:
        return choices[int(rng.integers(len(choices)))]
    return float(rng.uniform(distribution.low, distribution.high))  # type: ignore[attr-defined]


def _rows(
    study_id: int, space: Space, points: dict[int, Point], found: dict[int, tuple[float, float, str]]
) -> dict[str, list[dict[str, Any]]]:
    """Rows by table; the trial's id is its number + 1."""
    texts: dict[str, tuple[BaseDistribution, str]] = {}
    tables: dict[str, list[dict[str, Any]]] = {name: [] for name in _TABLES}
    for number, point in points.items():
        score, ratio, state = found[number]
        i = number + 1
        tables["trials"].append({
            "trial_id": i, "number": number, "study_id": study_id, "state": state,
            "datetime_start": _MOMENT, "datetime_complete": _MOMENT,
        })  # fmt: skip
        if state == "COMPLETE":
            for objective, value in enumerate((score, ratio)):
                row = {"trial_id": i, "objective": objective, "value": value, "value_type": "FINITE"}
                tables["trial_values"].append(row)
        for name, value in itertools.islice(point.params.items(), N_PARAMS):
            if name not in texts:
                distribution = space.parameters[name].distribution
                texts[name] = distribution, distribution_to_json(distribution)
            distribution, text = texts[name]
            row = {"trial_id": i, "param_name": name, "distribution_json": text}
            tables["trial_params"].append({**row, "param_value": distribution.to_internal_repr(value)})
        tables["trial_user_attributes"] += [
            {"trial_id": i, "key": key, "value_json": json.dumps(value)}
            for key, value in _attributes(number, point, score, ratio, state).items()
        ]
    return tables


def _attributes(number: int, point: Point, score: float, ratio: float, state: str) -> dict[str, Any]:
    """What a trial of ours leaves beside its values."""
    widths = dict.fromkeys(point.multipliers, 16)
    attrs: dict[str, Any] = {
        "point": point.to_dict(), "key": f"{number:064}", "owner": _OWNER, "revision": 1,
        "claimed_at": 1.7e9 + number, "attempt": 0, "seed_number": number, "hyper": "",
    }  # fmt: skip
    if state == "FAIL":
        return {**attrs, "reason": ("the loss became nan", "out of memory", "the worker died")[number % 3]}
    attrs |= {"rungs": {"0": round(score / 2, 4)}, "host": "here", "node": "0" * 56}
    if state == "PRUNED":
        return {**attrs, "partial_accuracy": score / 2, "partial_macs_ratio": ratio, "stop_reason": "behind others"}
    return attrs | {
        "method": "magnitude", "macs": round(4e7 * ratio), "macs_ratio": ratio, "params": round(3e5 * ratio),
        "params_ratio": ratio, "accuracy": score, "images": 10_000, "widths": widths, "sha256": f"{number:064}",
        "result_key": f"{number:064}", "wall_s": {"finetune": 30.0, "surgery": 0.5, "save": 0.1},
        "weights": f"/artifacts/trials/{NAME}/{number:05}.safetensors",
    }  # fmt: skip


_TABLES = ("trials", "trial_values", "trial_params", "trial_user_attributes")


def _insert(connection: sa.Connection, tables: dict[str, list[dict[str, Any]]]) -> None:
    """Add rows by the driver's own means, since there are millions."""
    cursor = connection.connection.cursor()
    for name, rows in tables.items():
        columns = list(rows[0])
        values: Iterable[Sequence[Any]] = ([row[column] for column in columns] for row in rows)
        if connection.dialect.name == "sqlite":
            marks = ", ".join("?" * len(columns))
            cursor.executemany(f"INSERT INTO {name} ({', '.join(columns)}) VALUES ({marks})", values)
        else:
            with cursor.copy(f"COPY {name} ({', '.join(columns)}) FROM STDIN") as copy:
                for row in values:
                    copy.write_row(row)


def _settle(db: Database) -> None:
    """Have PostgreSQL count what it holds, and give ids that come after these."""
    last = sa.select(sa.func.max(schema.optuna_trials.c.trial_id)).scalar_subquery()
    with db.writing() as connection:
        for table in _TABLES:
            connection.execute(sa.text(f"ANALYZE {table}"))
        connection.execute(sa.select(sa.func.setval("trials_trial_id_seq", last)))
