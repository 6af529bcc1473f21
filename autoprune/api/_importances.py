"""How much each searched parameter explains of each objective, by Optuna's evaluators."""

from __future__ import annotations

from collections.abc import Sequence

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.importance import FanovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial

from autoprune.report import Importance, ImportanceTable, TrialFacts
from autoprune.search.storage import quiet

__all__ = ["importances"]

_FEWEST, _MOST = 12, 250
_N_TREES = 32
Value = float | str | bool


def importances(trials: Sequence[TrialFacts], objectives: Sequence[str]) -> list[ImportanceTable]:
    """One table for each objective; where nothing can be said, its note tells why.

    Only parameters that every trial has and that vary are compared. Beside what is proposed these are the images that a
    trial's own fine-tuning has seen and the depth of its lineage.

    Args:
        trials: With a result.
        objectives: Their names.
    """
    if len(trials) < _FEWEST:
        note = f"Too few trials to tell: {len(trials)} with a result, {_FEWEST} are needed."
        return [ImportanceTable(name, note=note) for name in objectives]
    # A forest gains little from more trials and takes long over them: of many, some evenly spread.
    step = max(1.0, len(trials) / _MOST)
    kept = [trials[int(i * step)] for i in range(min(len(trials), _MOST))]
    rows = [{**trial.searched, "images": float(trial.images), "depth": float(trial.depth)} for trial in kept]
    spaces = {name: space for name in rows[0] if (space := _space([row.get(name) for row in rows])) is not None}
    if not spaces:
        return [ImportanceTable(name, note="No parameter varies in all trials.") for name in objectives]
    return [_table(name, kept, rows, spaces) for name in objectives]


def _space(values: Sequence[Value | None]) -> BaseDistribution | None:
    if None in values or len(set(values)) < 2:
        return None
    if any(isinstance(value, str | bool) for value in values):
        return CategoricalDistribution(sorted({str(value) for value in values}))
    numbers = [float(value) for value in values if value is not None]
    return FloatDistribution(min(numbers), max(numbers))


def _table(
    objective: str, trials: Sequence[TrialFacts], rows: Sequence[dict[str, Value]], spaces: dict[str, BaseDistribution]
) -> ImportanceTable:
    if len({trial.values[objective] for trial in trials}) < 2:
        return ImportanceTable(objective, note=f"All trials have the same {objective}.")
    with quiet("optuna.storages._in_memory"), quiet("optuna.study.study"):
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
        study.add_trials(
            [_frozen(trial.values[objective], row, spaces) for trial, row in zip(trials, rows, strict=True)]
        )
        found = get_param_importances(study, evaluator=FanovaImportanceEvaluator(n_trees=_N_TREES, seed=0))
    ordered = sorted(found.items(), key=lambda item: -item[1])
    return ImportanceTable(objective, tuple(Importance(name, float(share)) for name, share in ordered))


def _frozen(value: float, row: dict[str, Value], spaces: dict[str, BaseDistribution]) -> FrozenTrial:
    def typed(name: str) -> Value:
        return str(row[name]) if isinstance(spaces[name], CategoricalDistribution) else float(row[name])

    return optuna.create_trial(value=value, params={name: typed(name) for name in spaces}, distributions=spaces)
