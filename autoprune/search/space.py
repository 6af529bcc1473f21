"""The search space at work: points, their parameters, and what makes two points the same trial."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from optuna.distributions import BaseDistribution

from autoprune.config import ConstraintsConfig, SpaceConfig
from autoprune.cost import CostModel
from autoprune.errors import InfeasibleError
from autoprune.inverse import fit
from autoprune.search.parameters import Choice, Interval, Parameter, Value, parameter_of
from autoprune.spec import RANKED_RULES, digest

__all__ = ["Point", "Space"]


@dataclass(frozen=True)
class Point:
    """One proposal of the space, as it is stored with its trial.

    Args:
        method: Name of the method.
        width_rule: Name of the width rule.
        macs_target: Upper bound of pruned / dense MACs, in (0, 1].
        hyper: The method's hyper-parameters.
        shape: Multipliers of the keep ratio by what the rule samples: by group for ``per_group``, by stage of the
            network for ``per_stage``, none for the others.
    """

    method: str
    width_rule: str
    macs_target: float
    hyper: Mapping[str, Value] = field(default_factory=dict)
    shape: Mapping[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The point as JSON-serialisable data; ``Point(**data)`` reads it again."""
        return dataclasses.asdict(self)

    @property
    def params(self) -> dict[str, Value]:
        """Parameter values by the names that the sampler and the database know them by."""
        return {
            "method": self.method,
            "width_rule": self.width_rule,
            "macs_target": self.macs_target,
            **{f"{self.method}.{key}": value for key, value in self.hyper.items()},
            **{f"{self.width_rule}.{key}": value for key, value in self.shape.items()},
        }

    @property
    def told_hyper(self) -> str:
        """The method's hyper-parameters in a line for people."""
        told = {key: f"{value:g}" if isinstance(value, float) else str(value) for key, value in self.hyper.items()}
        return ", ".join(f"{key}={value}" for key, value in told.items())


