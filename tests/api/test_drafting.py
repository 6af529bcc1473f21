"""Search spaces drafted for networks: they load, plan, and say what was left out."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from autoprune import api
from autoprune.errors import ConfigError, NetworkError
from autoprune.methods import METHODS, ranges
from autoprune.widths import WIDTH_RULES

Write = Callable[..., Path]

OWN = """
import torch

def net(*widths, strides, normalised=True):
    layers = []
    for inputs, width, stride in zip((1, *widths), widths, strides):
        norm = [torch.nn.BatchNorm2d(width)] if normalised else []
        layers += [torch.nn.Conv2d(inputs, width, 3, stride=stride, padding=1), *norm, torch.nn.ReLU()]
    return torch.nn.Sequential(*layers, torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(width, 10))

def plain():
    return net(8, 16, strides=[1, 1], normalised=False)

def long():
    return net(*[4] * 18, strides=[1] * 18)

def staged():
    return net(8, 16, strides=[1, 2])

def rigid():
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
"""


@pytest.fixture
def write(artifacts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Write a study file of one network, without a space unless one is named."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "drafted_by_test.py").write_text(OWN)

    def write_file(network: str, *, space: str | None = None) -> Path:
        named = "" if space is None else f'space = "{space}"\n'
        data = f'[data]\nsource = "digits"\n[engine]\nartifacts = "{artifacts}"\n'
        (tmp_path / "study.toml").write_text(f'[study]\nname = "s"\n{named}[network]\n{network}\n{data}')
        return tmp_path / "study.toml"

    return write_file


def own(name: str) -> str:
    return f'factory = "drafted_by_test:{name}"'


def test_a_drafted_space_loads_and_plans(write: Write, tmp_path: Path) -> None:
    (tmp_path / "spaces").mkdir()
    name = api.write_space(write(own("plain")), Path("spaces") / "mine.toml")
    assert name == "spaces/mine.toml"
    text = (tmp_path / name).read_text()
    assert f'#     space = "{name}"' in text
    plan = api.plan(write(own("plain"), space=name), n_trials=30)
    space = plan.config.space
    assert (space.name, space.any_method) == ("mine", False)
    assert space.methods.keys() == {"magnitude", "damage"}
    others = text.split("# For larger studies, or longer sparsify phases:\n")[1].split("# Not ")[0]
    assert '# "filter_norm",  # ' in others
    unfit = {"resrep", "bwcp", "scale"}  # They need a BatchNorm.
    left_out = [block.split(":\n")[0] for block in text.split("# Not ")[1:]]  # one block for each reason
    assert all(any(f'"{method}"' in block for block in left_out) for method in unfit)
    assert all(f'"{method}"' in text for method in METHODS)
    assert (
        "# there must be a BatchNorm with scales behind every prunable channel, but there is none behind 0, 2." in text
    )
    assert space.width_rules == ("uniform", "global", "aofp", "learned", "per_group")
    assert {point["method"] for point in plan.opening} <= space.methods.keys()


def test_a_drafted_space_names_what_is_searched_unasked(write: Write, tmp_path: Path) -> None:
    api.write_space(write('architecture = "resnet_digits"'), tmp_path / "space.toml")
    tables = tomllib.loads((tmp_path / "space.toml").read_text())
    # A sparsify phase of the digits is too short for the others.
    assert tables["space"]["methods"] == ["magnitude", "damage"]
    assert set(tables["space"]["width_rules"]) == {name for name, rule in WIDTH_RULES.items() if rule.is_default}
    assert tables["space"]["macs_target"] == {"low": 0.05, "high": 0.9, "step": 0.05}
    assert "method" not in tables  # Rankings have nothing to be searched.
    path = write('architecture = "resnet_digits"', space="space.toml")
    assert api.plan(path).config.space.methods == {name: ranges()[name] for name in ("magnitude", "damage")}
    assert "#     stage1: conv1 (16), layer1.0.conv1 (16)\n" in (tmp_path / "space.toml").read_text()


def test_rules_that_would_search_too_much_or_the_same_are_left_out(write: Write, tmp_path: Path) -> None:
    def rules(network: str) -> tuple[list[str], str]:
        file = tmp_path / f"{network}.toml"
        api.write_space(write(own(network)), file)
        return tomllib.loads(file.read_text())["space"]["width_rules"], file.read_text()

    found, text = rules("long")
    assert found == ["uniform", "global", "aofp", "learned"]
    assert '# "per_group": a multiplier for each of the 18 channel groups is more than a study of some ' in text
    assert '# "per_stage": there is only one stage' in text
    found, text = rules("staged")
    assert found == ["uniform", "global", "aofp", "learned", "per_stage"]
    assert '# "per_group": each stage is one channel group' in text


def test_targets_begin_where_the_network_can_reach(write: Write, tmp_path: Path) -> None:
    def targets(*, min_width: int) -> dict[str, float]:
        file = tmp_path / f"{min_width}.toml"
        path = write(f'architecture = "resnet_digits"\nmin_width = {min_width}')
        api.write_space(path, file)
        least = api.inspect(path).least_macs_ratio
        found: dict[str, float] = tomllib.loads(file.read_text())["space"]["macs_target"]
        assert 0 <= found["low"] - least < 0.05
        return found

    assert targets(min_width=16) == {"low": 0.55, "high": 0.9, "step": 0.05}
    assert targets(min_width=63)["high"] == 1.0


def test_nothing_is_overwritten(write: Write, tmp_path: Path) -> None:
    study = write(own("plain"))
    (tmp_path / "space.toml").write_text("mine")
    with pytest.raises(ConfigError, match=r"^space\.toml must not be there yet, but is\. Choose another name"):
        api.write_space(study, "space.toml")
    assert (tmp_path / "space.toml").read_text() == "mine"
    with pytest.raises(ConfigError, match=r"^a search space must be a \.toml file, but got 'space\.txt'\."):
        api.write_space(study, "space.txt")
    with pytest.raises(ConfigError, match=r"gone/space\.toml can't be written: No such file or directory\.$"):
        api.write_space(study, tmp_path / "gone" / "space.toml")
    with pytest.raises(NetworkError, match=r"^a search space needs a network of which something can be pruned, but "):
        api.write_space(write(own("rigid")), "new.toml")
    assert not (tmp_path / "new.toml").exists()
