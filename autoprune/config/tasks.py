"""The ``[task]`` table: what networks are to do, and what they are scored by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from autoprune.config.fields import check, option
from autoprune.config.metrics import DIRECTIONS, check_metric_name
from autoprune.errors import ConfigError

__all__ = ["TASKS", "TaskSpec"]

TASKS: Mapping[str, tuple[str, str]] = {
    "classification": ("accuracy", "maximize"),
    "segmentation": ("miou", "maximize"),
    "detection": ("map", "maximize"),
    "regression": ("rmse", "minimize"),
}
"""The kinds of tasks; metric of each, and whether more or less of it is better."""


@dataclass(frozen=True, kw_only=True)
class TaskSpec:
    """What networks are to do.

    Args:
        kind: Says what goes without saying of the loss, the metric and what is learnt from a teacher.
        factory: ``"package.module:function"`` that returns an ``autoprune.Task``; without it, the images of [data].
        metric: Name of what networks are scored by, that of the kind where none is given. Only a task of its own has
            another.
        direction: Whether more of the metric is better; that of the kind where nothing is said.
    """

    kind: str = option("classification", choices=tuple(TASKS))
    factory: str | None = option(None)
    metric: str | None = option(None)
    direction: str | None = option(None, choices=DIRECTIONS)

    def __post_init__(self) -> None:
        check(self)
        if self.metric is not None:
            check_metric_name(self.metric)
        if self.factory is None and self.kind != "classification":
            raise ConfigError(
                f"`kind` = {self.kind!r} needs `factory`, a function that returns an autoprune.Task with its loaders, "
                'since [data] holds labelled images alone. Add factory = "package.module:function".'
            )
        if self.factory is None and (self.metric, self.direction) != (None, None):
            raise ConfigError(
                "`metric` and `direction` name what a task of your own is scored by, so they need `factory`. Drop them."
            )
        if self.metric is not None and self.metric != TASKS[self.kind][0] and self.direction is None:
            raise ConfigError(
                f"`metric` = {self.metric!r} needs `direction`, since it is not the metric of `kind` = {self.kind!r}. "
                'Add direction = "maximize" or "minimize".'
            )

    @property
    def metric_name(self) -> str:
        """What networks are scored by."""
        return self.metric or TASKS[self.kind][0]

    @property
    def metric_direction(self) -> str:
        """``"maximize"`` or ``"minimize"``."""
        return self.direction or TASKS[self.kind][1]
