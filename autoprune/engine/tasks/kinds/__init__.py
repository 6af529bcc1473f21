"""Kinds of tasks, one file each."""

from __future__ import annotations

from collections.abc import Mapping

from autoprune.engine.tasks.kinds._classification import Classification
from autoprune.engine.tasks.kinds._contract import Kind, Losses, Metric
from autoprune.engine.tasks.kinds._detection import Detection
from autoprune.engine.tasks.kinds._regression import Regression
from autoprune.engine.tasks.kinds._segmentation import Segmentation

__all__ = ["KINDS", "Kind", "Losses", "Metric"]

KINDS: Mapping[str, Kind] = {kind.name: kind for kind in (Classification(), Segmentation(), Detection(), Regression())}
"""By name; the metric of each stands in `config.TASKS`."""
