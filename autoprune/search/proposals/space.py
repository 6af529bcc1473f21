"""The search space at work: points, their parameters, and what makes two points the same trial."""

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict
from collections.abc import Mapping
from functools import cached_property
from typing import Any

from optuna.distributions import BaseDistribution

from autoprune.config import ConstraintsConfig, SpaceConfig, digest
from autoprune.cost import CostModel, Limits
from autoprune.search.proposals.parameters import Choice, Interval, Parameter, parameter_of
from autoprune.search.trials import Point, Value
from autoprune.widths import Evidence, rule_named

__all__ = ["Space"]


class Space:
    """A search space over one network's cost model, within the study's constraints.

    Its parameters are ``method``, ``width_rule`` and ``macs_target``, which every point has, ``<method>.<name>`` for
    the hyper-parameters of the point's method, and ``<width rule>.<name>`` for the multipliers of its rule. MACs
    targets that no widths reach, or that a constraint forbids, are left out of the range.

    Args:
        config: Methods with their ranges, width rules, MACs targets and multipliers.
        cost: The network's cost model.
        widths: What the setting says of all widths; its limits of costs are those of ``constraints``.
        constraints: Limits that every network must keep.

    Raises:
        InfeasibleError: Not even the smallest widths keep the constraints.
    """

    def __init__(
        self,
        config: SpaceConfig,
        cost: CostModel,
        *,
        widths: Limits | None = None,
        constraints: ConstraintsConfig | None = None,
    ) -> None:
        self.config, self.constraints = config, constraints or ConstraintsConfig()
        self._cost, self._widths = cost, widths or Limits()
        self._least = least = self._widths.smallest(cost)
        self.most_macs_ratio = _highest_target(self.constraints.macs_ratio, cost.dense_macs)
        self.activation_limit_bytes = _activation_limit(self.constraints, cost)
        most = Limits(
            macs=self.most_macs_ratio * cost.dense_macs,
            params=self.constraints.params,
            peak_activation_bytes=self.activation_limit_bytes,
        )
        most.check_reachable(cost, least, where="[constraints] ")
        self.least_macs_ratio = _target_of(cost.macs(least), cost.dense_macs)
        targets = parameter_of(config.macs_target)
        assert isinstance(targets, Interval)  # SpaceConfig takes numbers only.
        self._target = targets.clipped(self.least_macs_ratio, self.most_macs_ratio)

    @property
    def target_range(self) -> tuple[float, float]:
        """The smallest and the largest MACs target that is searched."""
        return self._target.low, self._target.high

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
    def _multipliers(self) -> dict[str, dict[str, Parameter]]:
        multiplier = parameter_of(self.config.shape)
        return {
            rule: {f"{rule}.{name}": multiplier for name in rule_named(rule).sampled(self._cost)}
            for rule in self.config.width_rules
        }

    def hyper(self, method: str) -> Mapping[str, Parameter]:
        """The parameters that a point of this method has besides."""
        return self._hyper[method]

    def multipliers(self, width_rule: str) -> Mapping[str, Parameter]:
        """The parameters that a point of this width rule has besides."""
        return self._multipliers[width_rule]

    @cached_property
    def parameters(self) -> dict[str, Parameter]:
        """All parameters of the space; no point has all of them unless there is one method and one rule."""
        own = (*self._hyper.values(), *self._multipliers.values())
        return {**self.root, **{name: parameter for branch in own for name, parameter in branch.items()}}

    @cached_property
    def defaults(self) -> dict[str, Any]:
        """A value for every parameter that not all points have: the middle of a range, the multiplier nearest to 1."""
        hyper = {name: p.middle for branch in self._hyper.values() for name, p in branch.items()}
        return {
            **hyper,
            **{f"{rule}.{key}": v for rule in self._multipliers for key, v in self.neutral_multipliers(rule).items()},
        }

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
            Point(method, rule, target, drawn(self._hyper[method], method), drawn(self._multipliers[rule], rule))
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
        own |= {**self._hyper[point.method], **self._multipliers[point.width_rule]}
        return {name: parameter.distribution for name, parameter in own.items()}

    def admits(self, point: Point) -> bool:
        """Whether the space as it is now holds this point, so that its trial can inform the sampler."""
        if point.method not in self._hyper or point.width_rule not in self._multipliers:
            return False
        branches = (point.hyper, self._bare[point.method]), (point.multipliers, self._bare[point.width_rule])
        return self._target.holds(point.macs_target) and all(branch.holds(given) for given, branch in branches)

    @cached_property
    def _bare(self) -> dict[str, _Branch]:
        """Hyper-parameters by method and multipliers by width rule."""
        return {prefix: _Branch(prefix, own) for prefix, own in {**self._hyper, **self._multipliers}.items()}

    def widths(self, point: Point) -> dict[str, int] | None:
        """Width by group where the parameters fix them; None where a ranking of the trained channels does."""
        rule, limits = rule_named(point.width_rule), self._limits(point)
        dense = dict(zip(self._cost.groups, self._cost.dense, strict=True))
        is_dense = point.macs_target >= 1 and limits.keeps(self._cost, dense)
        if is_dense and not rule.decides:
            return dense
        if rule.ranks:
            return None
        return rule.widths(Evidence(self._cost, multipliers=self._group_multipliers(point)), limits)

    def _limits(self, point: Point) -> Limits:
        macs = point.macs_target * self._cost.dense_macs
        return dataclasses.replace(
            self._widths,
            macs=macs,
            params=self.constraints.params,
            peak_activation_bytes=self.activation_limit_bytes,
        )

    def params_ratio(self, point: Point) -> float | None:
        """Parameters over the dense network's, where the point's parameters fix the widths."""
        widths = self.widths(point)
        return None if widths is None else self._cost.params_ratio(widths)

    def _group_multipliers(self, point: Point) -> dict[str, float]:
        sampled = rule_named(point.width_rule).sampled(self._cost)
        return {group: point.multipliers[name] for name, groups in sampled.items() for group in groups}

    def trial_fields(self, point: Point) -> dict[str, Any]:
        """What a trial of this point must know, as fields of `config.TrialSpec`."""
        return {
            "method": point.method,
            "hyper": dict(point.hyper),
            "width_rule": point.width_rule,
            "macs_target": point.macs_target,
            "multipliers": self._group_multipliers(point),
            "params_limit": self.constraints.params,
            "activation_limit_bytes": self.activation_limit_bytes,
            "latency_limit_ms": self.constraints.latency_ms,
            "recipe": dict(point.recipe),
            "epochs": point.epochs,
        }

    def key(self, point: Point, *context: Any) -> str:
        """Hash of what fixes the trial's result: where parameters fix the widths, the widths themselves.

        Args:
            point: The point.
            context: Whatever else the result depends on, JSON-serialisable.
        """
        widths = self.widths(point) if point.parent is None else None  # Those of a child follow from its parent's, too.
        choice: Any = widths
        if widths is None:
            # What a ranking keeps is known in the trial only, but not how its widths are bounded and rounded.
            bounds = [self._widths.multiple, sorted(self._least.items())]
            limits: list[Any] = [] if self.constraints.params is None else [self.constraints.params]
            if self.activation_limit_bytes is not None:
                limits.append({"peak_activation_bytes": self.activation_limit_bytes})
            multipliers = [dict(point.multipliers)] if point.parent is not None else []
            choice = [point.width_rule, point.macs_target, bounds, *limits, *multipliers]
        elif tuple(widths.values()) == self._cost.dense:
            choice = "dense"
        return digest(point.method, dict(point.hyper), choice, *context)

    def default_hyper(self, method: str) -> dict[str, Value]:
        """The middle of each range of a method's hyper-parameters."""
        return {name.removeprefix(f"{method}."): p.middle for name, p in self._hyper[method].items()}

    def neutral_multipliers(self, width_rule: str) -> dict[str, float]:
        """The multipliers with which a rule does as ``uniform`` does: all alike, as near to 1 as the range allows."""
        alike: dict[str, float] = {}
        for name, parameter in self._multipliers[width_rule].items():
            assert isinstance(parameter, Interval)
            one = min(max(1.0, parameter.low), parameter.high)
            alike[name.removeprefix(f"{width_rule}.")] = parameter.snap(one)
        return alike

    def geometric_ladder(self, n: int) -> list[float]:
        """At most ``n`` MACs targets whose ratios are alike, from the largest of the range to the smallest.

        They keep to a list of targets, but not to the steps of a range, which would make the lower ones all alike.
        """
        low, high = self._target.low, self._target.high
        targets = [high, *(float(f"{high * (low / high) ** (i / (n - 1)):.4g}") for i in range(1, n - 1)), low]
        return list(dict.fromkeys(map(self._target.snap, targets) if self.config.macs_target.values else targets))

    def target_ladder(self, n: int) -> list[float]:
        """At most ``n`` MACs targets spread evenly over the range, the ends included, largest first."""
        return self._target.ladder(n)


