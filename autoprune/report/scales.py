"""From values to places on a page: axes, their ticks, and numbers for people."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

__all__ = ["Scale", "linear", "number_text", "quantile", "ratio_scale", "tick_texts"]

_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)
_LOG_STEPS = ((1, 1.5, 2, 3, 4, 5, 7), (1, 2, 3, 5), (1, 2, 5), (1, 3), (1,))


@dataclass(frozen=True)
class Scale:
    """An axis.

    Args:
        low: Value at ``start``.
        high: Value at ``end``; greater than ``low``.
        start: Place of ``low``, in the units of the drawing.
        end: Place of ``high``; may be less than ``start``.
        is_log: Whether equal ratios have equal lengths; both values are then > 0.
    """

    low: float
    high: float
    start: float
    end: float
    is_log: bool = False

    def __call__(self, value: float) -> float:
        """The place of a value; one beyond an end lies at that end."""
        value = min(max(value, self.low), self.high)
        if self.is_log:
            share = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    @property
    def flipped(self) -> Scale:
        """The same axis the other way round: for a metric of which less is better."""
        return replace(self, start=self.end, end=self.start)

    def ticks(self, most: int = 7) -> list[float]:
        """Round values within the range, rising: at least two, and at most about ``most``."""
        if self.is_log and self.high / self.low >= 3:
            return self._log_ticks(most)
        step = _step((self.high - self.low) / most)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [float(f"{i * step:.12g}") for i in range(first, last + 1)]

    def _log_ticks(self, most: int) -> list[float]:
        first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
        found: list[float] = []
        for steps in _LOG_STEPS:
            all_ = [float(f"{step * 10.0**power:.12g}") for power in range(first, last + 1) for step in steps]
            found = [tick for tick in all_ if self.low * (1 - 1e-9) <= tick <= self.high * (1 + 1e-9)]
            if len(found) <= most:
                break
        return found if len(found) > 1 else [self.low, self.high]


def linear(values: Sequence[float], start: float, end: float, *, margin: float = 0.04) -> Scale:
    """An axis that holds all values, with some room around them.

    Args:
        values: At least one, finite.
        start: Place of the least.
        end: Place of the largest.
        margin: Room at each end, as a share of the range.
    """
    low, high = min(values), max(values)
    room = (high - low) * margin or abs(high) * 0.1 or 1.0
    return Scale(low - room, high + room, start, end)


def ratio_scale(values: Sequence[float], start: float, end: float) -> Scale:
    """An axis for what is greater than 0: logarithmic where the values span more than a factor of eight."""
    low, high = min(values), max(values)
    if low <= 0 or high / low < 8:
        return linear([*values, 0.0] if low > 0 and high / low > 2.5 else values, start, end, margin=0.03)
    return Scale(low / 1.12, high * 1.12, start, end, is_log=True)


def _step(least: float) -> float:
    power = 10.0 ** math.floor(math.log10(least))
    return next(power * step for step in _STEPS if power * step >= least * (1 - 1e-9))


def quantile(values: Sequence[float], share: float) -> float:
    """The value below which a share of the values lies; of at least one."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def number_text(value: float | None, digits: int = 4) -> str:
    """A number for people: four digits that count, thousands apart, whole ones without a point."""
    if value is None or not math.isfinite(value):
        return "–"
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    if abs(value) >= 10**digits:
        return f"{value:,.0f}"
    return f"{value:.{digits}g}" if abs(value) >= 1e-4 else f"{value:.2e}"


def tick_texts(ticks: Sequence[float]) -> list[str]:
    """Labels of an axis, all with as many digits as the finest needs."""
    if not ticks or max(map(abs, ticks)) >= 1e5 or min((abs(t) for t in ticks if t), default=1.0) < 1e-3:
        return [f"{tick:.3g}" for tick in ticks]
    gap = min((abs(b - a) for a, b in pairwise(ticks)), default=1.0) or 1.0
    digits = next((n for n in range(6) if abs(gap * 10**n - round(gap * 10**n)) < 1e-6), 6)
    return [f"{tick:,.{digits}f}" for tick in ticks]
