"""Files of weights as people bring them: what is plain tensors is read, all else is refused by what it is."""

import argparse
import logging
import zipfile

import numpy as np
import pytest
import torch
from torch import nn

from autoprune.engine.files import load_given, read_tensors
from autoprune.errors import WeightsError

torch.set_num_threads(1)


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.fc = nn.Linear(4, 2)

    def forward(self, x):
        return self.fc(self.norm(self.conv(x)).mean((2, 3)))


class Wrapped(nn.Module):
    """A network all of whose names begin alike."""

    def __init__(self):
        super().__init__()
        self.model = Small()


def made(cls=Small, seed=1):
    torch.manual_seed(seed)
    return cls()


def assert_same(state, other):
    assert set(state) == set(other)
    assert all(torch.equal(tensor, other[name]) for name, tensor in state.items())


def prefixed(state, prefix):
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


# -- containers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_zip", [True, False])
def test_files_of_before_1_6_are_read_as_newer_ones(tmp_path, is_zip):
    state = made().state_dict()
    torch.save(state, tmp_path / "net.pth", _use_new_zipfile_serialization=is_zip)
    assert zipfile.is_zipfile(tmp_path / "net.pth") == is_zip
    assert_same(read_tensors(tmp_path / "net.pth"), state)


@pytest.mark.parametrize("is_zip", [True, False])
@pytest.mark.parametrize("name", ["state_dict", "model_state_dict", "model", "net", "model_ema"])
def test_the_state_dict_of_a_checkpoint(tmp_path, name, is_zip, caplog):
    model = made()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    model(torch.ones(2, 1, 4, 4)).sum().backward()
    optimizer.step()
    checkpoint = {"epoch": 3, name: model.state_dict(), "optimizer": optimizer.state_dict(), "best": 0.5}
    torch.save(checkpoint, tmp_path / "a.pt", _use_new_zipfile_serialization=is_zip)
    with caplog.at_level(logging.WARNING):
        assert_same(read_tensors(tmp_path / "a.pt"), model.state_dict())
    assert f"a.pt the entry '{name}' is read, and not 'epoch', 'optimizer', 'best'" in caplog.text


def test_the_plain_weights_come_before_their_average(tmp_path):
    model, average = made(), made(seed=2)
    torch.save({"model_ema": average.state_dict(), "model": model.state_dict()}, tmp_path / "a.pt")
    assert_same(read_tensors(tmp_path / "a.pt"), model.state_dict())


def test_a_checkpoint_in_a_checkpoint(tmp_path):
    torch.save({"model": {"state_dict": made().state_dict(), "arch": "small"}}, tmp_path / "a.pt")
    assert_same(read_tensors(tmp_path / "a.pt"), made().state_dict())


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ({}, r"must hold a state_dict, but holds nothing"),
        ([torch.ones(1)], r"must hold a state_dict, but holds a list"),
        (torch.ones(1), r"must hold a state_dict, but holds a Tensor"),
        ({"a": torch.ones(1), "epoch": 3}, r"flat state_dict, but its entry 'epoch' is a int\. Save the state_dict"),
        (
            {"generator": {"weight": torch.ones(1)}},
            r"its entry 'generator' is a dict\. If .*: torch\.save\(.*\['generator'\], '.*a_weights\.pt'\)",
        ),
    ],
)  # fmt: skip
def test_what_holds_no_state_dict(tmp_path, content, told):
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(WeightsError, match=told):
        read_tensors(tmp_path / "a.pt")


def test_an_archive_that_only_looks_like_one(tmp_path):
    """Whatever `zipfile` stumbles over, such as a name that says to be UTF-8 and is not."""
    torch.save({"a": torch.ones(1)}, tmp_path / "a.pt")
    content = bytearray((tmp_path / "a.pt").read_bytes())
    entry = content.rindex(b"PK\x01\x02")
    content[entry + 9] |= 0x08  # Of its flags the one that says UTF-8.
    content[entry + 46] = 0x88
    (tmp_path / "a.pt").write_bytes(content)
    with pytest.raises(WeightsError, match=r"must be a whole \.pt file, but can't be read \(UnicodeDecodeError\)"):
        read_tensors(tmp_path / "a.pt")


def test_an_optimizer_s_state(tmp_path):
    torch.save(torch.optim.Adam(made().parameters()).state_dict(), tmp_path / "a.pt")
    with pytest.raises(WeightsError, match=r"a network's state_dict, but holds an optimizer's \(`state`, `param_gr"):
        read_tensors(tmp_path / "a.pt")


# -- what could run code --------------------------------------------------------------------------------------------


def advised(error):
    """Run the line of Python that a message ends with, as its reader would."""
    line = str(error.value).partition("trust it: ")[2]
    exec(line, {"torch": torch})
    return line.rpartition("'")[0].rpartition("'")[2]


