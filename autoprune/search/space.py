"""The search space at work: points, their parameters, and what makes two points the same trial."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution

from autoprune.config import SpaceConfig
from autoprune.cost import CostModel
from autoprune.inverse import fit
from autoprune.spec import Range, digest

__all__ = ["Point", "Space"]

Value = float | str | bool


@dataclass(frozen=True)
class Point:
    """One proposal of the space, in the words of `spec.TrialSpec`."""

    method: str
    width_rule: str
    macs_target: float
    hyper: Mapping[str, Value] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The point as JSON-serialisable data."""
        return dataclasses.asdict(self)

    @property
    def params(self) -> dict[str, Value]:
        """Parameter values by the names that the sampler and the database know them by."""
        own = {f"{self.method}.{key}": value for key, value in self.hyper.items()}
        return {"method": self.method, "width_rule": self.width_rule, "macs_target": self.macs_target, **own}

    @property
    def told_hyper(self) -> str:
        """The method's hyper-parameters in a line for people."""
        told = {key: f"{value:g}" if isinstance(value, float) else str(value) for key, value in self.hyper.items()}
        return ", ".join(f"{key}={value}" for key, value in told.items())


def _numbers(values: Range) -> tuple[float, float] | None:
    """Both ends of a numeric range, or None where it is a list of names or truth values."""
    if values.values is None:
        assert values.low is not None
        assert values.high is not None
        return values.low, values.high
    if any(isinstance(value, str | bool) for value in values.values):
        return None
    numbers = [float(value) for value in values.values]
    return min(numbers), max(numbers)


def _distribution(values: Range, *, holding: float | None = None) -> BaseDistribution:
    """A continuous interval even where numbers lie on a grid: edits of the grid then keep the history valid.

    Args:
        values: The range.
        holding: A number to widen the interval to.
    """
    ends = _numbers(values)
    if ends is None:
        assert values.values is not None
        return CategoricalDistribution(values.values)
    low, high = ends if holding is None else (min(ends[0], holding), max(ends[1], holding))
    return FloatDistribution(low, high, log=values.scale == "log")


def _snap(value: float, values: Range) -> Any:
    grid = values.grid
    if grid is None:
        return value
    if values.scale == "log":
        return min(grid, key=lambda g: abs(math.log(float(g)) - math.log(value)))
    return min(grid, key=lambda g: abs(float(g) - value))


def _admits(values: Range, value: Any) -> bool:
    ends = _numbers(values)
    if ends is None:
        assert values.values is not None
        return value in values.values
    return isinstance(value, int | float) and ends[0] <= value <= ends[1]


class Space:
    """A search space over one network's cost model.

    Args:
        config: Methods with their ranges, width rules and MACs targets.
        cost: The network's cost model.
        min_widths: Smallest width by group, which is an allowed one.
        multiple: Widths are multiples of it; see `inverse.fit`.
    """

    def __init__(
        self, config: SpaceConfig, cost: CostModel, *, min_widths: Mapping[str, int], multiple: int = 1
    ) -> None:
        self.config, self._cost, self._min_widths, self._multiple = config, cost, dict(min_widths), multiple
        least = cost.macs({name: min_widths[name] for name in cost.groups})
        self.least_macs_ratio = least / cost.dense_macs
        if self.least_macs_ratio * cost.dense_macs < least:  # Lost by rounding: the least target must be feasible.
            self.least_macs_ratio = math.nextafter(self.least_macs_ratio, math.inf)

    def suggest(self, trial: optuna.trial.BaseTrial) -> Point:
        """Draw a point from the sampler behind ``trial``, snap it to the grids and repair its target."""
        config = self.config
        method = str(trial.suggest_categorical("method", tuple(config.methods)))
        rule = str(trial.suggest_categorical("width_rule", tuple(config.width_rules)))
        target = self._draw(trial, "macs_target", config.macs_target)
        hyper = {key: self._draw(trial, f"{method}.{key}", values) for key, values in config.methods[method].items()}
        return self.repair(Point(method, rule, target, hyper))

    @staticmethod
    def _draw(trial: optuna.trial.BaseTrial, name: str, values: Range) -> Any:
        ends = _numbers(values)
        if ends is None:
            assert values.values is not None
            return trial.suggest_categorical(name, values.values)
        return _snap(trial.suggest_float(name, *ends, log=values.scale == "log"), values)

    def repair(self, point: Point) -> Point:
        """Raise a target that not even the minimum widths reach to the least one that they do."""
        if point.macs_target >= self.least_macs_ratio:
            return point
        return dataclasses.replace(point, macs_target=self.least_macs_ratio)

    def distributions(self, point: Point) -> dict[str, BaseDistribution]:
        """The distribution of each of the point's parameters.

        The target's interval is widened to hold the point, since the dense network and a repaired target
        may lie outside of what is searched.
        """
        config = self.config
        return {
            "method": CategoricalDistribution(tuple(config.methods)),
            "width_rule": CategoricalDistribution(tuple(config.width_rules)),
            "macs_target": _distribution(config.macs_target, holding=point.macs_target),
            **{f"{point.method}.{key}": _distribution(values) for key, values in config.methods[point.method].items()},
        }

    def admits(self, point: Point) -> bool:
        """Whether the space as it is now holds this point, so that its trial can inform the sampler."""
        config = self.config
        if point.method not in config.methods or point.width_rule not in config.width_rules:
            return False
        ranges = config.methods[point.method]
        return (
            _admits(config.macs_target, point.macs_target)
            and point.hyper.keys() == ranges.keys()
            and all(_admits(ranges[key], value) for key, value in point.hyper.items())
        )

    def key(self, point: Point, *context: Any) -> str:
        """Hash of what fixes the trial's result: where parameters fix the widths, the widths themselves.

        Args:
            point: The point.
            context: Whatever else the result depends on, JSON-serialisable.
        """
        # What a ranking keeps is known in the trial only, but not how its widths are bounded and rounded.
        bounds = [self._multiple, sorted(self._min_widths.items())]
        choice: Any = [point.width_rule, point.macs_target, bounds]
        if point.macs_target >= 1:
            choice = "dense"
        elif point.width_rule == "uniform":
            macs = point.macs_target * self._cost.dense_macs
            choice = fit(self._cost, macs=macs, min_widths=self._min_widths, multiple=self._multiple)
        return digest(point.method, dict(point.hyper), choice, *context)

    def default_hyper(self, method: str) -> dict[str, Value]:
        """The middle of each range of a method's hyper-parameters."""
        middle: dict[str, Value] = {}
        for key, values in self.config.methods[method].items():
            grid = values.grid
            if grid is not None:
                middle[key] = grid[len(grid) // 2]
            else:
                ends = _numbers(values)
                assert ends is not None
                middle[key] = math.sqrt(ends[0] * ends[1]) if values.scale == "log" else sum(ends) / 2
        return middle

    def target_ladder(self, n: int) -> list[float]:
        """``n`` MACs targets spread evenly over the range, the ends included, largest first."""
        grid = self.config.macs_target.grid
        if grid is not None:
            ordered = sorted((float(value) for value in grid), reverse=True)
            picks = sorted({round(i * (len(ordered) - 1) / max(1, n - 1)) for i in range(n)})
            return [ordered[i] for i in picks]
        ends = _numbers(self.config.macs_target)
        assert ends is not None
        low, high = ends
        shares = [i / max(1, n - 1) for i in range(n)]
        if self.config.macs_target.scale == "log":
            return [high * (low / high) ** share for share in shares]
        return [high - share * (high - low) for share in shares]
