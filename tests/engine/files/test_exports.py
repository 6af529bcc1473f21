"""Exported files answer as the network did, where there is no autoprune, at any batch size."""

import sys

import numpy as np
import pytest
import torch
from torch import nn

from autoprune.architectures import build
from autoprune.engine.files import export
from autoprune.engine.surgery import cut
from autoprune.engine.tracing import trace
from autoprune.errors import ConfigError, TrialError
from tests.elsewhere import answers
from tests.real_trials import ConcatDepthwise

torch.set_num_threads(1)

SHAPES = {"resnet20": (3, 32, 32), "concat_depthwise": (1, 8, 8)}
ENDINGS = {".pt2": 1e-4, ".onnx": 1e-4, ".py": 1e-6}  # with the share of the largest logit that is allowed
BATCHES = (1, 5)


def images(shape, n, seed=0):
    return torch.randn(n, *shape, generator=torch.Generator().manual_seed(seed))


def shaken(model):
    """Statistics of its own for every channel: fresh ones are alike and would hide a wrong one."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.copy_(torch.randn(module.num_features, generator=generator) * 0.3)
                module.running_var.copy_(torch.rand(module.num_features, generator=generator) + 0.5)
                module.weight.copy_(torch.rand(module.num_features, generator=generator) + 0.5)
    return model


def pruned(name):
    torch.manual_seed(0)
    dense = ConcatDepthwise() if name == "concat_depthwise" else build(name, n_classes=10, in_channels=3)
    dense = shaken(dense).eval()
    traced = trace(dense, images(SHAPES[name], 1))
    generator = np.random.default_rng(1)
    kept = {
        group.name: np.sort(generator.choice(group.width, size=max(1, group.width * 5 // 8), replace=False))
        for group in traced.groups
    }
    small = cut(dense, traced.groups, kept)
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in dense.parameters())
    return small


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """By network and ending: the share that `export` measured; by batch size also the network's and file's logits."""
    folder = tmp_path_factory.mktemp("exported")
    jobs, expected, measured = {}, {}, {}
    for name, shape in SHAPES.items():
        model = pruned(name)
        for ending in ENDINGS:
            path = folder / f"{name}{ending}"
            measured[name, ending] = export(model, images(shape, 4), path)
            for batch in BATCHES:
                jobs[path, batch] = x = images(shape, batch, seed=batch)
                with torch.no_grad():
                    expected[path, batch] = model(x)
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        f"{n}{e}" for n in SHAPES for e in [*ENDINGS, ".pt"]
    )
    got = answers(jobs, tmp_path_factory.mktemp("passed"))
    pairs = {(path.stem, path.suffix, batch): (expected[path, batch], got[path, batch]) for path, batch in jobs}
    return measured, pairs


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("name", SHAPES)
def test_a_file_answers_as_its_network_without_autoprune(exported, name, ending, batch):
    measured, pairs = exported
    expected, got = pairs[name, ending, batch]
    assert got.shape == expected.shape == (batch, 10)
    assert float(expected.std()) > 1e-3  # it does answer
    assert float((got - expected).abs().max()) <= ENDINGS[ending] * float(expected.abs().max())
    assert measured[name, ending] <= ENDINGS[ending]


def test_the_network_is_left_as_it_is(tmp_path):
    model = ConcatDepthwise().double().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    export(model, images((1, 8, 8), 2).double(), tmp_path / "deep" / "er" / "net.pt2")
    assert model.training
    for name, tensor in model.state_dict().items():
        assert tensor.dtype == before[name].dtype
        assert torch.equal(tensor, before[name])


@pytest.mark.parametrize("name", ["net.pth", "net", "net.safetensors", "net.PT2"])
def test_another_ending_is_refused(tmp_path, name):
    with pytest.raises(ConfigError, match=r"`--to` must end in .*\.onnx, but got"):
        export(ConcatDepthwise(), images((1, 8, 8), 2), tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_onnx_without_its_packages_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ConfigError, match=r"pip install autoprune\[export\]"):
        export(ConcatDepthwise(), images((1, 8, 8), 2), tmp_path / "net.onnx")
    assert list(tmp_path.iterdir()) == []


def test_source_that_answers_otherwise_leaves_neither_of_its_files(tmp_path, monkeypatch):
    from autoprune.engine.files import exports as module

    written = module._py

    def wrong(model, inputs, path, *, about):
        return [answer * (1 + 3e-6) for answer in written(model, inputs, path, about=about)]

    monkeypatch.setattr(module, "_py", wrong)
    with torch.no_grad(), pytest.raises(TrialError, match=r"net\.py differs by 3\..e-06 of the largest logit"):
        export(ConcatDepthwise().eval(), images((1, 8, 8), 2), tmp_path / "net.py")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_answers_otherwise_is_not_left_behind(tmp_path, monkeypatch):
    from autoprune.engine.files import exports as module

    def wrong(model, inputs, path):
        path.write_bytes(b"half a file")
        return [model(*inputs.args) * (1 + 2e-4)]

    monkeypatch.setattr(module, "_pt2", wrong)
    (tmp_path / "net.pt2").write_bytes(b"an older one")
    with torch.no_grad(), pytest.raises(TrialError, match=r"net\.pt2 differs by 2\.0e-04 of the largest logit"):
        export(ConcatDepthwise().eval(), images((1, 8, 8), 2), tmp_path / "net.pt2")
    assert [path.name for path in tmp_path.iterdir()] == ["net.pt2"]
    assert (tmp_path / "net.pt2").read_bytes() == b"an older one"
