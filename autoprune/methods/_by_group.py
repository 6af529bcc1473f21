"""From numbers of all channels in a row to scores by group, and the names of what scales them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from autoprune.engine.channels import Traced
from autoprune.widths import Scores

__all__ = ["by_group", "scale_names"]


def by_group(values: NDArray[np.float64], traced: Traced) -> Scores:
    """Split what holds one number for each channel, shape (all channels,), into one array of shape (C,) by group."""
    ends = np.cumsum([group.width for group in traced.groups])
    parts = np.split(values, ends[:-1])
    return {group.name: part for group, part in zip(traced.groups, parts, strict=True)}


def scale_names(traced: Traced) -> list[str]:
    """Names of the γ of all BatchNorms that prunable channels pass, each once."""
    return list(dict.fromkeys(f"{scale}.weight" for group in traced.groups for scale in group.scales))
