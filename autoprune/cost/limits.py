"""What the widths of a network must keep, as one idea."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from autoprune.cost.model import CostModel, check_groups
from autoprune.errors import ConfigError, InfeasibleError

__all__ = ["Limits", "allowed_widths"]


def allowed_widths(dense: int, *, multiple: int = 1, smallest: int = 1) -> NDArray[np.int64]:
    """Allowed widths of one group, rising, ending with the dense one.

    Args:
        dense: The group's dense width.
        multiple: Widths below the dense one are multiples of it, where the dense width is larger.
        smallest: None is smaller than this, in 1 .. ``dense``.

    Example:
        >>> allowed_widths(20, multiple=8, smallest=3), allowed_widths(4, multiple=8)
        (array([ 8, 16, 20]), array([1, 2, 3, 4]))
    """
    stride = multiple if dense > multiple else 1
    widths = np.arange(stride, dense, stride, dtype=np.int64)
    return np.append(widths[widths >= smallest], dense)


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Upper limits of a network's cost, and what its widths may be; None stands for no limit.

    Args:
        macs: Most MACs (a count, not a ratio).
        params: Most parameters.
        peak_activation_bytes: Largest peak activation memory (`CostModel.peak_activation_bytes`).
        latency_ms: Longest median time of one batch. It can only be measured, so no widths are chosen by it.
        min_widths: Smallest width by group, 1 if absent, rounded up to an allowed one.
        multiple: Allowed widths are multiples of it in groups whose dense width is larger, and the dense width itself.
    """

    macs: float | None = None
    params: float | None = None
    peak_activation_bytes: float | None = None
    latency_ms: float | None = None
    min_widths: Mapping[str, int] = field(default_factory=dict)
    multiple: int = 1

    def allowed(self, cost: CostModel) -> list[NDArray[np.int64]]:
        """The allowed widths of each group, rising, in the order of the model's groups.

        Raises:
            ConfigError: A smallest width of no group or outside of 1 .. its dense width, or a multiple below 1.
        """
        check_groups(cost, self.min_widths)
        for name, smallest in self.min_widths.items():
            dense = cost.dense[cost.groups.index(name)]
            if not 1 <= smallest <= dense:
                raise ConfigError(f"the smallest width of {name!r} must be in 1 .. {dense}, but got {smallest}.")
        if self.multiple < 1:
            raise ConfigError(f"`multiple` must be at least 1, but got multiple={self.multiple}.")
        return [
            allowed_widths(dense, multiple=self.multiple, smallest=self.min_widths.get(name, 1))
            for name, dense in zip(cost.groups, cost.dense, strict=True)
        ]

    def smallest(self, cost: CostModel) -> dict[str, int]:
        """The smallest allowed width of each group."""
        return {name: int(allowed[0]) for name, allowed in zip(cost.groups, self.allowed(cost), strict=True)}

    @overload
    def keeps(self, cost: CostModel, widths: Mapping[str, int]) -> bool: ...
    @overload
    def keeps(self, cost: CostModel, widths: NDArray[np.integer[Any]]) -> NDArray[np.bool_]: ...
    def keeps(self, cost: CostModel, widths: Mapping[str, int] | NDArray[np.integer[Any]]) -> bool | NDArray[np.bool_]:
        """Whether widths cost no more than the limits: a bool for a mapping, shape () for (G,), (T,) for (T, G)."""
        array = cost.as_array(widths) if isinstance(widths, Mapping) else np.asarray(widths)
        kept = np.ones(array.shape[:-1], dtype=np.bool_)
        if self.macs is not None:
            kept &= cost.macs(array) <= self.macs
        if self.params is not None:
            kept &= cost.params(array) <= self.params
        if self.peak_activation_bytes is not None:
            kept &= cost.peak_activation_bytes(array) <= self.peak_activation_bytes
        return bool(kept) if isinstance(widths, Mapping) else kept

    def check_reachable(self, cost: CostModel, least: Mapping[str, int], *, where: str = "") -> None:
        """Refuse limits that not even the smallest widths keep.

        Args:
            cost: The network's cost model.
            least: The smallest widths, by group.
            where: What the message begins with, such as ``"[constraints]: "``.

        Raises:
            InfeasibleError: The smallest widths cost more; the message names what they cost.
        """
        missed = []
        compared: list[tuple[str, str, float | None, int, int]] = [
            ("MACs", "macs_ratio", self.macs, cost.macs(least), cost.dense_macs),
            ("parameters", "params_ratio", self.params, cost.params(least), cost.dense_params),
        ]
        if self.peak_activation_bytes is not None:
            peak, dense_peak = cost.peak_activation_bytes(least), cost.dense_peak_activation_bytes
            unit = "bytes of activations at once"
            compared.append((unit, "peak_activation_ratio", self.peak_activation_bytes, peak, dense_peak))
        for unit, ratio, limit, found, dense in compared:
            if limit is not None and found > limit:
                share = math.ceil(1e4 * found / dense) / 1e4  # Rounded up: the number that is named must do.
                missed.append(
                    f"at most {limit:,.0f} {unit} ({ratio} {limit / dense:.4f}), but the smallest ones cost {found:,} "
                    f"({share:.4f})"
                )
        if missed:
            raise InfeasibleError(
                f"{where}the widths must cost {', and '.join(missed)}. Raise the limit, lower the smallest widths "
                "(`min_width`), or exclude fewer layers."
            )
