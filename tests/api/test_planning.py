"""What is worked out before a launch."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from autoprune import api, methods
from autoprune.api import _planning
from autoprune.config import option
from autoprune.errors import ConfigError, DataError, IdentityError, InfeasibleError, NetworkError, StorageError
from autoprune.importances import GroupNorm
from tests.digits_task import TABLES
from tests.postgres import Postgres

Write = Callable[..., Path]


def test_arguments_go_over_the_file(write_study: Write, tmp_path: Path) -> None:
    path = write_study(tmp_path)
    assert _planning.load_config(path).study.n_trials == 10
    config = _planning.load_config(str(path), n_trials=3, concurrency=2)
    assert (config.study.n_trials, config.resources.concurrency) == (3, 2)
    assert config.study.reference_point == {"accuracy": 0.5, "macs_ratio": 1.0}  # all else is the file's


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (
            {"n_trials": 0},
            "arguments: `n_trials` must be in [1, 1000000], but got n_trials=0. Give the number of trials",
        ),
        ({"n_trials": -1}, "arguments: `n_trials` must be in [1, 1000000], but got n_trials=-1."),
        ({"n_trials": "3"}, "arguments: `n_trials` must be a whole number, but got '3' (a text)."),
        ({"n_trials": 2.5}, "arguments: `n_trials` must be a whole number, but got 2.5 (a number)."),
        ({"n_trials": True}, "arguments: `n_trials` must be a whole number, but got True (true or false)."),
        ({"concurrency": 0}, "arguments: `concurrency` must be at least 1, but got concurrency=0."),
        ({"concurrency": "all"}, "arguments: `concurrency` must be a whole number, but got 'all' (a text)."),
    ],
)
def test_arguments_that_are_none(arguments: dict[str, Any], told: str, write_study: Write, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"^{re.escape(told)}"):
        _planning.load_config(write_study(tmp_path), **arguments)


def test_a_range_that_the_method_does_not_take(write_study: Write, tmp_path: Path) -> None:
    path = write_study(tmp_path, space="[method.slimming]\nstrength = { low = 0.0, high = 0.1 }")
    told = f"{path}: space 'inline': [method.slimming]: `strength` must be in (0, 1], but got strength=0.0."
    with pytest.raises(ConfigError, match=f"^{re.escape(told)}$"):
        _planning.load_config(path)


@dataclass(frozen=True)
class Rounds(methods.Ranking):
    """A method with a hyper-parameter that is a whole number."""

    rounds: int = option(2, low=1, high=9, search={"low": 1, "high": 4, "step": 1})


def test_whole_numbers_are_searched_on_a_grid_of_them(
    write_study: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(methods.METHODS, "rounds", methods.NamedMethod("rounds", Rounds, GroupNorm))
    config = _planning.load_config(write_study(tmp_path, space='methods = ["rounds"]'))
    assert config.space.methods["rounds"]["rounds"].grid == (1.0, 2.0, 3.0, 4.0)
    path = write_study(tmp_path, space='methods = ["rounds"]\n[method.rounds]\nrounds = { low = 1, high = 4 }')
    told = r"`rounds` must be a whole number, but got 1.95\d+ \(a number\). Give `step = 1`, or a list `values`."
    with pytest.raises(ConfigError, match=told):
        _planning.load_config(path)


NORMLESS = """
import torch

def net():
    layers = torch.nn.Conv2d(1, 8, 3, padding=1), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(8 * 64, 10)
    return torch.nn.Sequential(*layers)
"""


def test_of_any_method_those_that_fit_the_network(
    write_study: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "planned_by_test.py").write_text(NORMLESS)

    def planned(space: str) -> set[str]:
        path = write_study(tmp_path, network='factory = "planned_by_test:net"', space=space)
        return set(api.plan(path).config.space.methods)

    assert planned('methods = ["*"]') == {"magnitude", "damage"}
    told = r"^\[space\] `methods`: 'scale' can't prune this network: there must be a BatchNorm with scales behind every"
    with pytest.raises(NetworkError, match=told):
        planned('methods = ["magnitude", "scale"]')
    # These act on filters where there are no scales.
    acting = ["slimming", "slimming_mcp", "halo", "implicit"]
    assert planned(f"methods = {json.dumps(acting)}") == {*acting}
    told = (
        r"^\[space\] `methods`: 'bwcp' can't prune this network: channels of group '0' must be written by convolutions"
    )
    with pytest.raises(NetworkError, match=told):
        planned('methods = ["slimming", "bwcp"]')


FROZEN = """
import torch
from autoprune.architectures import build