class _Branch:
    """The parameters of one method, or of one width rule, by the names that points know them by."""

    def __init__(self, prefix: str, own: Mapping[str, Parameter]) -> None:
        by_parameter = defaultdict[Parameter, list[str]](list)
        for name, parameter in own.items():
            by_parameter[parameter].append(name.removeprefix(f"{prefix}."))
        self._names = {name for names in by_parameter.values() for name in names}
        self._alike = tuple(by_parameter.items())

    def holds(self, given: Mapping[str, Any]) -> bool:
        """Whether these are the parameters, and all values lie where they may."""
        return given.keys() == self._names and all(
            parameter.holds(*[given[name] for name in names]) for parameter, names in self._alike
        )


def _target_of(macs: int, dense: int) -> float:
    """The least target that allows ``macs``: their ratio, unless rounding has lost the last of them."""
    ratio = macs / dense
    return ratio if ratio * dense >= macs else math.nextafter(ratio, math.inf)


def _highest_target(limit: float | None, dense: int) -> float:
    """The highest target whose MACs all keep ``macs / dense <= limit``, exactly as a finished trial is judged."""
    if limit is None:
        return 1.0
    most = _most(limit, dense)
    return limit if math.floor(limit * dense) == most else _target_of(most, dense)


def _most(ratio: float, dense: int) -> int:
    """The largest count whose share keeps ``count / dense <= ratio``, exactly as a finished trial is judged."""
    most = math.floor(ratio * dense)
    if (most + 1) / dense <= ratio:
        return most + 1
    return most - 1 if most / dense > ratio else most


def _activation_limit(constraints: ConstraintsConfig, cost: CostModel) -> int | None:
    """The largest peak activation memory that keeps both constraints, in bytes; None where there are none."""
    limits = [] if constraints.peak_activation_bytes is None else [constraints.peak_activation_bytes]
    if constraints.peak_activation_ratio is not None:
        limits.append(_most(constraints.peak_activation_ratio, cost.dense_peak_activation_bytes))
    return min(limits, default=None)