@pytest.mark.parametrize("is_zip", [True, False])
@pytest.mark.parametrize(
    ("content", "told"),
    [
        (lambda: made(), r"it is a whole network \(.*Small, .*torch\.nn\.modules\.conv\.Conv2d, \.\.\.\), which can"),
        (
            lambda: {"model": made().state_dict(), "args": argparse.Namespace(lr=0.1)},
            r"it is a checkpoint with other objects \(argparse\.Namespace\), which can run code when loaded",
        ),
        (
            lambda: {"best": np.float64(0.5), "state_dict": made().state_dict()},
            r"it is a checkpoint with other objects \(numpy.*scalar.*\), which can run code when loaded",
        ),
        (lambda: {"model": made(), "epoch": 3}, r"it is a checkpoint with other objects \(.*Small.*\), which can run"),
    ],
)  # fmt: skip
def test_the_line_that_a_refusal_advises_makes_a_file_that_is_read(tmp_path, content, told, is_zip):
    torch.save(content(), tmp_path / "a.pt", _use_new_zipfile_serialization=is_zip)
    with pytest.raises(WeightsError, match=told) as error:
        read_tensors(tmp_path / "a.pt")
    assert_same(read_tensors(tmp_path / advised(error)), made().state_dict())


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_what_a_pickle_holds_is_named_whatever_its_protocol(tmp_path, protocol):
    """Later ones say a name once and point to it."""
    content = {"model": made().state_dict(), "args": argparse.Namespace(a=1), "also": [argparse.ArgumentError, Small]}
    torch.save(content, tmp_path / "a.pt", pickle_protocol=protocol)
    named = r"\(argparse\.Namespace, argparse\.ArgumentError, .*\.Small\)"
    with pytest.raises(WeightsError, match=rf"with other objects {named}, which can"):
        read_tensors(tmp_path / "a.pt")


def test_programs_are_told_from_weights(tmp_path):
    model, example = made().eval(), torch.ones(2, 1, 4, 4)
    torch.export.save(torch.export.export(model, (example,)), tmp_path / "b.pt2")
    with pytest.raises(WeightsError, match=r"must hold plain tensors only, but is a program of torch\.export") as error:
        read_tensors(tmp_path / "b.pt2")
    assert_same(read_tensors(tmp_path / advised(error)), model.state_dict())


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_torch_script_is_told_from_weights(tmp_path):
    torch.jit.save(torch.jit.trace(made().eval(), torch.ones(2, 1, 4, 4)), tmp_path / "a.pt")
    with pytest.raises(WeightsError, match=r"must hold plain tensors only, but is a program of TorchScript") as error:
        read_tensors(tmp_path / "a.pt")
    assert_same(read_tensors(tmp_path / advised(error)), made().eval().state_dict())


# -- names ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.", "module._orig_mod.", "_orig_mod.module."])
def test_a_prefix_that_all_names_share_is_taken_off(tmp_path, prefix, caplog):
    torch.save(prefixed(made().state_dict(), prefix), tmp_path / "a.pth")
    model = made(seed=2)
    with caplog.at_level(logging.WARNING):
        load_given(model, tmp_path / "a.pth")
    assert_same(model.state_dict(), made().state_dict())
    assert f"the tensor '{prefix}conv.weight' is read as 'conv.weight', and all others likewise" in caplog.text


def test_what_wrappers_of_torch_save(tmp_path):
    """As they name it themselves, not as we think that they do."""
    saved = {
        "parallel": nn.DataParallel(made()).state_dict(),
        "compiled": torch.compile(made()).state_dict(),
        "average": torch.optim.swa_utils.AveragedModel(made(), use_buffers=True).state_dict(),
    }
    inner = made()
    inner.conv = torch.compile(inner.conv)
    saved["compiled inside"] = inner.state_dict()
    for name, state in saved.items():
        assert set(state) != set(made().state_dict())
        torch.save(state, tmp_path / f"{name}.pth")
        model = made(seed=2)
        load_given(model, tmp_path / f"{name}.pth")
        assert_same(model.state_dict(), made().state_dict())


def test_names_that_are_the_network_s_own_stay(tmp_path, caplog):
    torch.save(made(Wrapped).state_dict(), tmp_path / "a.pth")
    model = made(Wrapped, seed=2)
    load_given(model, tmp_path / "a.pth")
    assert_same(model.state_dict(), made(Wrapped).state_dict())
    assert caplog.text == ""


def test_a_prefix_that_the_network_alone_has_is_put_before(tmp_path):
    torch.save(made().state_dict(), tmp_path / "a.pth")
    model = made(Wrapped, seed=2)
    load_given(model, tmp_path / "a.pth")
    assert_same(model.model.state_dict(), made().state_dict())


def test_names_that_do_not_fit_are_told_without_their_prefix(tmp_path):
    state = prefixed({**made().state_dict(), "fc.weight": torch.ones(1000, 4)}, "module.")
    del state["module.fc.bias"]
    torch.save({**state, "module.head.bias": torch.ones(1)}, tmp_path / "a.pth")
    with pytest.raises(WeightsError, match=r"lacks fc\.bias; has unknown head\.bias; fc\.weight is \(1000, 4\) "):
        load_given(made(), tmp_path / "a.pth")
