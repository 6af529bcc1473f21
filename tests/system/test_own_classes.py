"""A study of somebody's own classes, named in its file: searched, resumed, read back."""

from __future__ import annotations

import json
from typing import Any

import pytest

import autoprune
from tests.system.conftest import STUDY

pytestmark = pytest.mark.ray

MINE = '''
from dataclasses import dataclass

import torch

from autoprune.config import check, option
from autoprune.engine.contracts import Hooks, Importance, Method, Penalty
from autoprune.search.proposals import Sampler
from autoprune.widths import WidthRule


@dataclass(frozen=True)
class Square(Penalty):
    """The squared scale."""

    strength: float = option(1e-3, above=0, high=1, search={"low": 1e-4, "high": 1e-2, "scale": "log", "points": 3})

    def __post_init__(self):
        check(self)

    def value(self, x):
        return self.strength * x.square().sum() / 2

    def gradient(self, x):
        return self.strength * x

    def prox(self, x, step):
        return x / (1 + step * self.strength)


@dataclass(frozen=True)
class Last(Importance):
    """The later a channel, the more it counts."""

    def score(self, model, traced, *, batches):
        return {group.name: torch.arange(1.0, group.width + 1).double().numpy() for group in traced.groups}


@dataclass(frozen=True)
class Clip(Method):
    """Clips the gradient, and ranks as Last does."""

    most: float = option(1.0, above=0, search={"values": (0.5, 1.0)})

    def attach(self, model, traced, *, plan):
        return Hooks(transform_gradients=lambda: torch.nn.utils.clip_grad_norm_(model.parameters(), self.most))

    def rank(self, model, traced, *, state, batches):
        return Last().score(model, traced, batches=batches)


class Thin(WidthRule):
    name = "thin"
    summary = "as thin as may be"

    def widths(self, evidence, limits):
        limits.check_reachable(evidence.cost, limits.smallest(evidence.cost))
        return limits.smallest(evidence.cost)


class Middle(Sampler):
    def attempts(self, observations, draw):
        yield {name: parameter.middle for name, parameter in observations.space.parameters.items()}
'''

SPACE = """
methods = ["mine:Square", "mine:Last", "mine:Clip", "magnitude"]
width_rules = ["uniform", "mine:Thin"]
macs_target"""


def test_own_classes_are_searched_resumed_and_read_back(sandbox: Any) -> None:
    (sandbox.folder / "mine.py").write_text(MINE)
    text = STUDY.replace("lease_s = 20", 'lease_s = 20\nsampler = "mine:Middle"').replace("macs_target", SPACE, 1)
    text = text.replace('methods = ["magnitude", "slimming"]\n', "")
    sandbox.write(n_trials=8, epochs=0.2, text=text)
    sandbox.run("launch", "study.toml", "--trials", "6", "--concurrency", "1")
    sandbox.run("resume", "tiny", "--trials", "8", "--concurrency", "1")
    with autoprune.open_study("tiny", sandbox.url) as study:
        trials = study.trials().query("state == 'COMPLETE'")
    assert len(trials) == 8
    assert {"mine:Square", "mine:Last", "mine:Clip"} <= set(trials["method"])
    assert "mine:Thin" in set(trials["width_rule"])
    by_last = trials[trials["method"].isin(["mine:Last", "mine:Clip"]) & (trials["width_rule"] == "uniform")]
    assert len(by_last)
    for weights in by_last["weights"]:
        kept = json.loads((sandbox.folder / weights).with_suffix(".json").read_text())["kept"]
        # The last channels count most: those that stay are the last ones.
        assert all(indices == list(range(indices[0], indices[-1] + 1)) for indices in kept.values())
    # The database can be read where the module is not there.
    (sandbox.folder / "mine.py").unlink()
    assert "mine:" in sandbox.run("pareto", "tiny")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (('"mine:Last"', '"mine:Lost"'), "there is no class 'Lost'; did you mean 'Last'"),
        (('"mine:Last"', '"mine:Thin"'), "must be a class of a method, penalty or importance"),
        (('"mine:Last"', '"thine:Last"'), "there is no module 'thine'"),
        (('"mine:Last"', '"mine:la st"'), "must look like package.module:Class"),
        (('"mine:Thin"', '"mine:Last"'), "must be a class of a width rule"),
        (('"mine:Middle"', '"mine:Last"'), "must be a class of a sampler"),
        (('"mine:Square"', '"mine:Square", "mine:Bare"'), "the field 'strength' must be declared with"),
    ],
)
def test_a_name_that_leads_nowhere_is_one_clear_sentence(sandbox: Any, change: tuple[str, str], told: str) -> None:
    bare = "\n\n@dataclass(frozen=True)\nclass Bare(Square):\n    strength: float = 0.1\n"
    (sandbox.folder / "mine.py").write_text(MINE + bare)
    text = STUDY.replace("lease_s = 20", 'lease_s = 20\nsampler = "mine:Middle"').replace("macs_target", SPACE, 1)
    text = text.replace('methods = ["magnitude", "slimming"]\n', "").replace(*change)
    sandbox.write(n_trials=8, text=text)
    output = sandbox.run("launch", "study.toml", "--dry-run", code=2)
    assert told in output
    assert "Traceback" not in output
