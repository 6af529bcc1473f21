"""The parameters of a search space: what values each may take, and how Optuna is told of them."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, TypeAlias

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution

from autoprune.config import Range
from autoprune.search.trials import Value

__all__ = ["Choice", "Interval", "Parameter", "parameter_of"]


_NUMBERS = (int, float)


@dataclass(frozen=True)
class Choice:
    """One of a list of names or truth values."""

    choices: tuple[Value, ...]

    @property
    def distribution(self) -> BaseDistribution:
        """As Optuna knows it."""
        return CategoricalDistribution(self.choices)

    @property
    def is_open(self) -> bool:
        """Whether there is more than one value."""
        return len(self.choices) > 1

    @property
    def middle(self) -> Value:
        """A value to start from."""
        return self.choices[len(self.choices) // 2]

    def holds(self, *values: Any) -> bool:
        """Whether all values are among the choices."""
        return all(value in self.choices for value in values)

    def snap(self, value: Any) -> Any:
        """The value itself."""
        return value

    def at(self, share: float) -> Value:
        """The value at a share in [0, 1) of the way, each choice equally wide."""
        return self.choices[min(int(share * len(self.choices)), len(self.choices) - 1)]


@dataclass(frozen=True)
class Interval:
    """A number between two ends, often on a grid.

    Optuna is told of a continuous interval even where numbers lie on a grid: edits of the grid then keep the history
    valid. What it draws is snapped.

    Args:
        low: Smallest value.
        high: Largest value, >= low.
        is_log: Whether distances are those of the logarithms; then low > 0.
        grid: The values in rising order, all in [low, high], or None.
    """

    low: float
    high: float
    is_log: bool = False
    grid: tuple[float, ...] | None = None

    @property
    def distribution(self) -> BaseDistribution:
        """As Optuna knows it."""
        return FloatDistribution(self.low, self.high, log=self.is_log)

    @property
    def is_open(self) -> bool:
        """Whether there is more than one value."""
        return self.low < self.high

    @property
    def middle(self) -> float:
        """A value to start from."""
        if self.grid is not None:
            return self.grid[len(self.grid) // 2]
        return math.sqrt(self.low * self.high) if self.is_log else (self.low + self.high) / 2

    def holds(self, *values: Any) -> bool:
        """Whether all values lie between the ends."""
        # In few steps of Python: histories of tens of thousands of points of dozens of numbers are held against it.
        if not all(isinstance(value, _NUMBERS) for value in values):
            return False
        return all(map(float(self.low).__le__, values)) and all(map(float(self.high).__ge__, values))

    def snap(self, value: Any) -> Any:
        """The value of the grid that is nearest on the scale; the value itself where there is no grid."""
        if self.grid is None:
            return value
        return min(self.grid, key=lambda g: abs(math.log(g) - math.log(value)) if self.is_log else abs(g - value))

    def at(self, share: float) -> float:
        """The value at a share in [0, 1) of the way from low to high on the scale."""
        if self.is_log:
            value: float = self.low * (self.high / self.low) ** share
            return min(max(value, self.low), self.high)
        return min(self.low + share * (self.high - self.low), self.high)

    def holding(self, value: float) -> Interval:
        """The interval, widened to hold a value."""
        return dataclasses.replace(self, low=min(self.low, value), high=max(self.high, value))

    def clipped(self, low: float, high: float) -> Interval:
        """The interval between new ends, to which what lies outside of them is moved."""

        def clip(value: float) -> float:
            return min(max(value, low), high)

        grid = None if self.grid is None else tuple(dict.fromkeys(map(clip, self.grid)))
        return dataclasses.replace(self, low=clip(self.low), high=clip(self.high), grid=grid)

    def ladder(self, n: int) -> list[float]:
        """At most ``n`` values spread evenly over the interval, the ends included, largest first."""
        shares = [i / max(1, n - 1) for i in range(n)]
        if self.grid is not None:
            picks = sorted({round(share * (len(self.grid) - 1)) for share in shares})
            return [self.grid[-1 - i] for i in picks]
        if self.is_log:
            return [self.high * (self.low / self.high) ** share for share in shares]
        return [self.high - share * (self.high - self.low) for share in shares]


Parameter: TypeAlias = Choice | Interval


def parameter_of(values: Range) -> Parameter:
    """The parameter that takes the values of a range."""
    grid = values.grid
    if grid is not None and any(isinstance(value, str | bool) for value in grid):
        return Choice(grid)
    numbers = None if grid is None else tuple(sorted(float(value) for value in grid))
    if values.values is not None:
        assert numbers is not None
        return Interval(numbers[0], numbers[-1], values.scale == "log", numbers)
    assert values.low is not None
    assert values.high is not None
    return Interval(values.low, values.high, values.scale == "log", numbers)
