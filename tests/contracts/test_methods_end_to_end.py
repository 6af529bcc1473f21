"""Every method in whole trials of seconds: the target is met, and it costs no more than uniform widths do."""

import dataclasses
from pathlib import Path

import pytest
import torch

from autoprune.config import DataSpec, NetworkSpec, SettingSpec, TrainSpec, TrialSpec
from autoprune.engine.files import PhaseStore
from autoprune.methods import METHODS
from autoprune.pipeline import run_trial
from tests.small_networks import SHAPE

torch.set_num_threads(1)
pytestmark = pytest.mark.slow

RECIPE = TrainSpec(epochs=3, batch=32, learning_rate=0.1)
TARGET = 0.2


def quadrants():
    """What a study file's `factory` names: which quadrant of a noisy image is bright."""
    generator = torch.Generator().manual_seed(0)

    def draw(n):
        labels = torch.randint(4, (n,), generator=generator)
        images = torch.randint(0, 160, (n, *SHAPE), generator=generator)
        for place, (row, column) in enumerate([(0, 0), (0, 4), (4, 0), (4, 4)]):
            images[labels == place, :, row : row + 4, column : column + 4] += 40
        return images.to(torch.uint8).numpy(), labels.numpy()

    return {"train": draw(1500), "test": draw(100)}


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    return SettingSpec(
        network=NetworkSpec(factory="tests.small_networks:Plain"),
        data=DataSpec(
            source="factory", factory="tests.contracts.test_methods_end_to_end:quadrants", validation="last:500"
        ),
        dense=RECIPE, sparsify=RECIPE, finetune=RECIPE, recalibration_images=512, rungs=(),
        artifacts=str(tmp_path_factory.mktemp("artifacts")),
    )  # fmt: skip


def run(setting, method, rule, hyper=None):
    spec = TrialSpec(
        setting=setting, study="methods", number=0, method=method, hyper=hyper or {}, width_rule=rule,
        macs_target=TARGET,
    )  # fmt: skip
    return run_trial(spec, lambda report: None, PhaseStore(Path(setting.artifacts) / "phases"))


@pytest.fixture(scope="module")
def uniform(setting):
    """Uniform widths, trained as long."""
    longer = dataclasses.replace(RECIPE, epochs=2 * RECIPE.epochs)
    result = run(dataclasses.replace(setting, finetune=longer), "magnitude", "uniform")
    assert result.score > 0.9  # of four classes
    return result.score


@pytest.mark.parametrize("name", list(METHODS))
def test_reaches_its_target_as_accurate_as_uniform_widths(name, setting, uniform):
    result = run(setting, name, "uniform")
    assert 0.1 < result.macs_ratio <= TARGET
    assert result.score >= uniform - 0.02


@pytest.mark.parametrize("name", list(METHODS))
def test_channels_ranked_across_layers_reach_it_too(name, setting):
    result = run(setting, name, "global")
    assert 0.1 < result.macs_ratio <= TARGET
    assert result.score > 0.5


@pytest.mark.parametrize("form", ["subgradient", "prox"])
def test_filters_are_penalised_where_asked_for(form, setting):
    result = run(setting, "slimming_mcp", "global", {"form": form, "acts_on": "norms", "strength": 0.01})
    assert 0.1 < result.macs_ratio <= TARGET
    assert result.score > 0.5


@pytest.mark.parametrize("network", ["Headed", "Bare"])
@pytest.mark.parametrize("name", ["slimming", "slimming_mcp", "halo", "implicit"])
def test_networks_with_scales_here_and_filters_there_reach_it_too(name, network, setting):
    """The units of filters are saved with the phase, so a trial that finds it there cuts the same channels."""
    own = dataclasses.replace(setting, network=NetworkSpec(factory=f"tests.small_networks:{network}"))
    result, again = (run(own, name, "global", {"scored_by": "size"}) for _ in range(2))
    assert 0.1 < result.macs_ratio <= TARGET
    assert network == "Bare" or result.score > 0.5  # It averages over the image: quadrants are alike to it.
    assert (again.score, again.widths) == (result.score, result.widths)
