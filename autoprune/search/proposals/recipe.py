"""Which fine-tune recipe the trials of a study get: a few of them at one middle target tell."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState

from autoprune.config import ACCURACY, Metric, Range
from autoprune.search.proposals.gains import error_at
from autoprune.search.proposals.parameters import Interval, parameter_of
from autoprune.search.trials import Attr, Point, StoredTrial, dense_score

__all__ = ["RecipeSearch"]

_PREFIX = "finetune."
_PER_PARAMETER = 4
_LARGEST_SHARE = 5  # One of so many trials of a study at most is a probe.
_SEED = 0


class RecipeSearch:
    """A few trials that differ in their recipe only, the *probes*; what they find is then frozen.

    The first probe has the study's own recipe, the others are spread evenly over the ranges. All have one network, one
    cut and one seed, so that what differs between them is the recipe. Of those that are complete the best is chosen,
    at equal images; an earlier one where two are alike. Until then trials go by the best so far.

    Args:
        ranges: By the names of `config.RECIPE`; none where nothing is searched.
        own: The values of the study's own recipe, by the same names.
        target: The MACs target of the probes.
        n_trials: Length of the study.
        seed: The study's.
        metric: What trials are scored by.
    """

    def __init__(
        self,
        ranges: Mapping[str, Range],
        *,
        own: Mapping[str, float],
        target: float,
        n_trials: int,
        seed: int,
        metric: Metric = ACCURACY,
    ) -> None:
        self._parameters = {name: _interval(values) for name, values in ranges.items()}
        self.target, self._metric = target, metric
        n_probes = min(_PER_PARAMETER * len(ranges), max(2, n_trials // _LARGEST_SHARE))
        self.probes = self._spread(own, n_probes, seed) if ranges else []
        """Recipes to be tried, the study's own first."""

    @property
    def distributions(self) -> dict[str, BaseDistribution]:
        """How Optuna knows the recipe's parameters."""
        return {_PREFIX + name: parameter.distribution for name, parameter in self._parameters.items()}

    def params(self, recipe: Mapping[str, float]) -> dict[str, float]:
        """A recipe by the names that the database knows it by."""
        return {_PREFIX + name: value for name, value in recipe.items()}

    def next(self, history: Sequence[FrozenTrial]) -> Mapping[str, float] | None:
        """The next recipe to be tried, or None where all are.

        Args:
            history: All trials of the study.
        """
        tried = {_text(trial.point.recipe) for trial in _probes(history)}
        return next((probe for probe in self.probes if _text(probe) not in tried), None)

    def probe(self, point: Point, recipe: Mapping[str, float], *, epochs: float | None) -> Point:
        """The point that tries a recipe.

        Args:
            point: How channels are ranked.
            recipe: One of `probes`.
            epochs: Length of the trial; None: as the recipe says.
        """
        return dataclasses.replace(
            point, macs_target=self.target, recipe=dict(recipe), epochs=epochs, finetune_seed=_SEED
        )

    def chosen(self, history: Sequence[FrozenTrial]) -> dict[str, float]:
        """The recipe for a trial now; empty where nothing is searched, or known.

        Args:
            history: All trials of the study.
        """
        metric, dense = self._metric, dense_score(map(StoredTrial, history), self._metric.name)
        dense_error = None if dense is None else metric.error(dense)
        places = {_text(probe): place for place, probe in enumerate(self.probes)}
        found: list[tuple[float, int]] = []
        complete = [trial for trial in _probes(history) if trial.state is TrialState.COMPLETE and trial.images]
        most = max((trial.images for trial in complete), default=0)
        for trial in complete:
            place = places.get(_text(trial.point.recipe))
            if place is not None:  # The ranges may have been changed since.
                error = metric.error(float(trial.attrs[metric.name]))
                found.append((error_at(most, error=error, trained_on=trial.images, dense_error=dense_error), place))
        return dict(self.probes[min(found)[1]]) if found else {}

    def _spread(self, own: Mapping[str, float], n: int, seed: int) -> list[dict[str, float]]:
        from scipy.stats import qmc  # Slow to import, and few studies need it.

        first = {name: p.snap(min(max(own[name], p.low), p.high)) for name, p in self._parameters.items()}
        shares = qmc.Halton(len(self._parameters), scramble=True, rng=seed).random(n - 1).tolist()
        drawn = [
            {name: p.snap(p.at(share)) for (name, p), share in zip(self._parameters.items(), row, strict=True)}
            for row in shares
        ]
        return list({_text(recipe): recipe for recipe in (first, *drawn)}.values())


def _interval(values: Range) -> Interval:
    parameter = parameter_of(values)
    assert isinstance(parameter, Interval)  # SpaceConfig takes numbers only.
    return parameter


def _probes(history: Sequence[FrozenTrial]) -> list[StoredTrial]:
    # Looked up, since to read the points of all trials takes long.
    return [t for t in map(StoredTrial, history) if t.attrs.get(Attr.POINT, {}).get("finetune_seed") is not None]


def _text(recipe: Mapping[str, Any]) -> str:
    return json.dumps(dict(recipe), sort_keys=True)
