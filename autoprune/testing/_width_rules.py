"""The contract of width rules, tried on a small network's costs."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np

from autoprune.cost import CostModel, LayerCost, Limits, LinearForm
from autoprune.errors import InfeasibleError
from autoprune.testing._holding import hold
from autoprune.widths import Evidence, WidthRule, keep_best

__all__ = ["check_width_rule"]


def _network() -> CostModel:
    """Three convolutions, of which the last two have a quarter of the first one's positions, and a classifier."""
    forms = [LinearForm(3), *(LinearForm(0, ((group, 1),)) for group in range(3))]
    layers = [
        LayerCost(f"layer{group + 1}.0.conv", positions, 9, 0, forms[group], forms[group + 1])
        for group, positions in enumerate((9 * 64, 9 * 16, 9 * 16))
    ]
    names = tuple(layer.name for layer in layers)
    return CostModel(names, (12, 16, 24), (*layers, LayerCost("fc", 1, 1, 1, forms[3], LinearForm(10))))


def check_width_rule(rule: WidthRule, *, seed: int = 0) -> None:
    """Hold a width rule against its contract: widths are allowed, within every limit, and the same each time.

    Args:
        rule: The rule.
        seed: Of the scores and damages that it goes by.

    Raises:
        AssertionError: Something does not hold.
    """
    cost, generator = _network(), np.random.default_rng(seed)
    dense = dict(zip(cost.groups, cost.dense, strict=True))
    scores = {name: generator.random(width) + 0.01 for name, width in dense.items()}
    damages = {}
    for name, width in dense.items():
        outputs = generator.standard_normal((width, width))
        damages[name] = outputs @ outputs.T / width
    sampled = rule.sampled(cost)
    hold(
        set(itertools.chain(*sampled.values())) <= dense.keys(), "what a rule samples must be for groups of the network"
    )
    multipliers = {group: 1.25 for groups in list(sampled.values())[:1] for group in groups}
    for share, params, multiple in itertools.product((1.0, 0.6, 0.2), (None, 0.7), (1, 4)):
        limits = Limits(
            macs=share * cost.dense_macs,
            params=None if params is None else round(params * cost.dense_params),
            multiple=multiple,
        )
        for own in ({}, multipliers):
            evidence = Evidence(cost, scores if rule.ranks else {}, own, measure=lambda: damages)
            _check_widths(rule, evidence, limits)
    try:
        rule.widths(Evidence(cost, scores, measure=lambda: damages), Limits(macs=1.0))
    except InfeasibleError:
        return
    hold(False, "limits that even the smallest widths break must raise InfeasibleError")


def _check_widths(rule: WidthRule, evidence: Evidence, limits: Limits) -> None:
    cost = evidence.cost
    widths, again = rule.widths(evidence, limits), rule.widths(dataclasses.replace(evidence), limits)
    hold(widths == again, "the same evidence and limits must give the same widths")
    hold(widths.keys() == set(cost.groups), "every group must have a width, and no other")
    they = f"with {limits}, the widths {widths}"
    for name, dense in zip(cost.groups, cost.dense, strict=True):
        width = widths[name]
        hold(width == int(width) and 1 <= width <= dense, f"{they} must be whole, from 1 to the dense width")
        hold(width == dense or width % limits.multiple == 0, f"{they} must be multiples, or dense")
    assert limits.macs is not None
    hold(cost.macs(widths) <= limits.macs * (1 + 1e-12), f"{they} must keep the limit of MACs")
    hold(limits.params is None or cost.params(widths) <= limits.params, f"{they} must keep the limit of parameters")
    if not rule.decides:
        for name, allowed in zip(cost.groups, limits.allowed(cost), strict=True):
            wider = {**widths, name: int(min(allowed[allowed > widths[name]], default=widths[name]))}
            hold(wider == widths or not limits.keeps(cost, wider), f"{they} must leave no room in {name!r}")
    if rule.ranks:
        kept = keep_best(cost, evidence.scores, widths)
        facts = rule.findings(evidence, kept)
        hold(all(np.isfinite(value) for value in facts.values()), "what a rule finds must be finite numbers")
