"""Networks that are compiled for their training."""

from __future__ import annotations

import dataclasses
import logging

import pytest
import torch
from torch import nn

from autoprune.config import TrainSpec
from autoprune.engine.images import Preprocess
from autoprune.engine.training import ImageFeed, Runtime, Training
from tests.engine.training.test_teams import Images

PLAIN = Runtime(torch.device("cpu"), "float32", Preprocess((0.5,), (0.25,)))
SPEC = TrainSpec(epochs=1, batch=9, learning_rate=0.1)


def network() -> nn.Module:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(6)
    return nn.Sequential(nn.Conv2d(1, 6, 3, bias=False), norm, nn.ReLU(), nn.Flatten(), nn.Linear(216, 3))


def moved(runtime: Runtime) -> dict[str, torch.Tensor]:
    """The weights after two steps of three."""
    training = Training(network(), ImageFeed(Images()), SPEC, runtime=runtime, seed=0)
    training.run(until=2)
    return {key: each for key, each in training.state_dict().items() if key.startswith("model:")}


def compiler_calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Compile by what needs no C++ compiler, and take down how often."""
    import torch._dynamo

    calls: list[str] = []
    compiled = torch.compile

    def backend(graph: torch.fx.GraphModule, inputs: object) -> object:
        calls.append("compiled")
        return graph.forward

    monkeypatch.setattr(torch, "compile", lambda model, **options: compiled(model, backend=backend, **options))
    torch._dynamo.reset()
    return calls


@pytest.mark.filterwarnings("default")
def test_a_phase_that_is_long_enough_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    calls, plain = compiler_calls(monkeypatch), moved(PLAIN)
    assert calls == []
    found = moved(dataclasses.replace(PLAIN, compiled_from=3))
    assert calls != []
    assert plain.keys() == found.keys()
    for key, tensor in plain.items():
        torch.testing.assert_close(found[key], tensor)
    calls.clear()
    moved(dataclasses.replace(PLAIN, compiled_from=4))
    assert calls == []


@pytest.mark.filterwarnings("default")
def test_what_can_not_be_compiled_is_trained_as_it_is(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(graph: torch.fx.GraphModule, inputs: object) -> object:
        raise RuntimeError("this machine has no compiler")

    compiled = torch.compile
    monkeypatch.setattr(torch, "compile", lambda model, **options: compiled(model, backend=broken, **options))
    torch._dynamo.reset()
    with caplog.at_level(logging.WARNING):
        found = moved(dataclasses.replace(PLAIN, compiled_from=1))
    assert "trained as it is, since it can't be compiled" in caplog.text
    for key, tensor in moved(PLAIN).items():
        torch.testing.assert_close(found[key], tensor)
