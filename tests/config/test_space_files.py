"""The spaces that come with autoprune: each is made for some networks, and fits them."""

from __future__ import annotations

import random
from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

from autoprune import methods
from autoprune.architectures import ARCHITECTURES, build
from autoprune.config import StudyConfig, load_study, stock_spaces
from autoprune.config.space_files import stock_architectures
from autoprune.errors import ConfigError

MADE_FOR = {(space, network) for space, networks in stock_architectures().items() for network in networks}
QUICK = {"resnet20", "resnet32", "resnet_digits", "mobilenet_v1"}
TORCHVISION = ("torchvision/resnet18", "torchvision/efficientnet_b0", "torchvision/densenet121")
PAIRS = [
    *((space, network) for space, network in sorted(MADE_FOR) if "*" not in network),
    *(("torchvision", network) for network in TORCHVISION),
]

Load = Callable[[str], StudyConfig]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Read a study file with this table [network] and no space."""

    def load_network(network: str) -> StudyConfig:
        path = tmp_path / "study.toml"
        path.write_text(f'[study]\nname = "s"\n[network]\n{network}\n[data]\nsource = "digits"\n')
        return load_study(path, methods.catalogue())

    return load_network


def test_every_built_in_network_has_one_space_made_for_it() -> None:
    def made_for(network: str) -> list[str]:
        return [space for space, pattern in MADE_FOR if fnmatchcase(network, pattern)]

    assert {network: len(made_for(network)) for network in ARCHITECTURES} == dict.fromkeys(ARCHITECTURES, 1)
    assert [made_for(network) for network in TORCHVISION] == [["torchvision"]] * 3
    # No space is made for a network that is not there.
    assert {network for _, network in MADE_FOR} == {*ARCHITECTURES, "torchvision/*", "*:*"}
    assert {space for space, _ in MADE_FOR} == set(stock_spaces())


@pytest.mark.parametrize(
    ("network", "space"),
    [
        ("resnet110", "resnet_cifar"), ("resnet_digits", "resnet_digits"), ("vgg19", "vgg_cifar"),
        ("torchvision/resnet50", "torchvision"), ("mine:Net", "any"),
    ],
)  # fmt: skip
def test_the_space_may_be_left_out(network: str, space: str, load: Load) -> None:
    key = "factory" if ":" in network else "architecture"
    config = load(f'{key} = "{network}"').space
    assert (config.name, config.any_method) == (space, True)
    assert config.methods.keys() == methods.METHODS.keys()


def test_a_network_must_be_named_to_have_a_space(load: Load, tmp_path: Path) -> None:
    file = tmp_path / "study.toml"
    with pytest.raises(ConfigError, match=rf"^{file}: \[network\] must name a network by `architecture` or `factory`"):
        load("")


def test_a_network_that_is_not_there(load: Load) -> None:
    with pytest.raises(ConfigError, match=r"\[network\] `architecture`: .* 'resnet21'; did you mean 'resnet20'"):
        load('architecture = "resnet21"')


@pytest.mark.parametrize(
    ("space", "network"),
    [pytest.param(*pair, marks=[] if pair[1] in QUICK else pytest.mark.slow) for pair in PAIRS],
)
def test_a_stock_space_proposes_what_its_networks_can_reach(space: str, network: str, load: Load) -> None:
    import torch

    from autoprune.engine.tracing import trace
    from autoprune.search.proposals import Space, opening

    torch.set_num_threads(1)
    channels, size = (1, 8) if network == "resnet_digits" else (3, 224 if "/" in network else 32)
    model = build(network, n_classes=10, in_channels=channels)
    cost = trace(model, torch.zeros(1, channels, size, size)).cost
    config = load(f'architecture = "{network}"').space
    assert config.name == space
    least = dict.fromkeys(cost.groups, 1)
    made = Space(config, cost)
    assert config.macs_target.low is not None
    assert config.macs_target.high is not None
    assert cost.macs_ratio(least) < config.macs_target.low < config.macs_target.high < 1
    assert (0 < len(cost.groups) <= 20) or "per_group" not in config.width_rules
    assert len(cost.stages) > 1 or "per_stage" not in config.width_rules

    draw = random.Random(0)
    drawn = [made.point({n: p.at(draw.random()) for n, p in made.parameters.items()}) for _ in range(40)]
    for point in [*opening(made, 60), *drawn]:
        methods.build(point.method, point.hyper)  # raises where the method does not take a value
        widths = made.widths(point)
        assert widths is None or cost.macs_ratio(widths) <= point.macs_target
    assert {point.width_rule for point in drawn} == set(config.width_rules)