def net(*frozen):
    model = build("resnet_digits", n_classes=10, in_channels=1)
    for module in model.modules():
        if isinstance(module, frozen):
            module.requires_grad_(False)
    return model

def norms():
    return net(torch.nn.BatchNorm2d)

def filters():
    return net(torch.nn.Conv2d)

def everything():
    return net(torch.nn.Module)
"""


def test_what_is_frozen_decides_which_methods_there_are(
    write_study: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "frozen_by_test.py").write_text(FROZEN)

    def planned(network: str, space: str, **tables: str) -> set[str]:
        tables = {"train.sparsify": "epochs = 200", **tables}
        path = write_study(tmp_path, network=f'factory = "frozen_by_test:{network}"', space=space, **tables)
        return set(api.plan(path).config.space.methods)

    every = 'methods = ["*"]'
    assert planned("filters", every) == {"magnitude", "damage", "slimming", "resrep"}
    assert planned("norms", every) == {"magnitude", "damage", "resrep"}
    told = (
        r"^\[space\] `methods`: 'slimming' can't prune this network: some prunable channel must have a BatchNorm scale "
        r"that trains or, .* but the weights of 'bn1', .* are frozen \(`requires_grad` is False\)\. Let some of them"
    )
    with pytest.raises(NetworkError, match=told):
        planned("norms", 'methods = ["magnitude", "slimming"]')
    # What is not searched unasked may be set, and decides whether the method fits.
    own = 'methods = ["magnitude", "slimming"]\n[method.slimming]\nacts_on = '
    assert planned("norms", f'{own}"norms"') == {"magnitude", "slimming"}
    with pytest.raises(NetworkError, match=told):
        planned("norms", f'{own}["norms", "scales"]')
    with pytest.raises(NetworkError, match=r"'slimming' .* must have filters that train, but the weights of 'conv1',"):
        planned("filters", f'{own}"norms"')
    told = r"^a network must have a parameter that trains, but all of its \d+ are frozen \(`requires_grad` is False\)"
    with pytest.raises(NetworkError, match=told):
        planned("everything", every)
    assert planned("everything", every, **{"train.finetune": "epochs = 0"}) == {"magnitude", "damage", "resrep"}
    told = f"'aofp' can't prune this network: {told[1:]}"
    with pytest.raises(NetworkError, match=told):
        planned("everything", 'methods = ["aofp"]', **{"train.finetune": "epochs = 0"})


@dataclass(frozen=True)
class Broken(methods.Ranking):
    """A method that fails with an error of torch."""

    def attach(self, *args: Any, **how: Any) -> Any:
        raise RuntimeError("shapes do not fit.\nA second line")


def test_no_error_of_a_method_ends_a_launch_that_can_do_without(
    write_study: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(methods.METHODS, "broken", methods.NamedMethod("broken", Broken, GroupNorm))
    assert set(api.plan(write_study(tmp_path, space='methods = ["*"]')).config.space.methods) == {"magnitude", "damage"}
    assert "the method 'broken' failed on the network" in caplog.text
    told = "'broken' can't prune this network: its `attach` must prepare the network or raise NetworkError, but failed "
    with pytest.raises(NetworkError, match=f"{told}with RuntimeError: shapes do not fit. Use another method, or mend"):
        api.plan(write_study(tmp_path, space='methods = ["broken"]'))


def test_of_any_method_those_that_act_in_the_phase_and_go_with_the_recipe(write_study: Write, tmp_path: Path) -> None:
    def planned(space: str, *, recipe: str = 'epochs = 1\noptimizer = "adam"') -> set[str]:
        return set(api.plan(write_study(tmp_path, space=space, **{"train.sparsify": recipe})).config.space.methods)

    assert planned('methods = ["*"]') == {"magnitude", "damage"}
    assert planned('methods = ["*"]', recipe="epochs = 200") == {"slimming", "resrep", "magnitude", "damage"}
    assert planned('methods = ["*"]', recipe='epochs = 200\noptimizer = "adam"') == {"slimming", "magnitude", "damage"}
    with pytest.raises(NetworkError, match=r"'resrep' can't prune this network: resrep needs `optimizer` = 'sgd' in"):
        planned('methods = ["magnitude", "resrep"]')


def test_constraints_that_no_widths_keep(write_study: Write, tmp_path: Path) -> None:
    path = write_study(tmp_path, constraints="params = 100\nmacs_ratio = 0.5")
    with pytest.raises(
        InfeasibleError,
        match=r"\[constraints\] the widths must cost at most 100 parameters .* cost \d+ .*. Raise the limit",
    ):
        api.plan(path)
    path = write_study(tmp_path, constraints="params = 20_000\nmacs_ratio = 0.5")
    assert max(point["macs_target"] for point in api.plan(path).opening) == 0.5


def test_inspection(write_study: Write, tmp_path: Path) -> None:
    found = api.inspect(write_study(tmp_path))
    assert (found.network, found.inputs, found.macs, found.params) == (
        "resnet_digits", "1 x 8 x 8 images", 763_520, 77_754,
    )  # fmt: skip
    assert {group.name: group.width for group in found.groups} == {
        "conv1": 16, "layer1.0.conv1": 16, "layer2.0.conv1": 32,
        "layer2.0.conv2": 32, "layer3.0.conv1": 64, "layer3.0.conv2": 64,
    }  # fmt: skip
    # layer1.0.conv1 reaches two 3 x 3 convolutions of 16 x 16 channels at 8 x 8, all of which hang on it.
    share = next(group.macs_share for group in found.groups if group.name == "layer1.0.conv1")
    assert share == pytest.approx(2 * 9 * 16 * 16 * 64 / 763_520, rel=1e-12)
    assert 0 < found.least_macs_ratio < 0.01


def test_excluded_layers_are_no_groups(write_study: Write, tmp_path: Path) -> None:
    path = write_study(tmp_path, network='architecture = "resnet_digits"\nexclude = ["layer3"]\nmin_width = 8')
    found = api.inspect(path)
    assert not any(group.name.startswith("layer3") for group in found.groups)
    assert found.least_macs_ratio > 0.1


def test_a_plan(write_study: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    plan = api.plan(write_study(tmp_path), n_trials=15)
    assert plan.config.study.n_trials == 15
    assert len(plan.opening) == 5  # a third
    assert plan.opening[0] == {
        "method": "magnitude",
        "width_rule": "uniform",
        "macs_target": 1.0,
        "hyper": {},
        "shape": {},
    }
    assert {(point["method"], point["width_rule"]) for point in plan.opening[1:]} == {("magnitude", "global")}
    alone = api.plan(write_study(tmp_path, study='name = "s"\nn_trials = 15\ninherit = false'))
    assert len(alone.opening) == 5
    assert {point["method"] for point in alone.opening} == {"magnitude", "slimming"}
    assert {point["width_rule"] for point in alone.opening} == {"uniform", "global"}
    assert {path.name for path in tmp_path.iterdir()} == {"study.toml"}  # no database


def test_a_plan_knows_the_study_that_it_would_join(
    finished: Any, postgres: Postgres, write_study: Write, tmp_path: Path
) -> None:
    def joins(space: str, **tables: str) -> _planning.ExistingStudy | None:
        study = 'name = "digits"\nn_trials = 10\nlease_s = 600\nreference_point = { accuracy = 0.5, macs_ratio = 1.0 }'
        path = write_study(tmp_path, **{"study": study, "space": space, **tables})
        return api.plan(path, storage=finished.url).joins

    before, stored = finished.database.read_bytes(), 'methods = ["magnitude", "slimming"]\nmacs_target = {{ low = {} }}'
    targets = "0.1, high = 0.9, step = 0.1"
    assert joins(stored.format(targets)) == _planning.ExistingStudy(finished.url, 5, 1, ())
    narrower = stored.format("0.2, high = 0.9, step = 0.1")
    assert joins(narrower, resources="cpu = 2") == _planning.ExistingStudy(finished.url, 5, 1, ("space", "resources"))
    with pytest.raises(IdentityError, match=r"^the study 'digits' must stay .*`network` is .resnet_digits. there"):
        joins(stored.format(targets), network='architecture = "resnet20"')
    assert joins(stored.format(targets), study='name = "new"') is None
    assert finished.database.read_bytes() == before
    # No database yet, or one without tables.
    for storage in (f"sqlite:///{tmp_path}/none.db", postgres.blank()):
        assert api.plan(finished.file, storage=storage).joins is None
    with pytest.raises(StorageError, match="something else"):
        api.plan(finished.file, storage=f"sqlite:///{finished.file}")


def test_the_identity(write_study: Write, tmp_path: Path) -> None:
    def identity(**tables: str) -> dict[str, Any]:
        return dict(api.plan(write_study(tmp_path, **tables)).identity)

    first = identity()
    assert json.loads(json.dumps(first)) == first
    assert (first["network"], first["precision"]) == ("resnet_digits", "float32")
    assert (first["objectives"], first["reference point"]) == (
        ["accuracy", "macs_ratio"],
        {"accuracy": 0.5, "macs_ratio": 1.0},
    )

    def differing(**tables: str) -> set[str]:
        other = identity(**tables)
        assert other.keys() == first.keys()
        return {key for key in first if first[key] != other[key]}

    study = 'name = "digits"\n'
    point = "reference_point = { accuracy = 0.5, macs_ratio = 1.0 }\n"
    assert differing() == set()
    assert differing(study=f'{study}n_trials = 99\nsampler = "random"\n{point}') == set()  # what may change
    assert differing(space="macs_target = { low = 0.3, high = 0.8 }") == set()
    assert differing(**{"train.finetune": "epochs = 3"}) == set()
    assert differing(resources="cpu = 2") == set()
    assert differing(study=f"{study}reference_point = {{ accuracy = 0.4, macs_ratio = 1.0 }}") == {"reference point"}
    assert differing(study=f"{study}seed = 1\n{point}") == {"dense weights"}  # other dense weights are trained
    assert differing(**{"train.dense": "epochs = 3"}) == {"dense weights"}
    assert differing(data='source = "digits"\nvalidation = "last:100"') >= {"split", "dense weights"}
    assert differing(network='architecture = "resnet_digits"\nexclude = ["layer3"]') >= {"excluded layers"}
    assert differing(network='architecture = "resnet20"') >= {"network", "cost", "dense weights"}


RMSE = 'name = "digits"\nreference_point = {{ rmse = {}, macs_ratio = 1.0 }}'


def test_metric_and_direction_are_part_of_the_identity(finished: Any, write_study: Write, tmp_path: Path) -> None:
    plan = api.plan(write_study(tmp_path, study=RMSE.format(2.0), **TABLES), storage=f"sqlite:///{tmp_path}/none.db")
    assert plan.identity["objectives"] == ["rmse", "macs_ratio"]
    assert plan.identity["reference point"] == {"rmse": 2.0, "macs_ratio": 1.0}
    assert plan.identity["direction"] == "minimize"
    before = finished.database.read_bytes()
    with pytest.raises(IdentityError) as caught:
        api.plan(write_study(tmp_path, study=RMSE.format(0.5), **TABLES), storage=finished.url)
    told = '`objectives` is ["accuracy: maximize", "macs_ratio: minimize"] there and ["rmse: minimize", "macs_ratio: '
    assert str(caught.value).startswith("the study 'digits' must stay the study that it was, but " + told)
    assert finished.database.read_bytes() == before


def test_a_study_by_rmse_opens_like_one_by_accuracy(write_study: Write, tmp_path: Path) -> None:
    by_rmse = api.plan(write_study(tmp_path, study=RMSE.format(2.0), **TABLES))
    by_accuracy = api.plan(write_study(tmp_path, study='name = "a"'))
    assert by_rmse.opening == by_accuracy.opening


def test_what_can_not_be_reached(write_study: Write, tmp_path: Path) -> None:
    network = 'architecture = "resnet_digits"\nmin_width = 64'
    path = write_study(tmp_path, network=network, space="macs_target = { values = [0.2, 0.4] }")
    with pytest.raises(
        ConfigError,
        match=r"^`macs_target` must reach 1\.0000, the MACs ratio of the minimum widths, but ends at 0\.4\.",
    ):
        api.plan(path)
    with pytest.raises(
        DataError, match=r"^the network must accept the data's images of shape \(1, 8, 8\), but failed on them: "
    ):
        api.plan(write_study(tmp_path, network='architecture = "vgg16"'))


def test_a_file_that_changed_is_read_again(write_study: Write, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    from autoprune import architectures

    weights = architectures.build("resnet_digits", n_classes=10, in_channels=1).state_dict()
    path = write_study(tmp_path, network='architecture = "resnet_digits"\nweights = "w.safetensors"')
    save_file(weights, tmp_path / "w.safetensors")
    first, again = api.plan(path).identity["dense weights"], api.plan(path).identity["dense weights"]
    weights["conv1.weight"] += 1
    save_file(weights, tmp_path / "w.safetensors")
    assert first == again != api.plan(path).identity["dense weights"]  # as in a notebook: one process
