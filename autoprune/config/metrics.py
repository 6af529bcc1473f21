"""What a study scores its networks by, and the loss that the search makes of it."""

from __future__ import annotations

import keyword
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

from autoprune.errors import ConfigError, unknown_name

__all__ = ["ACCURACY", "COSTS", "DIRECTIONS", "Metric", "check_metric_name"]

COSTS = ("macs_ratio", "params_ratio", "latency_ms")
"""What a network costs: the objectives beside the metric, all of them minimised."""

DIRECTIONS = ("maximize", "minimize")

_SHARES = ("accuracy", "map", "miou")  # Metrics that are never below 0.

# What else is stored of a trial, is a column of a table, or stands in the record beside a network.
_TAKEN = frozenset(
    {
        *COSTS, "number", "state", "trial", "started", "ended", "method", "width_rule", "macs_target", "shape",
        "key", "revision", "owner", "claimed_at", "attempt", "retry_of", "seed_number", "reason", "point", "hyper",
        "progress", "phase", "why", "parent", "parent_sha256", "depth", "rungs", "images", "started_from", "wall_s",
        "weights", "sha256", "result_key", "taken_over_from", "stop_reason", "host", "node", "metric", "macs", "params",
        "convention", "widths", "latency_ratio", "theta", "differences", "lineage", "lineage_images", "like_next",
        "sd", "seeds", "scores", "seed", "fingerprint", "n_images", "study", "architecture", "factory", "n_classes",
        "image_shape", "task", "example", "normalisation", "memory_format", "dense", "kept", "kind",
        "is_pareto", "rank", "crowding", "hv_contribution", "score_se", "like_next_by",
        "peak_activation_bytes", "peak_activation_ratio",
    }
)  # fmt: skip
_TAKEN_BEGINNINGS = ("partial_", "test_")


def check_metric_name(name: str) -> None:
    """See to it that a metric's name can be a column of its own and be compared in a condition.

    Raises:
        ConfigError: It is no identifier in lower case, or something else has this name.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or keyword.iskeyword(name):
        raise ConfigError(
            "`metric` must be a name of lower-case letters, digits and underscores that begins with a letter, but got "
            f'{name[:80]!r}. Write for example "rmse".'
        )
    if name in _TAKEN or name.startswith(_TAKEN_BEGINNINGS):
        raise ConfigError(
            f"`metric` must be a name that nothing else about a trial has, but got {name!r}. "
            'Choose another, such as "rmse".'
        )


@dataclass(frozen=True)
class Metric:
    """What a study scores its networks by.

    A maximised metric is at most 1, which is ideal: whoever computes one without that bound, such as PSNR, has to bring
    it below 1. Accuracy, miou and map are shares, never below 0. A minimised metric is at least 0, which is ideal.

    The search works with the *error*, which is 0 for the ideal network: ``1 - value`` of a maximised metric,
    ``value / worst`` of a minimised one, so that a useless network has 1.

    Args:
        name: An identifier in lower case: the name under which the score is stored, and its column.
        direction: ``"maximize"`` or ``"minimize"``.
        worst: Its reference point, worse than the ideal: what a useless network has.
    """

    name: str
    direction: str
    worst: float

    def __post_init__(self) -> None:
        check_metric_name(self.name)
        if self.direction not in DIRECTIONS:
            raise ConfigError(f"`direction`: {unknown_name('direction', self.direction, DIRECTIONS)}")
        low, high = self.bounds
        is_worse = low <= self.worst < high if self.is_maximised else low < self.worst < high
        # The hypervolume counts up to this point, so it has to leave room on the way to the ideal.
        if not (is_worse and math.isfinite(self.worst)):
            interval = "greater than 0" if not self.is_maximised else "in [0, 1)" if low == 0 else "finite and below 1"
            raise ConfigError(
                f"`reference_point` must be worse than the ideal, with {self.name} {interval}, "
                f"but got {self.name}={self.worst}."
            )

    @property
    def is_maximised(self) -> bool:
        """Whether more is better."""
        return self.direction == "maximize"

    @property
    def bounds(self) -> tuple[float, float]:
        """The least and the largest value that there can be."""
        if not self.is_maximised:
            return 0.0, math.inf
        return (0.0 if self.name in _SHARES else -math.inf), 1.0

    def error(self, value: float) -> float:
        """The loss of a network with this value."""
        return 1 - value if self.is_maximised else value / self.worst

    def value(self, error: float) -> float:
        """The value of a network with this loss: what `error` was made of."""
        return 1 - error if self.is_maximised else error * self.worst

    def worsened(self, value: float, error: float) -> float:
        """What a value becomes when the error grows by so much."""
        return value - error if self.is_maximised else value + error * self.worst

    def best(self, values: Iterable[float]) -> float:
        """The best of some values, at least one."""
        return max(values) if self.is_maximised else min(values)

    def bounded(self, value: float) -> float:
        """The nearest value that there can be."""
        low, high = self.bounds
        return min(max(value, low), high)

    def text(self, value: float, *, digits: int = 4) -> str:
        """A value for people: so many digits after the point, or as many that count where it may be of any size."""
        return f"{value:.{digits}f}" if self.is_maximised else f"{value:#.{digits}g}".rstrip(".")


ACCURACY = Metric("accuracy", "maximize", 0.0)
"""The metric of a study that names none: top-1 accuracy."""
