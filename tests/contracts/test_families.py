"""Whatever is registered in a family keeps the family's contract: the checks that anybody can run on an own one."""

from __future__ import annotations

import pytest
import torch

from autoprune.importances import IMPORTANCES
from autoprune.methods import METHODS
from autoprune.penalties import PENALTIES
from autoprune.search.proposals.samplers import SAMPLERS
from autoprune.testing import check_importance, check_method, check_penalty, check_sampler, check_width_rule
from autoprune.widths import WIDTH_RULES

torch.set_num_threads(1)

SMOOTHING = {"lp": 0.01}


@pytest.mark.parametrize("name", sorted(PENALTIES))
@pytest.mark.parametrize("strength", [1e-3, 0.2])
def test_penalties(name, strength):
    check_penalty(PENALTIES[name](strength=strength), smoothing=SMOOTHING.get(name, 0.0))  # type: ignore[call-arg]


@pytest.mark.parametrize("name", sorted(IMPORTANCES))
def test_importances(name):
    check_importance(IMPORTANCES[name]())


@pytest.mark.parametrize("name", sorted(METHODS))
def test_methods(name):
    check_method(METHODS[name].build({}))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", sorted(WIDTH_RULES))
def test_width_rules(name, seed):
    check_width_rule(WIDTH_RULES[name], seed=seed)


@pytest.mark.parametrize("name", sorted(SAMPLERS))
def test_samplers(name):
    check_sampler(SAMPLERS[name])