class Space:
    """A search space over one network's cost model, within the study's constraints.

    Its parameters are ``method``, ``width_rule`` and ``macs_target``, which every point has, ``<method>.<name>`` for
    the hyper-parameters of the point's method, and ``<width rule>.<name>`` for the multipliers of its rule. MACs
    targets that no widths reach, or that a constraint forbids, are left out of the range.

    Args:
        config: Methods with their ranges, width rules, MACs targets and multipliers.
        cost: The network's cost model.
        min_widths: Smallest width by group, which is an allowed one.
        multiple: Widths are multiples of it; see `inverse.fit`.
        constraints: Limits that every network must keep.

    Raises:
        InfeasibleError: Not even the minimum widths keep the constraints.
    """

    def __init__(
        self,
        config: SpaceConfig,
        cost: CostModel,
        *,
        min_widths: Mapping[str, int],
        multiple: int = 1,
        constraints: ConstraintsConfig | None = None,
    ) -> None:
        self.config, self.constraints = config, constraints or ConstraintsConfig()
        self._cost, self._min_widths, self._multiple = cost, dict(min_widths), multiple
        least = {name: min_widths[name] for name in cost.groups}
        _check_feasible(cost, least, self.constraints)
        self.least_macs_ratio = _target_of(cost.macs(least), cost.dense_macs)
        self.most_macs_ratio = _highest_target(self.constraints.macs_ratio, cost.dense_macs)
        targets = parameter_of(config.macs_target)
        assert isinstance(targets, Interval)  # SpaceConfig takes numbers only.
        self._target = targets.clipped(self.least_macs_ratio, self.most_macs_ratio)

    @cached_property
    def root(self) -> dict[str, Parameter]:
        """The parameters that every point has."""
        return {
            "method": Choice(tuple(self.config.methods)),
            "width_rule": Choice(tuple(self.config.width_rules)),
            "macs_target": self._target,
        }

    @cached_property
    def _hyper(self) -> dict[str, dict[str, Parameter]]:
        return {
            method: {f"{method}.{key}": parameter_of(values) for key, values in ranges.items()}
            for method, ranges in self.config.methods.items()
        }

    @cached_property
    def _shapes(self) -> dict[str, dict[str, Parameter]]:
        sampled = {"per_group": self._cost.groups, "per_stage": tuple(self._cost.stages)}
        multiplier = parameter_of(self.config.shape)
        return {
            rule: {f"{rule}.{name}": multiplier for name in sampled.get(rule, ())} for rule in self.config.width_rules
        }

    def hyper(self, method: str) -> Mapping[str, Parameter]:
        """The parameters that a point of this method has besides."""
        return self._hyper[method]

    def shape(self, width_rule: str) -> Mapping[str, Parameter]:
        """The parameters that a point of this width rule has besides."""
        return self._shapes[width_rule]

    @cached_property
    def parameters(self) -> dict[str, Parameter]:
        """All parameters of the space; no point has all of them unless there is one method and one rule."""
        own = (*self._hyper.values(), *self._shapes.values())
        return {**self.root, **{name: parameter for branch in own for name, parameter in branch.items()}}

    @cached_property
    def defaults(self) -> dict[str, Any]:
        """A value for every parameter that not all points have: the middle of a range, the multiplier nearest to 1."""
        hyper = {name: p.middle for branch in self._hyper.values() for name, p in branch.items()}
        return {**hyper, **{f"{rule}.{key}": v for rule in self._shapes for key, v in self.neutral_shape(rule).items()}}

    def point(self, values: Mapping[str, Any]) -> Point:
        """The point of drawn values: snapped to the grids, its target repaired.

        Args:
            values: By parameter, at least those that the point has; others are not looked at.
        """
        method, rule = str(values["method"]), str(values["width_rule"])

        def drawn(own: Mapping[str, Parameter], prefix: str) -> dict[str, Any]:
            return {name.removeprefix(f"{prefix}."): p.snap(values[name]) for name, p in own.items()}

        target = self._target.snap(values["macs_target"])
        return self.repair(
            Point(method, rule, target, drawn(self._hyper[method], method), drawn(self._shapes[rule], rule))
        )

    def repair(self, point: Point) -> Point:
        """Move a target that not even the minimum widths reach, or that is above the limit, to the nearest allowed."""
        target = min(max(point.macs_target, self.least_macs_ratio), self.most_macs_ratio)
        return point if target == point.macs_target else dataclasses.replace(point, macs_target=target)

    def distributions(self, point: Point) -> dict[str, BaseDistribution]:
        """The distribution of each of the point's parameters.

        The target's interval is widened to hold the point, since the dense network may lie outside of what is searched.
        """
        own = {**self.root, "macs_target": self._target.holding(point.macs_target)}
        own |= {**self._hyper[point.method], **self._shapes[point.width_rule]}
        return {name: parameter.distribution for name, parameter in own.items()}

    def admits(self, point: Point) -> bool:
        """Whether the space as it is now holds this point, so that its trial can inform the sampler."""
        if point.method not in self._hyper or point.width_rule not in self._shapes:
            return False
        own = {**self.root, **self._hyper[point.method], **self._shapes[point.width_rule]}
        params = point.params
        return params.keys() == own.keys() and all(p.holds(params[name]) for name, p in own.items())

    def widths(self, point: Point) -> dict[str, int] | None:
        """Width by group where the parameters fix them; None where a ranking of the trained channels does."""
        params, dense = self.constraints.params, self._cost.dense_params
        is_dense = point.macs_target >= 1 and (params is None or params >= dense)
        if is_dense and point.width_rule != "learned":  # A method may decide against channels that a limit allows.
            return dict(zip(self._cost.groups, self._cost.dense, strict=True))
        if point.width_rule in RANKED_RULES:
            return None
        return fit(
            self._cost,
            macs=point.macs_target * self._cost.dense_macs,
            params=params,
            shape=self._group_shape(point),
            min_widths=self._min_widths,
            multiple=self._multiple,
        )

    def params_ratio(self, point: Point) -> float | None:
        """Parameters over the dense network's, where the point's parameters fix the widths."""
        widths = self.widths(point)
        return None if widths is None else self._cost.params_ratio(widths)

    def _group_shape(self, point: Point) -> dict[str, float]:
        if point.width_rule != "per_stage":
            return dict(point.shape)
        return {group: point.shape[stage] for stage, groups in self._cost.stages.items() for group in groups}

    def trial_fields(self, point: Point) -> dict[str, Any]:
        """What a trial of this point is told, as fields of `spec.TrialSpec`."""
        return {
            "method": point.method,
            "hyper": dict(point.hyper),
            "width_rule": point.width_rule,
            "macs_target": point.macs_target,
            "shape": self._group_shape(point),
            "params_limit": self.constraints.params,
            "latency_limit_ms": self.constraints.latency_ms,
        }

    def key(self, point: Point, *context: Any) -> str:
        """Hash of what fixes the trial's result: where parameters fix the widths, the widths themselves.

        Args:
            point: The point.
            context: Whatever else the result depends on, JSON-serialisable.
        """
        widths = self.widths(point)
        choice: Any = widths
        if widths is None:
            # What a ranking keeps is known in the trial only, but not how its widths are bounded and rounded.
            bounds = [self._multiple, sorted(self._min_widths.items())]
            limits = [] if self.constraints.params is None else [self.constraints.params]
            choice = [point.width_rule, point.macs_target, bounds, *limits]
        elif tuple(widths.values()) == self._cost.dense:
            choice = "dense"
        return digest(point.method, dict(point.hyper), choice, *context)

    def default_hyper(self, method: str) -> dict[str, Value]:
        """The middle of each range of a method's hyper-parameters."""
        return {name.removeprefix(f"{method}."): p.middle for name, p in self._hyper[method].items()}

    def neutral_shape(self, width_rule: str) -> dict[str, float]:
        """The multipliers with which a rule does as ``uniform`` does: all alike, as near to 1 as the range allows."""
        alike: dict[str, float] = {}
        for name, parameter in self._shapes[width_rule].items():
            assert isinstance(parameter, Interval)
            one = min(max(1.0, parameter.low), parameter.high)
            alike[name.removeprefix(f"{width_rule}.")] = parameter.snap(one)
        return alike

    def target_ladder(self, n: int) -> list[float]:
        """At most ``n`` MACs targets spread evenly over the range, the ends included, largest first."""
        return self._target.ladder(n)


