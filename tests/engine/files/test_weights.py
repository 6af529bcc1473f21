"""Weights go to disk and back bit for bit; pickles, damage and misfits are refused by name."""

import hashlib
import json
import os
import pickle
import threading
import zipfile

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from autoprune.engine.files import keep_weights, load_into, publish, read_tensors, sha256_of
from autoprune.errors import WeightsError

torch.set_num_threads(1)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 2))


class Bomb:
    """Leaves a file where a pickle of it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


# -- publish and read -----------------------------------------------------------------------------------------------


def test_round_trip(tmp_path):
    state = {
        **network().state_dict(),
        "half": torch.tensor([1.5, -0.25], dtype=torch.bfloat16),
        "odd": torch.tensor([float("nan"), float("inf"), -0.0]),
        "scalar": torch.tensor(3),
        "view": torch.arange(24.0).reshape(2, 3, 2, 2).to(memory_format=torch.channels_last)[:, 1:],
        "trained": nn.Parameter(torch.ones(2)),
    }
    path = tmp_path / "new" / "folder" / "net.safetensors"
    sha256 = publish(path, state, {"accuracy": 0.5, "widths": {"conv1": 3}})
    got = read_tensors(path)
    assert set(got) == set(state)
    for name, tensor in state.items():
        assert got[name].dtype == tensor.dtype
        assert got[name].shape == tensor.shape
        assert torch.equal(got[name], tensor) or name == "odd"
    assert got["odd"].view(torch.int32).tolist() == state["odd"].view(torch.int32).tolist()
    assert sha256 == sha256_of(path) == hashlib.sha256(path.read_bytes()).hexdigest()
    assert json.loads(path.with_suffix(".json").read_text()) == {
        "accuracy": 0.5, "sha256": sha256, "widths": {"conv1": 3},
    }  # fmt: skip
    assert sorted(entry.name for entry in path.parent.iterdir()) == ["net.json", "net.safetensors"]


def test_a_header_of_any_size(tmp_path):
    """The file begins with it; pickles begin with 0x80."""
    found = set()
    for length in range(1, 300, 8):
        path = tmp_path / f"{length}.safetensors"
        publish(path, {"x" * length: torch.ones(2)}, {})
        found.add(path.read_bytes()[0])
        assert read_tensors(path)["x" * length].tolist() == [1.0, 1.0]
    assert 0x80 in found


def test_same_tensors_make_the_same_bytes(tmp_path):
    one, other = publish(tmp_path / "a.safetensors", network().state_dict(), {}), None
    other = publish(tmp_path / "b.safetensors", dict(reversed(network().state_dict().items())), {})
    assert one == other


def test_one_layer_under_two_names(tmp_path):
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(2, 2)
            self.again = self.first

    model = Shared()
    publish(tmp_path / "shared.safetensors", model.state_dict(), {})
    got = read_tensors(tmp_path / "shared.safetensors")
    assert torch.equal(got["first.weight"], got["again.weight"])
    load_into(Shared(), got, source="here")


def test_a_later_result_replaces_an_earlier_one(tmp_path):
    path = tmp_path / "net.safetensors"
    publish(path, {"x": torch.zeros(2)}, {"n": 1})
    publish(path, {"x": torch.ones(2)}, {"n": 2})
    assert read_tensors(path)["x"].tolist() == [1.0, 1.0]
    assert json.loads(path.with_suffix(".json").read_text())["n"] == 2


def test_readers_never_see_half_a_file(tmp_path):
    path = tmp_path / "net.safetensors"
    values = [torch.full((50_000,), float(i)) for i in range(4)]
    publish(path, {"x": values[0]}, {})
    failed, done = [], threading.Event()

    def read():
        while not done.is_set():
            try:
                x = read_tensors(path)["x"]
                json.loads(path.with_suffix(".json").read_text())
            except Exception as error:
                failed.append(error)
                return
            if len(x) != 50_000 or len(x.unique()) != 1:
                failed.append(x)

    def write(value):
        for _ in range(20):
            publish(path, {"x": value}, {})

    reader, writers = threading.Thread(target=read), [threading.Thread(target=write, args=(v,)) for v in values]
    for thread in (reader, *writers):
        thread.start()
    for writer in writers:
        writer.join()
    done.set()
    reader.join()
    assert failed == []
    assert len(list(tmp_path.iterdir())) == 2


def test_a_plain_pt_file_is_read(tmp_path):
    state = network().state_dict()
    torch.save(state, tmp_path / "net.pt")
    got = read_tensors(tmp_path / "net.pt")
    assert all(torch.equal(got[name], tensor) for name, tensor in state.items())


# -- what is refused ------------------------------------------------------------------------------------------------


def test_a_pickle_of_an_object_does_not_run(tmp_path):
    trace = tmp_path / "ran"
    torch.save({"weight": torch.ones(1), "bomb": Bomb(trace)}, tmp_path / "zip.pt")
    torch.save({"bomb": Bomb(trace)}, tmp_path / "legacy.pt", _use_new_zipfile_serialization=False)
    (tmp_path / "plain.safetensors").write_bytes(pickle.dumps(Bomb(trace)))
    for name in ("zip.pt", "legacy.pt", "plain.safetensors"):
        with pytest.raises(WeightsError, match=r"must hold plain tensors only, but it is a pickle .*mkdir.* can run"):
            read_tensors(tmp_path / name)
    assert not trace.exists()
    pickle.loads((tmp_path / "plain.safetensors").read_bytes())
    assert trace.exists()  # The bomb is one.


@pytest.mark.parametrize("kept", [0, 1, 7, 8, 100, -1])
def test_truncated_files(tmp_path, kept):
    save_file(network().state_dict(), tmp_path / "whole.safetensors")
    torch.save(network().state_dict(), tmp_path / "whole.pt")
    for name in ("whole.safetensors", "whole.pt"):
        path = tmp_path / f"cut_{name}"
        path.write_bytes((tmp_path / name).read_bytes()[:kept])
        with pytest.raises(WeightsError, match=f"cut_{name} must be a safetensors file"):
            read_tensors(path)


def test_a_zip_that_is_no_checkpoint(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.pt", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(WeightsError, match=r"must be a whole \.pt file, but can't be read \(RuntimeError\)"):
        read_tensors(tmp_path / "a.pt")


def test_a_missing_file(tmp_path):
    with pytest.raises(WeightsError, match=r"there is no file .*nothing\.safetensors\. Check the path"):
        read_tensors(tmp_path / "nothing.safetensors")
    with pytest.raises(WeightsError, match="there is no file"):
        read_tensors(tmp_path)


# -- load_into ------------------------------------------------------------------------------------------------------


def test_loads_all_of_them():
    model, other = network(), network()
    with torch.no_grad():
        for tensor in other.state_dict().values():
            tensor.add_(1)
    load_into(model, other.state_dict(), source="x.pt")
    assert all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in model.state_dict().items())


def test_batch_counters_may_be_missing():
    state = {name: tensor for name, tensor in network().state_dict().items() if "num_batches" not in name}
    model = network()
    model[1].num_batches_tracked.fill_(7)
    load_into(model, state, source="x.pt")
    assert model[1].num_batches_tracked.item() == 7


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"0.weight": None}, r"lacks 0\.weight\. Check architecture and n_classes\."),
        ({"0.weight": None, "0.bias": None, "1.bias": None, "3.bias": None}, r"0\.bias, 1\.bias and 1 more"),
        ({"head.weight": torch.ones(1)}, r"has unknown head\.weight\."),
        ({"3.weight": torch.ones(10, 16)}, r"3\.weight is \(10, 16\) instead of \(2, 16\)\. Check architecture and"),
        ({"0.bias": None, "x": torch.ones(1), "3.bias": torch.ones(3)}, r"lacks 0\.bias; has unknown x; 3\.bias is \("),
    ],
)  # fmt: skip
def test_misfits_are_named(change, told):
    state = {name: tensor for name, tensor in {**network().state_dict(), **change}.items() if tensor is not None}
    model = network()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(WeightsError, match=rf"^weights: x\.pt must fit the network, but .*{told}"):
        load_into(model, state, source="x.pt")
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_weights_without_a_record_are_named_by_their_hash(tmp_path):
    shared = torch.randn(3, 4)
    tensors = {"a": shared, "b": shared, "c": shared.t()}
    path = keep_weights(tmp_path / "given", tensors)
    assert path == keep_weights(tmp_path / "given", tensors) != keep_weights(tmp_path / "given", {"a": shared + 1})
    assert sorted(file.suffix for file in path.parent.iterdir()) == [".safetensors"] * 2
    again = read_tensors(path)
    assert all(torch.equal(again[name], tensor) for name, tensor in tensors.items())
