"""The methods that came last, each once through a whole study: launched, resumed, scored again, exported."""

from __future__ import annotations

from typing import Any

import pytest

import autoprune
from tests.system.conftest import STUDY

pytestmark = [pytest.mark.ray, pytest.mark.slow]

MINE = '''
from autoprune.search.proposals import Sampler


class Turns(Sampler):
    """One method after the other."""

    def attempts(self, observations, draw):
        parameters = observations.space.parameters
        n = len(parameters["method"].choices)
        for place in range(n):
            share = ((draw.number + place) % n + 0.5) / n
            yield {name: p.at(share if name == "method" else 0.5) for name, p in parameters.items()}
'''
METHODS = ("ffr", "orthoreg", "granet", "fisher", "obs", "noise_out", "bwcp", "slimming", "halo", "aofp")
SPACE = f"""
methods = {list(METHODS)}
width_rules = ["per_mac"]
macs_target = {{{{ low = 0.3, high = 0.5, step = 0.1 }}}}

[method.ffr]
in_finetune = [true]

[method.orthoreg]
in_finetune = [true]

[method.granet]
interval = [2]

[method.bwcp]
whitening = ["running"]

[method.slimming]
acts_on = ["group_scales"]
"""


def test_each_of_them_prunes_resumes_and_exports(sandbox: Any) -> None:
    (sandbox.folder / "mine.py").write_text(MINE)
    head, _, rest = STUDY.partition("[space]")
    text = (
        head.replace("lease_s = 20", 'lease_s = 20\nsampler = "mine:Turns"\ninherit = false')
        + "[space]"
        + SPACE
        + rest[rest.index("\n[network]") :]
        .replace("epochs = 0.5", 'epochs = 0.5\nschedule = "rise"\ndrop_channels = 0.1')
        .replace("threads = 1", "threads = 1\nmerge = true")
        + '\n[retention]\nnetworks = "all"\n'
    )
    sandbox.write(n_trials=14, epochs=0.5, text=text)
    sandbox.run("launch", "study.toml", "--trials", "7", "--concurrency", "1")
    sandbox.run("resume", "tiny", "--trials", "14", "--concurrency", "1")
    with autoprune.open_study("tiny", sandbox.url) as study:
        trials = study.trials().query("state == 'COMPLETE' and number > 0")  # The first is the dense network.
    assert set(METHODS) <= set(trials["method"])
    assert (trials["macs_ratio"] <= 0.5).all()
    assert (trials["accuracy"] > 0.2).all()  # of ten classes, after half an epoch
    for method in ("ffr", "granet", "fisher"):
        number = str(trials.loc[trials["method"] == method].index[0])
        sandbox.run("export", "tiny", number, "--to", f"{method}.pt2")
        assert (sandbox.folder / f"{method}.pt2").exists()