def _target_of(macs: int, dense: int) -> float:
    """The least target that allows ``macs``: their ratio, unless rounding has lost the last of them."""
    ratio = macs / dense
    return ratio if ratio * dense >= macs else math.nextafter(ratio, math.inf)


def _highest_target(limit: float | None, dense: int) -> float:
    """The highest target whose MACs all keep ``macs / dense <= limit``, exactly as a finished trial is judged."""
    if limit is None:
        return 1.0
    most = math.floor(limit * dense)
    if (most + 1) / dense <= limit:
        most += 1
    elif most / dense > limit:
        most -= 1
    return limit if math.floor(limit * dense) == most else _target_of(most, dense)


def _check_feasible(cost: CostModel, least: Mapping[str, int], constraints: ConstraintsConfig) -> None:
    ratio, params = cost.macs_ratio(least), cost.params(least)
    advice = "Raise it, lower `min_width`, or exclude fewer layers."
    if constraints.macs_ratio is not None and ratio > constraints.macs_ratio:
        told = math.ceil(1e4 * ratio) / 1e4  # Rounded up: the number told must do.
        raise InfeasibleError(
            f"[constraints] `macs_ratio` must be at least {told:.4f}, that of the minimum widths, "
            f"but got {constraints.macs_ratio:g}. {advice}"
        )
    if constraints.params is not None and params > constraints.params:
        raise InfeasibleError(
            f"[constraints] `params` must be at least {params:,}, those of the minimum widths, "
            f"but got {constraints.params:,}. {advice}"
        )
